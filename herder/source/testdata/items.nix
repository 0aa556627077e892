# Four small items for a store without nixpkgs or sandbox: app refers to itself, to dep and to a text that is addressed by content;
# its output dev refers to app. "wide" gives many items for those who want to read while they are made.
{ wide ? 0, salt ? "" }:
let
  text = builtins.toFile "note.txt" "a text that names nothing\n";
  build = name: script: extra: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
  } // extra);
  dep = build "dep-1.0" "read -r line < ${text}; echo \"$line\" > $out" { };
  app = build "app+x-1.0" "echo '${dep} ${text}' \"$out\" > $out; echo \"for $out\" > $dev" { outputs = [ "out" "dev" ]; };
in
if wide == 0 then { inherit dep app; dev = app.dev; }
else builtins.genList (i: build "wide-${toString i}" "echo ${dep} ${salt} ${toString i} > $out" { }) wide

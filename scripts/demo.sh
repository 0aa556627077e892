#!/usr/bin/env bash
# Shows a herder with its real peers, step by step: a nix-daemon builds three items, Narfold publishes and serves them, and the
# stock Nix client installs them over HTTP into an empty store and runs the program; first out of a directory, then out of an S3
# bucket; and it refuses what was tampered with. Everything happens in one new folder and on the loopback address, and is removed at
# the end. Any answer that is not the one claimed ends the demo with an error. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

narfold=$PWD/narfold
s3server=$PWD/.cache/bin/versitygw

die() {
  printf '\ndemo: FAILED: %s\n' "$*" >&2
  exit 1
}

for program in "$narfold" "$s3server" nix-daemon nix-store nix-build curl pgrep; do
  command -v "$program" > /dev/null || die "$program is missing; run make demo, which builds and installs what is needed"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/narfold-demo.XXXXXX")
out=$work/out
declare -A pids=()
cd "$work"

# stop ends a program that start has started, and waits for it.
stop() {
  local pid=${pids[$1]:-}
  [ -n "$pid" ] || return 0
  unset "pids[$1]"
  # A nix-daemon has a process for each connection.
  local children
  children=$(pgrep -P "$pid" || true)
  # shellcheck disable=SC2086 # one word for each process
  kill "$pid" $children 2> /dev/null || true
  wait "$pid" 2> /dev/null || true
}

cleanup() {
  local code=$? name
  trap - EXIT INT TERM HUP
  for name in "${!pids[@]}"; do
    stop "$name"
  done
  if [ "$code" -ne 0 ]; then
    for name in "$work"/*.log; do
      [ -s "$name" ] || continue
      printf 'demo: the end of what %s said:\n' "$(basename "$name" .log)" >&2
      tail -n 15 "$name" >&2
    done
  fi
  # Store items are read-only folders.
  chmod -R u+w "$work" 2> /dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

bold='' dim='' plain=''
if [ -t 1 ]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

number=0
step() {
  number=$((number + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$number" "$*" "$plain"
}

# command_line prints words as one would type them.
command_line() {
  local word line='' mark=${ampersand:-}
  for word in "$@"; do
    case $word in
      '' | *[!a-zA-Z0-9_./:=@%+,-]*) line+=" '${word//\'/\'\\\'\'}'" ;;
      *) line+=" $word" ;;
    esac
  done
  line=${line/# $narfold / narfold }
  line=${line/# $s3server / versitygw }
  printf '   %s$%s%s%s\n' "$dim" "$line" "$mark" "$plain"
}

result() { sed 's/^/     /' "$out"; }

# run shows a command and what it answers, which must be success.
run() {
  command_line "$@"
  if ! "$@" > "$out" 2>&1; then
    result
    die "this should have succeeded"
  fi
  result
}

# refused shows a command that must fail, and must say why.
refused() {
  local reason=$1 code=0
  shift
  command_line "$@"
  "$@" > "$out" 2>&1 || code=$?
  grep -F -- "$reason" "$out" | head -n 3 | sed 's/^/     /' || true
  [ "$code" -ne 0 ] || die "this should have been refused, and succeeded"
  grep -qF -- "$reason" "$out" || {
    result
    die "this should have been refused because of: $reason"
  }
  printf '     (exit code %d)\n' "$code"
}

# seen makes sure of the last answer.
seen() {
  grep -qF -- "$1" "$out" || die "want this in the answer: $1"
}

# start runs a program in the background, and keeps what it says in a log.
start() {
  local name=$1
  shift
  ampersand=' &' command_line "$@"
  "$@" > "$work/$name.log" 2>&1 &
  pids[$name]=$!
}

# until_true waits until a condition holds, while the program lives, for half a minute at most.
until_true() {
  local name=$1 i
  shift
  for ((i = 0; i < 300; i++)); do
    ! "$@" > /dev/null 2>&1 || return 0
    kill -0 "${pids[$name]}" 2> /dev/null || return 1
    sleep 0.1
  done
  return 1
}

has_address() { grep -q 'msg=serving address=' "$work/$1.log"; }
is_socket() { [ -S "$1" ]; }

# serve starts a herder on a free port and sets url.
serve() {
  local name=$1
  shift
  start "$name" "$narfold" herder run "$@" --listen 127.0.0.1:0
  until_true "$name" has_address "$name" || die "the herder does not start"
  url=http://$(sed -n 's/.*msg=serving address=\([0-9.:]*\).*/\1/p' "$work/$name.log" | head -n 1)
  until_true "$name" curl -sf "$url/readyz" || die "the herder is not ready"
  printf '     it serves on %s\n' "$url"
}

# new_user makes an empty Nix installation, configured as a user of url would, where the last one was.
new_user() {
  chmod -R u+w "$nix" 2> /dev/null || true
  rm -rf "$nix"
  mkdir -p "$nix"/{store,var/nix,var/log,etc,home,cache}
  cat > "$nix/etc/nix.conf" << CONF
substituters = $url
trusted-public-keys = $1
require-sigs = true
build-users-group =
CONF
  printf '     nix/etc/nix.conf:\n'
  sed 's/^/       /' "$nix/etc/nix.conf"
  [ -z "$(ls -A "$nix/store")" ] || die "the new store is not empty"
}

installed() {
  run nix-store -r "$hello"
  seen "copying path '$hello' from '$url'"
  run ls "$nix/store"
  for item in "${closure[@]}"; do
    seen "$(basename "$item")"
  done
  run nix-store --verify --check-contents
  run "$hello/bin/hello"
  [ "$(cat "$out")" = "Hello from three store items" ] || die "the program said something else"
}

# The stock programs of Nix are told by these variables to leave /nix alone. Store paths follow from the store's folder, so that the
# builder and the users, which are different machines in life, take turns in one place.
nix=$work/nix
export NIX_STORE_DIR=$nix/store NIX_STATE_DIR=$nix/var/nix NIX_LOG_DIR=$nix/var/log NIX_LOCALSTATE_DIR=$nix/var NIX_CONF_DIR=$nix/etc
export HOME=$nix/home XDG_CACHE_HOME=$nix/cache NIX_DAEMON_SOCKET_PATH=$work/daemon.sock
unset NIX_REMOTE NIX_PATH NIX_CONFIG NIX_USER_CONF_FILES
mkdir -p "$nix"/{store,var/nix,var/log,etc,home,cache}
printf 'sandbox = false\nbuild-users-group =\nsubstituters =\n' > "$nix/etc/nix.conf"

printf 'Narfold: %s, Nix: %s\n' "$("$narfold" version | head -n 1)" "$(nix-store --version)"
printf 'Everything below happens in %s, and nothing of it stays.\n' "$work"

cat > hello.nix << 'NIX'
let
  build = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" ("PATH=/usr/bin:/bin; " + script) ];
  };
  greeting = build "greeting-1.0" "echo Hello from three store items > $out";
  library = build "library-1.0" "mkdir $out; echo 'speak() { cat ${greeting}; }' > $out/speak.sh; seq 1 20000 > $out/data";
in build "hello-1.0" ''
  mkdir -p $out/bin
  printf '#!/bin/sh\n. ${library}/speak.sh\nspeak\n' > $out/bin/hello
  chmod +x $out/bin/hello
''
NIX

step "A build machine: a nix-daemon with a store of its own"
start daemon nix-daemon
until_true daemon is_socket "$NIX_DAEMON_SOCKET_PATH" || die "nix-daemon does not start"
printf '     it listens on %s\n' "$NIX_DAEMON_SOCKET_PATH"

step "It builds three items: hello references library, which references greeting"
export NIX_REMOTE=daemon
run nix-build hello.nix --no-out-link
hello=$(tail -n 1 "$out")
run nix-store -q --tree "$hello"
for item in greeting library hello; do
  seen "-$item-1.0"
done
mapfile -t closure < <(nix-store -qR "$hello")
[ ${#closure[@]} -eq 3 ] || die "the closure has ${#closure[@]} items, not 3"
greeting=${closure[0]}

step "Narfold publishes hello with its closure: hashed, compressed, signed by a key made just now"
run "$narfold" import --state herder --closure --database nix/var/nix/db/db.sqlite "$hello"
seen "3 published"
key=$(cat herder/keys/nix.pub)
printf '     the public key: %s\n' "$key"
run find herder/objects/nar -type f -printf '%9s bytes  %p\n'

step "The build machine goes away, with its daemon and its store"
stop daemon
chmod -R u+w "$nix"
run rm -rf nix
unset NIX_REMOTE
[ ! -e "$hello" ] || die "the program is still there"

step "A herder serves what was published"
serve herder --state herder
run curl -sS "$url/nix-cache-info"
seen "StoreDir: $NIX_STORE_DIR"
hash=$(basename "$hello" | cut -c 1-32)
run curl -sS "$url/$hash.narinfo"
seen "Sig: "
run curl -sS -o /dev/null -w '%{http_code} %{content_type}, %{size_download} bytes\n' "$url/nar/zstd/$(basename "$hello")"
seen "200 application/x-nix-nar"

step "A user with an empty store, who trusts that key, installs hello over HTTP and runs it"
new_user "$key"
installed
curl -sS "$url/metrics" > "$out"
grep -E '^narfold_(requests_total|front_sent_bytes_total|items )' "$out" | sed 's/^/     the herder counted: /'
seen 'narfold_requests_total{kind="nar",result="served"} 4'

step "A user who trusts another key is given the same bytes, and installs nothing"
run "$narfold" key generate --dialect nix --name "${key%%:*}" --secret other.sec --public other.pub
new_user "$(cat other.pub)"
refused "is not signed by any of the keys in 'trusted-public-keys'" nix-store -r "$hello"
[ ! -e "$hello" ] || die "the item was installed"

step "An S3 server, for deployments that outgrow a machine's disk"
mkdir -p s3/data/demo s3/attributes
export ROOT_ACCESS_KEY=demo ROOT_SECRET_KEY=demo-secret-123
s3url=''
for _ in 1 2 3 4 5 6 7 8; do
  s3=127.0.0.1:$((20000 + RANDOM % 12000))
  start s3 "$s3server" --quiet --health /health --port "$s3" posix --sidecar "$work/s3/attributes" "$work/s3/data"
  if until_true s3 curl -sf "http://$s3/health" && kill -0 "${pids[s3]}"; then
    s3url=http://$s3
    break
  fi
  stop s3 # somebody else has the port
done
[ -n "$s3url" ] || die "the S3 server does not start"
(umask 077 && printf 'demo\ndemo-secret-123\n' > credentials)
cat > bucket.toml << TOML
state = "$work/second"
[objects]
endpoint = "$s3url"
bucket = "demo"
credentials_file = "$work/credentials"
[publish]
compressions = ["none"]  # so that the next but one step can forge a nar of the same length
[serve]
prefer = "none"
TOML
echo '     bucket.toml:'
sed 's/^/       /' bucket.toml

step "A second herder takes everything from the first over HTTP, held to its key, into the bucket, and serves it"
run "$narfold" import --config bucket.toml --key herder/keys/nix.pub --closure --item "$hello" "$url"
seen "3 published"
run find s3/data -type f -size +0 -printf '%9s bytes  %p\n'
seen "$(basename "$hello")"
stop herder
serve second --config bucket.toml

step "A user with an empty store, who trusts the first herder's key, installs hello out of the bucket and runs it"
new_user "$key"
installed

step "A thief of the bucket changes one nar, and keeps its length"
nar=$(find s3/data -type f -path "*/none/$(basename "$greeting")")
[ -f "$nar" ] || die "the nar of greeting is not in the bucket"
before=$(stat -c %s "$nar")
run sed -i 's/Hello from/Hacks from/' "$nar"
grep -q 'Hacks from' "$nar" || die "nothing was changed"
[ "$(stat -c %s "$nar")" = "$before" ] || die "the length changed"

step "The client refuses it"
new_user "$key"
refused "hash mismatch importing path" nix-store -r "$hello"
# It unpacks while it reads, and what it unpacked stays on the disk; but nothing of Nix takes it for a store item.
refused "is not valid" nix-store -q --references "$greeting"
[ ! -e "$hello" ] || die "what needs the changed item was installed"

step "So does Narfold's own check, which is content again when the bytes are back"
refused "corrupt: nar/none/$(basename "$greeting")" "$narfold" check --config bucket.toml --deep
run sed -i 's/Hacks from/Hello from/' "$nar"
run "$narfold" check --config bucket.toml --deep

printf '\nAll %d steps ended as they should. %s is removed.\n' "$number" "$work"

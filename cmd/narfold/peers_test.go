package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/nixkey/nixtest"
)

// must runs the program in-process and returns its answer; a failure ends the test.
func must(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	stdout, stderr, code := narfold(t, stdin, args...)
	if code != exitDone {
		t.Fatalf("narfold %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

func slurp(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func spit(t *testing.T, name string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNixTakesWhatTheCommandsSign(t *testing.T) {
	nix := nixtest.New(t)
	items := strings.Fields(nix.Run("nix-build", nix.Expression("two.nix", nixtest.TwoPackages), "--no-out-link"))
	in := func(name string) string { return filepath.Join(nix.Dir, name) }

	nix.Run("nix-store", "--generate-binary-cache-key", "their-1", in("their.sec"), in("their.pub"))
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "our-1", "--secret", in("our.sec"), "--public", in("our.pub"))
	must(t, nil, "key", "verify", in("their.sec"), in("their.pub"))
	if got, want := string(must(t, nil, "key", "public", in("their.sec"))), string(slurp(t, in("their.pub")))+"\n"; got != want {
		t.Errorf("public half of nix's key is %q, nix says %q", got, want)
	}
	for _, key := range []string{"their", "our"} {
		// Two caches, since nix remembers what it once read of a narinfo.
		fill := func(cache string) []string {
			nix.Run("nix", append([]string{"copy", "--to", "file://" + cache}, items...)...)
			narinfos, err := filepath.Glob(filepath.Join(cache, "*.narinfo"))
			if err != nil || len(narinfos) < 2 {
				t.Fatalf("%d narinfos: %v", len(narinfos), err)
			}
			return narinfos
		}
		from := func(cache string) error {
			_, err := nix.Try("nix", append([]string{"copy", "--from", "file://" + cache, "--to", cache + "-copied",
				"--option", "trusted-public-keys", string(slurp(t, in(key+".pub")))}, items...)...)
			return err
		}
		unsigned, signed := in("unsigned-"+key), in("signed-"+key)
		narinfos := fill(unsigned)
		if err := from(unsigned); err == nil || !strings.Contains(err.Error(), "lacks a valid signature") {
			t.Errorf("of unsigned narinfos nix says %v: the test proves nothing", err)
		}
		if stdout, _, code := narfold(t, nil, append([]string{"narinfo", "verify", "--key", in(key + ".pub")}, narinfos...)...); code != exitRefused {
			t.Errorf("unsigned narinfos: exit code %d: %s", code, stdout)
		}
		narinfos = fill(signed)
		for _, name := range narinfos {
			spit(t, name, must(t, slurp(t, name), "narinfo", "sign", "--key", in(key+".sec")))
		}
		must(t, nil, append([]string{"narinfo", "verify", "--key", in(key + ".pub")}, narinfos...)...)
		if err := from(signed); err != nil {
			t.Errorf("signed with %s key: %v", key, err)
		}
	}
}

func TestNixAndTheCommandsMakeTheSameNars(t *testing.T) {
	nix := nixtest.New(t)
	items := strings.Fields(nix.Run("nix-build", nix.Expression("two.nix", nixtest.TwoPackages), "--no-out-link"))
	for _, item := range items {
		dir := t.TempDir()
		file := spit(t, filepath.Join(dir, "n.nar"), must(t, nil, "nar", "dump", item))
		if got, want := string(slurp(t, file)), nix.Run("nix-store", "--dump", item); got != want {
			t.Errorf("%s: our nar has %d bytes, nix-store's %d", item, len(got), len(want))
		}
		for flag, want := range map[string]string{
			"--sri": nix.Run("nix", "hash", "file", file),
			"--hex": nix.Run("nix-hash", "--type", "sha256", item),
		} {
			if hash, _, _ := strings.Cut(string(must(t, nil, "nar", "hash", flag, file)), " "); hash != want {
				t.Errorf("%s: %s is %s, nix says %s", item, flag, hash, want)
			}
		}
		for _, flags := range [][]string{nil, {"-l"}, {"-R"}, {"-lR"}, {"--json"}, {"--json", "-R"}} {
			got := string(must(t, nil, append([]string{"nar", "ls", file, "/"}, flags...)...))
			if want := nix.Run("nix", append([]string{"nar", "ls", file, "/"}, flags...)...) + "\n"; got != want {
				t.Errorf("nar ls %v:\n%snix says:\n%s", flags, got, want)
			}
		}
		copied := filepath.Join(dir, "copy")
		compressed := must(t, nil, "nar", "dump", "--compression", "zstd", item)
		must(t, compressed, "nar", "restore", copied)
		if got, want := nix.Run("nix-hash", "--type", "sha256", copied), nix.Run("nix-hash", "--type", "sha256", item); got != want {
			t.Errorf("%s restored has the hash %s, want %s", item, got, want)
		}
	}
}

// guile runs the peer of package guixkey, which is libgcrypt by way of Guile, and returns what it says.
func guile(t *testing.T, stdin []byte, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("guile")
	if err != nil {
		t.Fatal("want the Debian packages guile-3.0 and guile-gcrypt: ", err)
	}
	script := filepath.Join("..", "..", "internal", "guixkey", "testdata", "verify-narinfo.scm")
	cmd := exec.CommandContext(t.Context(), path, append([]string{"--no-auto-compile", script}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if problems.Len() > 0 {
		t.Fatalf("guile (Debian packages guile-3.0, guile-gcrypt): %v: %s", err, &problems)
	}
	return string(out), err
}

const unsignedForGuix = `StorePath: /gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
NarHash: sha256:1lxjhhvvwj68i1dkgzpcjn5dnvx5p4ba14lvs8jz4h3q0x1yj4ja
NarSize: 1040
References: 0cnq4y2b9ncj2hzrb3mxk4jk3iw5xzkh-glibc-2.35
URL: nar/zstd/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
Compression: zstd
`

func TestLibgcryptTakesWhatTheCommandsSign(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if out, err := guile(t, nil, "genkey", dir); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", in("our.sec"), "--public", in("our.pub"))
	must(t, nil, "key", "verify", in("signing-key.sec"), in("signing-key.pub"))
	if got, want := must(t, nil, "key", "public", in("signing-key.sec")), slurp(t, in("signing-key.pub")); !bytes.Equal(got, want) {
		t.Errorf("public half of libgcrypt's key is %s, libgcrypt says %s", got, want)
	}
	list, err := guile(t, nil, "genacl", in("signing-key.pub"), in("our.pub"))
	if err != nil {
		t.Fatal(err)
	}
	acl := spit(t, in("acl"), []byte(list))

	body, urls, _ := strings.Cut(unsignedForGuix, "URL:")
	for _, key := range []string{"signing-key", "our"} {
		ours := must(t, []byte(unsignedForGuix), "narinfo", "sign", "--key", in(key+".sec"), "--host", "example.org")
		signed, err := guile(t, []byte(body), "sign", in(key+".pub"), in(key+".sec"), "example.org")
		if err != nil {
			t.Fatal(err)
		}
		if theirs := signed + "URL:" + urls; string(ours) != theirs {
			t.Errorf("with %s.sec we sign\n%slibgcrypt signs\n%s", key, ours, theirs)
		}
		file := spit(t, in(key+".narinfo"), ours)
		for _, keys := range []string{in(key + ".pub"), acl} {
			if said, err := guile(t, nil, "verify", keys, file); err != nil || said != "valid\n" {
				t.Errorf("with %s.sec and %s libgcrypt finds our signature %q, %v", key, filepath.Base(keys), said, err)
			}
		}
		must(t, nil, "narinfo", "verify", "--acl", acl, file)
		must(t, nil, "narinfo", "verify", "--key", in(key+".pub"), file)
	}
}

// TestTheHintIsWhatGuixReads checks that the entry of key authorize-hint is one that an access list may hold.
func TestTheHintIsWhatGuixReads(t *testing.T) {
	dir := t.TempDir()
	sec, pub := filepath.Join(dir, "sec"), filepath.Join(dir, "pub")
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", sec, "--public", pub)
	hint := string(must(t, nil, "key", "authorize-hint", pub))
	_, entry, ok := strings.Cut(hint, "/etc/guix/acl:\n")
	if !ok {
		t.Fatalf("no entry in %s", hint)
	}
	acl := spit(t, filepath.Join(dir, "acl"), []byte("(acl "+entry+")"))
	signed := spit(t, filepath.Join(dir, "narinfo"), must(t, []byte(unsignedForGuix), "narinfo", "sign", "--key", sec))
	if said, err := guile(t, nil, "verify", acl, signed); err != nil || said != "valid\n" {
		t.Errorf("with the entry in its access list libgcrypt says %q, %v", said, err)
	}
	must(t, nil, "narinfo", "verify", "--acl", acl, signed)
}

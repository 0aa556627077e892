// Package nixtest gives a test a Nix installation of its own: the real programs on a private store, without nixpkgs and without
// the network.
package nixtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Root is a private installation. Its store directory is Store, which is not /nix/store; paths and hashes follow from it.
type Root struct {
	Dir   string // holds the store, the state and the configuration
	Store string
	t     testing.TB
	env   []string
}

// New makes an installation below the test's temporary directory. Builders run outside a sandbox, as the calling user.
func New(t testing.TB) *Root {
	t.Helper()
	dir := t.TempDir()
	r := &Root{Dir: dir, Store: filepath.Join(dir, "store"), t: t}
	for _, sub := range []string{"store", "var/nix", "var/log/nix", "etc", "home", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command\n"
	if err := os.WriteFile(filepath.Join(dir, "etc/nix.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	r.env = append(os.Environ(), "NIX_STORE_DIR="+r.Store, "NIX_STATE_DIR="+dir+"/var/nix", "NIX_LOG_DIR="+dir+"/var/log/nix",
		"NIX_CONF_DIR="+dir+"/etc", "NIX_LOCALSTATE_DIR="+dir+"/var", "HOME="+dir+"/home", "XDG_CACHE_HOME="+dir+"/cache", "NIX_REMOTE=")
	t.Cleanup(func() { writable(r.Store) })
	return r
}

// writable undoes the read-only modes of store directories, so that whoever runs the test can remove them.
func writable(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o755)
		}
		return nil
	})
}

// Run runs a program of Nix and returns its standard output without the final LF. A failure ends the test.
func (r *Root) Run(program string, args ...string) string {
	r.t.Helper()
	out, err := r.Try(program, args...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return out
}

// Try is Run for a program that may fail; the error has what it said.
func (r *Root) Try(program string, args ...string) (string, error) {
	r.t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		r.t.Fatal("want the Debian package nix-bin: ", err)
	}
	cmd := exec.CommandContext(r.t.Context(), path, args...)
	cmd.Env = r.env
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, &said)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// Expression writes a Nix expression to a file and returns its name.
func (r *Root) Expression(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// TwoPackages is an expression of two derivations: app has the outputs out and dev and refers to dep and to itself.
const TwoPackages = `
let
  dep = derivation {
    name = "dep-1.0"; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-c" "PATH=/usr/bin:/bin; mkdir -p $out/lib; echo hello > $out/lib/dep.txt; ln -s dep.txt $out/lib/link" ];
  };
  app = derivation {
    name = "app-1.0"; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-c" ''PATH=/usr/bin:/bin
      mkdir -p $out/bin $dev
      printf '#!/bin/sh\ncat ${dep}/lib/dep.txt\n' > $out/bin/app; chmod +x $out/bin/app
      echo "self $out" > $out/self.txt
      echo "of $out" > $dev/x'' ];
    outputs = [ "out" "dev" ];
  };
in { inherit dep app; }
`

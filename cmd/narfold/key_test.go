package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestGeneratedKeysAreFilesOfTheDialect(t *testing.T) {
	for _, c := range []struct {
		dialect dialect
		flags   []string
		mode    fs.FileMode
	}{
		{guixDialect, nil, 0o400},
		{nixDialect, []string{"--name", "cache.example.org-1"}, 0o600},
	} {
		t.Run(string(c.dialect), func(t *testing.T) {
			dir := t.TempDir()
			secret, public := filepath.Join(dir, "sec"), filepath.Join(dir, "pub")
			args := append([]string{"key", "generate", "--json", "--dialect", string(c.dialect), "--secret", secret, "--public", public}, c.flags...)
			stdout, stderr, code := narfold(t, nil, args...)
			if code != exitDone || stderr != "" {
				t.Fatalf("exit code %d, said %q", code, stderr)
			}
			var answer keyAnswer
			if err := json.Unmarshal(stdout, &answer); err != nil {
				t.Fatal(err)
			}
			p, err := readPublic(public)
			if err != nil {
				t.Fatal(err)
			}
			if want := (keyAnswer{Dialect: c.dialect, Public: p.String(), Secret: secret}); answer != want {
				t.Errorf("answered %v, want %v", answer, want)
			}
			for name, want := range map[string]fs.FileMode{secret: c.mode, public: 0o644} {
				info, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != want {
					t.Errorf("%s has mode %v, want %v", filepath.Base(name), info.Mode(), want)
				}
			}
			if _, stderr, code := narfold(t, nil, "key", "verify", secret, public); code != exitDone {
				t.Errorf("key verify: exit code %d, said %q", code, stderr)
			}
		})
	}
}

func TestAKeyIsNeverLeftHalfMade(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "sec")
	_, _, code := narfold(t, nil, "key", "generate", "--dialect", "guix", "--secret", secret, "--public", filepath.Join(dir, "nowhere", "pub"))
	if code != exitRefused {
		t.Errorf("exit code %d", code)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("left %v behind", entries)
	}
}

func TestALargeFileIsNoKey(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEither(name); err == nil {
		t.Error("it was taken for one")
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/herder/check"
	"narfold/internal/catalog/sqlite"
)

// said runs a command and returns what it said, which must hold every one of want.
func said(t *testing.T, code exitCode, want []string, args ...string) string {
	t.Helper()
	stdout, stderr, got := narfold(t, nil, args...)
	text := string(stdout) + stderr
	if got != code {
		t.Errorf("%v: exit code %d, want %d: %s", args, got, code, text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%v: %q is not in\n%s", args, w, text)
		}
	}
	return string(stdout)
}

func TestACatalogueIsBackedUpAndRestored(t *testing.T) {
	state := t.TempDir()
	backup := filepath.Join(t.TempDir(), "catalogue.db")
	var parcels []parcel
	add := func(n int) {
		t.Helper()
		for range n {
			cache, p := cacheOf(t, fmt.Sprint("item-", len(parcels)), fmt.Sprint("contents ", len(parcels)))
			must(t, nil, "import", "--state", state, cache)
			parcels = append(parcels, p)
		}
	}
	add(3)
	must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci")
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	var held sqlite.Contents
	answer := said(t, exitDone, nil, "backup", "--state", state, "--json", backup)
	if err := json.Unmarshal([]byte(answer), &held); err != nil || held.Items != 3 || held.Files != 3 || held.Tokens != 1 {
		t.Errorf("%v: %s", err, answer)
	}
	said(t, exitRefused, []string{"file already exists", "try: another name"}, "backup", "--state", state, backup)
	said(t, exitDone, []string{"3 published items with 3 files, 1 tokens", "not in it: the objects, in the folder objects of the state folder, and the keys in " + state}, "backup", "--state", state, backup+"2")
	add(2)
	other := filepath.Join(otherState(t), "state")
	said(t, exitRefused, []string{"there is a catalogue already", "try: narfold restore --replace --state " + other + " " + backup}, "restore", "--state", other, backup)
	said(t, exitUnavailable, []string{"catalogue is in use", "try: again when the herder is stopped"}, "restore", "--state", state, "--replace", backup)
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// What came after the backup, and what the store has lost since, are told.
	if err := os.Remove(filepath.Join(state, "objects", "nar", "zstd", string(parcels[0].path.Base))); err != nil {
		t.Fatal(err)
	}
	text := said(t, exitDamage, nil, "restore", "--state", state, "--replace", "--json", backup)
	var told struct {
		Restored sqlite.Contents
		Replaced string
		Check    check.Report
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil || told.Restored != held || told.Check.Found[check.Missing] != 1 || told.Check.Found[check.Unaccounted] != 2 {
		t.Errorf("%v: %s", err, text)
	}
	if name := filepath.Base(told.Replaced); !strings.HasPrefix(name, "catalogue.db.replaced-") {
		t.Errorf("the old catalogue is %q", told.Replaced)
	}

	// The old one, restored, has everything again.
	if err := os.Remove(filepath.Join(state, "catalogue.db")); err != nil {
		t.Fatal(err)
	}
	said(t, exitDamage, []string{"missing: nar/zstd/" + string(parcels[0].path.Base), "damage: 1 found", "restored: 5 published items with 5 files, 1 tokens"}, "restore", "--state", state, told.Replaced)
	s = startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	for _, p := range parcels {
		if r := get(t, s.url()+"/"+string(p.path.HashPart())+".narinfo"); r.status != http.StatusOK {
			t.Errorf("%s: %d", p.path, r.status)
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// otherState returns a folder with a deployment in its folder state, which nobody uses.
func otherState(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cache, _ := cacheOf(t, "other", "other")
	must(t, nil, "import", "--state", filepath.Join(dir, "state"), cache)
	return dir
}

func TestImportingAgainTakesOverWhatCameAfterABackup(t *testing.T) {
	state := t.TempDir()
	backup := filepath.Join(t.TempDir(), "backup")
	first, _ := cacheOf(t, "first", "contents")
	second, _ := cacheOf(t, "second", "other contents")
	must(t, nil, "import", "--state", state, first)
	must(t, nil, "backup", "--state", state, backup)
	must(t, nil, "import", "--state", state, second)
	said(t, exitRefused, []string{"1 objects are unaccounted for", "came after the backup", "restored: 1 published items", "the catalogue that was there is " + state}, "restore", "--state", state, "--replace", backup)
	must(t, nil, "import", "--state", state, second)
	checked(t, exitDone, []string{"2 published items", "all is well"}, "--state", state, "--deep", "--quiet", "--older-than", "0s")
}

func TestARestoreRefusesWhatDoesNotBelong(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	text := spit(t, filepath.Join(t.TempDir(), "text"), []byte("this is no backup, but long enough to be looked at"))
	said(t, exitRefused, []string{"not a catalogue of narfold"}, "restore", "--state", state, text)
	said(t, exitRefused, []string{"no such file"}, "restore", "--state", state, text+"-absent")
	said(t, exitRefused, []string{"no deployment here"}, "backup", "--state", state, text+"-new")

	backup := filepath.Join(t.TempDir(), "backup")
	must(t, nil, "backup", "--state", filepath.Join(otherState(t), "state"), backup)
	config := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), []byte("state = '"+state+"'\n[objects]\ndirectory = '"+t.TempDir()+"'\n"))
	said(t, exitUsage, []string{"objects of this deployment are elsewhere"}, "restore", "--config", config, backup)
	torn := slurp(t, backup)
	said(t, exitDamage, []string{"catalogue is damaged"}, "restore", "--state", state, spit(t, backup+"-torn", torn[:len(torn)/2]))
	entries, err := os.ReadDir(state)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "catalogue") || strings.HasPrefix(e.Name(), ".")
	}) {
		t.Errorf("left: %v, %v", entries, err)
	}
}

package main

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/herder/check"
)

// checkedState imports a cache and returns the flags of the deployment, its folder and the file of some published object.
func checkedState(t *testing.T) (flags []string, state, object string) {
	t.Helper()
	cache := newCrashCache(t, rand.New(rand.NewPCG(1, 1)))
	state = filepath.Join(t.TempDir(), "state")
	flags = []string{"--state", state}
	if _, stderr, code := narfold(t, nil, "import", "--quiet", "--key", cache.public, "--state", state, cache.dir); code != exitDone {
		t.Fatalf("import: exit code %d: %s", code, stderr)
	}
	objects, err := filepath.Glob(filepath.Join(state, "objects", "nar", "gzip", "*"))
	if err != nil || len(objects) == 0 {
		t.Fatal(objects, err)
	}
	return flags, state, objects[0]
}

// checked runs the command and returns what it said, which must hold every one of want.
func checked(t *testing.T, code exitCode, want []string, args ...string) string {
	t.Helper()
	stdout, stderr, got := narfold(t, nil, append([]string{"check"}, args...)...)
	said := string(stdout) + stderr
	if got != code {
		t.Errorf("check %v: exit code %d, want %d: %s", args, got, code, said)
	}
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("check %v: %q is not in\n%s", args, w, said)
		}
	}
	return said
}

func TestCheckSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	flags, state, object := checkedState(t)
	with := func(more ...string) []string { return append(more, flags...) }
	checked(t, exitDone, []string{"150 published items with 1", "all is well"}, with()...)
	checked(t, exitDone, []string{"files expanded and found right", "all is well"}, with("--deep", "--quiet")...)
	checked(t, exitDone, []string{"files expanded and found right"}, with("--sample", "50%", "--rate", "1GiB")...)

	stray := filepath.Join(state, "objects", "stray")
	if err := os.WriteFile(stray, []byte("whose is this"), 0o644); err != nil {
		t.Fatal(err)
	}
	checked(t, exitDone, []string{"recent: stray\n", "try: the check again"}, with()...)
	checked(t, exitRefused, []string{"unaccounted: stray\n", "  try: narfold check --remove-unknown --state " + state, "no damage; 1 objects are unaccounted for"}, with("--older-than", "0s")...)
	checked(t, exitDone, []string{"removed: 0 abandoned uploads, 1 unknown objects", "all is well"}, with("--remove-unknown", "--older-than", "0s")...)
	if _, err := os.Stat(stray); err == nil {
		t.Error("the unknown object is still there")
	}

	whole, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 0x10
	if err := os.Chmod(object, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(object, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(object)
	checked(t, exitDone, []string{"all is well"}, with()...)
	checked(t, exitDamage, []string{"corrupt: nar/gzip/" + name, "its bytes have changed", "item: /nix/store/" + name, "try: narfold repair --state " + state + " --item " + name[:32] + " SOURCE, or bring back " + object + " from a backup", "damage: 1 found"}, with("--deep")...)
	if err := os.Remove(object); err != nil {
		t.Fatal(err)
	}
	checked(t, exitDamage, []string{"missing: nar/gzip/" + name, "the object is not in the store", "item: /nix/store/" + name, "damage: 1 found"}, with()...)
	var r check.Report
	if err := json.Unmarshal([]byte(checked(t, exitDamage, nil, with("--json")...)), &r); err != nil || r.Damage() != 1 || r.Findings[0].Items[0] != "/nix/store/"+name {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestCheckRefusesWhatIsNoDeploymentAndWhatMakesNoSense(t *testing.T) {
	state := t.TempDir()
	checked(t, exitRefused, []string{"no deployment here", "try: narfold import"}, "--state", state)
	checked(t, exitUsage, []string{"which deployment is meant"})
	checked(t, exitUsage, []string{"want one of the two"}, "--state", state, "--deep", "--sample", "5%")
	checked(t, exitUsage, []string{"not a percentage"}, "--state", state, "--sample", "500%")
	checked(t, exitUsage, []string{"in the future"}, "--state", state, "--older-than=-1h")
	if entries, err := os.ReadDir(state); err != nil || len(entries) != 0 {
		t.Errorf("a check has made %v, %v", entries, err)
	}
}

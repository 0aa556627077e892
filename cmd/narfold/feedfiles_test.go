package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"narfold/internal/digest"
)

// commandsOf returns the lines of a page that are a program's, as it shows them.
func commandsOf(t *testing.T, page, program string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(string(slurp(t, page))) {
		if strings.HasPrefix(line, "    "+program+" ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("%s shows no command of %s", page, program)
	}
	return lines
}

// An operator with rsync copies a deployment's objects by its manifest, with the commands of docs/feed.md. The copy is complete: a stranger
// follows its feed, from record 1 and from the snapshot, and a herder is rebuilt from it that gives the same answers.
func TestRsyncCopiesADeploymentByItsManifest(t *testing.T) {
	for _, program := range []string{"rsync", "python3", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: install the Debian package %s", err, program)
		}
	}
	config, state := configFile(t, "[publish]\nreserve = '0'\n[feed]\nsnapshot_every = '1s'\n")
	with := func(args ...string) []string { return append(args, "--config", config) }
	r := rand.New(rand.NewPCG(11, 12))
	cache := newCrashCache(t, r)
	many, _ := manyOf(t, 1010)
	odd, p := cacheOf(t, "c++-1.0", "a name that URLs escape")
	must(t, nil, with("import", "--key", cache.public, cache.dir)...)
	for _, dir := range []string{many, odd} {
		must(t, nil, with("import", dir)...)
	}
	store := filepath.Join(state, "objects")
	s := startService(t, serviceOptions{args: []string{"--config", config}})
	paths := requests(r, cache, []parcel{p})[:3000]
	before := answers(t, s.url(), paths)
	wait(t, "a manifest with everything", func() bool {
		text, err := os.ReadFile(filepath.Join(store, "feed", "manifest"))
		return err == nil && strings.Contains(string(text), "\tfeed/segments/1\n") && strings.Contains(string(text), "c++-1.0\tnar/zstd/")
	})
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	folder := t.TempDir()
	for _, line := range commandsOf(t, filepath.Join("..", "..", "docs", "feed.md"), "rsync") {
		cmd := exec.CommandContext(t.Context(), "bash", "-ec", line)
		cmd.Dir, cmd.Env = folder, append(os.Environ(), "STORE="+store)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s%v: %s", line, err, out)
		}
	}
	copied := filepath.Join(folder, "copy")
	lines := strings.Split(string(slurp(t, filepath.Join(folder, "manifest"))), "\n")
	if n := len(lines); n < 1000 || lines[0] != "narfold-feed-manifest 2" || lines[n-2] != "end "+strconv.Itoa(n-3) {
		t.Fatalf("manifest of %d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-2])
	}
	for _, line := range lines[1 : len(lines)-2] {
		column := strings.Split(line, "\t")
		text := slurp(t, filepath.Join(copied, filepath.FromSlash(column[2])))
		if digest.Of(text).Hex() != column[0] || strconv.Itoa(len(text)) != column[1] {
			t.Fatalf("%s is not what the manifest says", column[2])
		}
	}
	key := filepath.Join(state, "keys", "feed.pub")
	var said []string
	for _, from := range []string{"--url", "--snapshot"} {
		out, err := exec.CommandContext(t.Context(), "python3", "-B", "../../internal/feed/testdata/verify.py", from, key, copied).CombinedOutput()
		if err != nil || !strings.Contains(string(out), ": 1161 items") {
			t.Errorf("%s: %v: %s", from, err, out)
		}
		said = append(said, string(out))
	}
	if said[0] != said[1] {
		t.Errorf("from the snapshot a reader comes to %sand from record 1 to %s", said[1], said[0])
	}

	other, again := configFile(t, "[publish]\nreserve = '0'\n")
	if err := os.MkdirAll(again, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, filepath.Join(again, "objects")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(again, "keys"), os.DirFS(filepath.Join(state, "keys"))); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "rebuild", "--config", other)
	checked(t, exitDone, []string{"all is well", "1161 published items"}, "--config", other, "--deep", "--quiet")
	s = startService(t, serviceOptions{args: []string{"--config", other}})
	after := answers(t, s.url(), paths)
	for i, p := range paths {
		if before[i] != after[i] {
			t.Fatalf("%s:\n before %.300s\n after  %.300s", p, before[i], after[i])
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

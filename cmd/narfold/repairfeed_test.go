package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"narfold/herder/check"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// manyOf makes a cache of n items that share a nar, which is in two frames of zstd, as no encoder makes it.
func manyOf(t *testing.T, n int) (dir string, first parcel) {
	t.Helper()
	var files []narinfo.File
	for i := range n {
		p := pack(t, string(storepath.Nix), fmt.Sprint("item-", i), "what all have in common", nil)
		if i == 0 {
			first = p
			dir, _ = otherwise(t, p, compress.Zstd, 40)
			parsed, err := narinfo.Parse(slurp(t, filepath.Join(dir, string(p.path.HashPart())+".narinfo")))
			if err != nil {
				t.Fatal(err)
			}
			files = parsed.Files
			continue
		}
		parsed, err := narinfo.Parse(p.narinfo)
		if err != nil {
			t.Fatal(err)
		}
		parsed.Files = files
		writeAll(t, filepath.Join(dir, string(p.path.HashPart())+".narinfo"), narinfo.Nix(parsed))
	}
	return dir, first
}

// A segment of the feed is in the object store alone. That it is lost or damaged is damage, which repair mends from a copy, or of what
// the catalogue still knows.
func TestALostOrDamagedSegmentIsToldAndMended(t *testing.T) {
	state := t.TempDir()
	cache, p := manyOf(t, 1010)
	must(t, nil, "import", "--state", state, cache)
	serve := serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}}
	s := startService(t, serve)
	wait(t, "the segment", func() bool { return get(t, s.url()+"/feed/segments/1").status == http.StatusOK })
	segment := get(t, s.url()+"/feed/segments/1").body
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	feedOf := filepath.Join(state, "objects", "feed")
	object := filepath.Join(feedOf, "segments", "1")
	with := func(more ...string) []string { return append([]string{"--state", state}, more...) }
	checked(t, exitDone, []string{"all is well"}, with("--deep")...)
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "feed"), os.DirFS(feedOf)); err != nil {
		t.Fatal(err)
	}
	is := func(what string) {
		t.Helper()
		if text, err := os.ReadFile(object); err != nil || string(text) != segment {
			t.Errorf("%s: it is not as it was: %v", what, err)
		}
	}

	flip(t, object)
	checked(t, exitDone, []string{"all is well"}, with()...)
	checked(t, exitDamage, []string{"corrupt: feed/segments/1", "the bytes of a segment of the change feed have changed", "narfold repair --state " + state + " SOURCE", "damage: 1 found"}, with("--deep")...)
	repaired(t, exitDone, []string{"mendable: feed/segments/1", "from: the catalogue"}, with("--deep", "--dry-run", cache)...)
	repaired(t, exitDone, []string{"restored: feed/segments/1", "from: the catalogue", "1 restored"}, with("--deep", cache)...)
	is("made again")

	// When an item has got another file since, its record cannot be made again.
	other, _ := otherwise(t, p, compress.Gzip)
	key := regexp.MustCompile(`"key":"([^"]*)"`).FindStringSubmatch(segment)
	flip(t, filepath.Join(state, "objects", filepath.FromSlash(key[1])))
	repaired(t, exitDone, []string{"1 replaced"}, with("--item", string(p.path.HashPart()), other)...)
	if err := os.Remove(object); err != nil {
		t.Fatal(err)
	}
	checked(t, exitDamage, []string{"missing: feed/segments/1", "is not in the store"}, with()...)
	var r check.Report
	if err := json.Unmarshal([]byte(checked(t, exitDamage, nil, with("--json")...)), &r); err != nil || r.FeedSegments != 1 || r.Findings[0].Segment != 1 || r.Findings[0].SHA256 != digest.Of([]byte(segment)) {
		t.Errorf("%v: %+v", err, r)
	}
	repaired(t, exitRefused, []string{"damaged: feed/segments/1", "not from the catalogue", "not from " + cache, "1 damaged still"}, with(cache)...)
	repaired(t, exitDone, []string{"restored: feed/segments/1", "from: " + copied}, with(cache, copied)...)
	is("from a directory")

	// Another herder's, of another feed, is no help; a server with a copy is.
	flip(t, filepath.Join(copied, "feed", "segments", "1"))
	if err := os.Truncate(object, 100); err != nil {
		t.Fatal(err)
	}
	said := repaired(t, exitRefused, []string{"size: a segment of the change feed has 100 bytes", "it has another segment of that number"}, with(copied)...)
	if strings.Contains(said, "restored: ") {
		t.Error(said)
	}
	flip(t, filepath.Join(copied, "feed", "segments", "1"))
	mirror := httptest.NewServer(http.FileServer(http.Dir(copied)))
	defer mirror.Close()
	repaired(t, exitDone, []string{"restored: feed/segments/1", "from: " + mirror.URL}, with(mirror.URL)...)
	is("from a server")
	s = startService(t, serve)
	wait(t, "the segment", func() bool { return get(t, s.url()+"/feed/segments/1").body == segment })
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

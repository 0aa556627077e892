package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/herder/rebuild"
	"narfold/internal/digest"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/storepath"
)

func TestACatalogueIsRebuiltFromTheObjectsAlone(t *testing.T) {
	for name, deployment := range map[string]func(t *testing.T) (flags []string, state string){
		"directory": func(t *testing.T) ([]string, string) {
			state := t.TempDir()
			return []string{"--state", state}, state
		},
		"bucket": func(t *testing.T) ([]string, string) {
			server := objstoretest.S3(t)
			file := bucketConfig(t, server, server.Bucket, server.AccessKey, server.SecretKey)
			return []string{"--config", file}, filepath.Join(filepath.Dir(file), "state")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags, state := deployment(t)
			command := func(args ...string) []string { return append(args, flags...) }
			r := rand.New(rand.NewPCG(1, 2))
			cache := newCrashCache(t, r)
			must(t, nil, command("import", "--key", cache.public, cache.dir)...)
			listen := func() *service {
				args := flags
				if name == "directory" {
					args = append(args, "--listen", "127.0.0.1:0")
				}
				return startService(t, serviceOptions{args: args})
			}
			s := listen()
			// While the herder runs, and so into the copies of the feed, comes more, and a second compression of something.
			parcels := []parcel{}
			for i := range 3 {
				dir, p := cacheOf(t, fmt.Sprint("late-", i), fmt.Sprint("late contents ", i))
				must(t, nil, command("import", dir)...)
				parcels = append(parcels, p)
			}
			paths := requests(r, cache, parcels)
			before := answers(t, s.url(), paths)
			head := get(t, s.url()+"/feed/head").body
			if code := s.stop(); code != 0 {
				t.Fatalf("exit code %d", code)
			}

			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(filepath.Join(state, "catalogue.db"+suffix)); err != nil && suffix == "" {
					t.Fatal(err)
				}
			}
			text := said(t, exitDone, nil, command("rebuild", "--json")...)
			var told struct{ Rebuilt rebuild.Report }
			if err := json.Unmarshal([]byte(text), &told); err != nil || told.Rebuilt.Items != int64(len(cache.items)+len(parcels)) {
				t.Errorf("%v: %s", err, text)
			}
			said(t, exitRefused, []string{"there is a catalogue already", "try: narfold check"}, command("rebuild")...)

			s = listen()
			after := answers(t, s.url(), paths)
			for i, p := range paths {
				if before[i] != after[i] {
					t.Fatalf("%s:\n before %.300s\n after  %.300s", p, before[i], after[i])
				}
			}
			// The feed goes on where it was.
			again := get(t, s.url()+"/feed/head").body
			for _, line := range []int{1, 2, 3} { // origin, sequence, chain
				if was, is := strings.Split(head, "\n")[line], strings.Split(again, "\n")[line]; was != is {
					t.Errorf("the feed's head said %q and says %q", was, is)
				}
			}
			dir, p := cacheOf(t, "later", "still more")
			must(t, nil, command("import", dir)...)
			wait(t, "the record of a new item", func() bool {
				body := get(t, s.url()+"/feed?since="+strings.TrimPrefix(strings.Split(head, "\n")[2], "sequence ")).body
				return strings.Contains(body, string(p.path.Base))
			})
			if code := s.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// requests are 10,000 random paths: narinfos and nars that are there, some in forms that are not, files by hash, and misses.
func requests(r *rand.Rand, cache *crashCache, parcels []parcel) (paths []string) {
	var bases []storepath.Base
	for b := range cache.items {
		bases = append(bases, b)
	}
	for _, p := range parcels {
		bases = append(bases, p.path.Base)
	}
	for range 10_000 {
		b := bases[r.IntN(len(bases))]
		miss := digest.Of([]byte(fmt.Sprint(r.Uint64())))
		paths = append(paths, []string{
			"/" + string(b.HashPart()) + ".narinfo",
			"/" + string(b.HashPart()) + ".narinfo",
			"/nar/zstd/" + string(b),
			"/nar/gzip/" + string(b),
			"/nar/" + string(b),
			"/file/" + b.Name() + "/sha256/" + miss.Hex(),
			"/" + string(storepath.HashPartOf([20]byte(miss[:20]))) + ".narinfo",
		}[r.IntN(7)])
	}
	return paths
}

// answers asks for paths, for nars by HEAD, and returns what a client would see.
func answers(t *testing.T, url string, paths []string) (all []string) {
	t.Helper()
	for _, p := range paths {
		method := http.MethodGet
		if strings.HasPrefix(p, "/nar/") {
			method = http.MethodHead
		}
		resp := ask(t, method, url+p, "", nil)
		h := resp.header
		all = append(all, fmt.Sprint(resp.status, h["Content-Type"], h["Content-Length"], h["Etag"], h["Cache-Control"], h["Content-Disposition"], resp.body))
	}
	return all
}

func TestWithoutAFeedOrItsKeyNothingIsRebuilt(t *testing.T) {
	state := t.TempDir()
	said(t, exitRefused, []string{"the key of the change feed is not there", "try: narfold rebuild --feed-key FILE"}, "rebuild", "--state", state)
	cache, _ := cacheOf(t, "a", "b")
	must(t, nil, "import", "--state", state, cache)
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	feedKey := get(t, s.url()+"/feed/key.pub").body
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if err := os.Remove(filepath.Join(state, "catalogue.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(state, "keys")); err != nil {
		t.Fatal(err)
	}
	key := spit(t, filepath.Join(t.TempDir(), "feed.pub"), []byte(feedKey))
	other := filepath.Join(t.TempDir(), "other.pub")
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "other-1", "--secret", other+".sec", "--public", other)
	said(t, exitRefused, []string{"read head of the feed"}, "rebuild", "--state", state, "--feed-key", other)

	// Whatever is changed in the copies is found, and nothing is made of it.
	tail := filepath.Join(state, "objects", "feed", "tail")
	whole, err := os.ReadFile(tail)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{len(whole) / 3, len(whole) / 2, len(whole) - 20} {
		changed := append([]byte(nil), whole...)
		changed[at] ^= 1
		spit(t, tail, changed)
		said(t, exitDamage, []string{"feed"}, "rebuild", "--state", state, "--feed-key", key)
	}
	spit(t, tail, whole)
	if left, _ := filepath.Glob(filepath.Join(state, "*")); len(left) != 3 { // objects, and the folders of spool and uploads
		t.Errorf("left behind: %v", left)
	}
	said(t, exitDone, []string{"rebuilt from 1 records", "1 published items with 1 files", "tokens are not in the feed"}, "rebuild", "--state", state, "--feed-key", key)
	if err := os.RemoveAll(filepath.Join(state, "objects", "feed")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "catalogue.db")); err != nil {
		t.Fatal(err)
	}
	said(t, exitRefused, []string{"the object store has no copy of a change feed", "try: narfold restore"}, "rebuild", "--state", state, "--feed-key", key)
}

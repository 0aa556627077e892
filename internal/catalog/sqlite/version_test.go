package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/storepath"
)

func TestTheVersionIsThatOfTheLastCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	a, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]int{}
	for i := range 2000 {
		// Each is a commit, by turns of one and of the other; the log is begun anew several times on the way.
		db := []*DB{a, b}[i%2]
		if _, err := db.Reserve(t.Context(), []catalog.Want{{Base: storepath.Base(fmt.Sprintf("%032d-x", i)), Compression: compress.Zstd}}); err != nil {
			t.Fatal(err)
		}
		v, err := a.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if w, err := b.Version(t.Context()); err != nil || w != v {
			t.Fatalf("after commit %d: %d for one and %d for the other, %v", i, v, w, err)
		}
		if at, ok := seen[v]; ok {
			t.Fatalf("commits %d and %d have the same version", at, i)
		}
		seen[v] = i
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := a.Version(t.Context())
	if _, err := a.Reserve(t.Context(), []catalog.Want{{Base: "zzzz0000000000000000000000000001-x", Compression: compress.Zstd}}); err != nil {
		t.Fatal(err)
	}
	if after, _ := a.Version(t.Context()); after == before {
		t.Error("a commit after the other was closed does not show")
	}
}

func TestClosedCataloguesLeaveNoDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	for range 20 {
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, path) {
			t.Errorf("left open: %s", to)
		}
	}
}

func BenchmarkVersion(b *testing.B) {
	db, err := Open(b.Context(), filepath.Join(b.TempDir(), "catalogue.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for b.Loop() {
		if _, err := db.Version(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

package publish_test

import (
	"errors"
	"fmt"
	"testing"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/storepath"
)

// Whatever call of the object store breaks, and whether it was carried out or not: what is published is whole and closed, running again
// completes, and every object is known to the catalogue.
func TestAFaultOfTheStoreNeverShows(t *testing.T) {
	stores := map[string]func(t *testing.T) objstore.Store{
		"memory": func(t *testing.T) objstore.Store { return newFarm(t).mem },
		"directory": func(t *testing.T) objstore.Store {
			s, err := dir.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
	}
	for name, open := range stores {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				t.Parallel()
				f := newFarm(t)
				f.mem = open(t)
				f.Compressions = []compress.Method{compress.Zstd, compress.Gzip}
				var jobs []publish.Job
				for i := range 40 {
					var refs []string
					if i > 0 {
						refs = append(refs, fmt.Sprintf("item-%d", i/2))
					}
					jobs = append(jobs, item(t, storepath.Nix, fmt.Sprintf("item-%d", i), compress.Zstd, refs...))
				}
				f.Objects = objstoretest.Faulty(f.mem, objstoretest.Seeded(seed, 15))
				broken := 0
				for attempt := 0; ; attempt++ {
					err := f.Run(t.Context(), each(jobs...), func(publish.Result) {})
					f.whole(t)
					if err == nil {
						break
					}
					if !errors.Is(err, objstoretest.ErrInjected) {
						t.Fatalf("attempt %d: %v", attempt, err)
					}
					if broken++; broken == 20 {
						f.Objects = f.mem // the store has recovered
					}
				}
				if broken == 0 {
					t.Error("nothing broke: this seed tests nothing")
				}
				counts, err := f.cat.Counts(t.Context())
				if err != nil || counts.Items != 40 || counts.Files != 80 {
					t.Errorf("after %d broken runs: %+v, %v", broken, counts, err)
				}
				if u := f.unaccounted(t); len(u) > 0 {
					t.Errorf("unaccounted objects: %v", u)
				}
				spoolIsEmpty(t, f)
			})
		}
	}
}

// whole checks that every published item's nars are there, and its references published.
func (f *farm) whole(t *testing.T) {
	t.Helper()
	for it, err := range f.cat.Items(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		f.expand(t, it.Path.Name())
		for _, r := range it.References {
			if r == it.Path.Base {
				continue
			}
			if _, err := f.cat.Item(t.Context(), r.HashPart()); errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("%s is published without its reference %s", it.Path, r)
			}
		}
	}
}

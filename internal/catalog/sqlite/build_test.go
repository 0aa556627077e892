package sqlite_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

func listed(ps ...catalog.Publication) iter.Seq2[catalog.Publication, error] {
	return func(yield func(catalog.Publication, error) bool) {
		for _, p := range ps {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// population is a chain of items with several forms: files in two compressions, a nar that two share, references in no order.
func population(n int) (ps []catalog.Publication) {
	for i := range n {
		var refs []string
		for _, back := range []int{1, 2, 7} {
			if i >= back {
				refs = append(refs, fmt.Sprint("item-", i-back))
			}
		}
		if i%3 == 0 {
			refs = append(refs, fmt.Sprint("item-", i)) // itself
		}
		p := catalogtest.Item(fmt.Sprint("item-", i), refs...)
		if i%5 == 0 {
			p.Files = append(p.Files, catalogtest.File(p.Path.Name(), compress.Lzip))
		}
		if i%11 == 10 {
			p.NarHash, p.NarSize = ps[i-1].NarHash, ps[i-1].NarSize
			p.Files[0].Size = 777 // another file of the same nar, which is not needed
		}
		ps = append(ps, p)
	}
	return ps
}

func TestWhatIsBuiltAnswersAsWhatWasPublished(t *testing.T) {
	ps := population(1000)
	path := filepath.Join(t.TempDir(), "catalogue.db")
	if n, err := sqlite.Build(t.Context(), path, listed(ps...)); n != 1000 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	built, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer built.Close()
	published, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer published.Close()
	for _, p := range ps {
		catalogtest.Reserve(t, published, p)
		if out, err := published.Publish(t.Context(), []catalog.Publication{p}); err != nil || out[0].Verdict != catalog.Published {
			t.Fatal(out, err)
		}
	}
	for _, p := range ps {
		a, errA := built.Item(t.Context(), p.Path.HashPart())
		b, errB := published.Item(t.Context(), p.Path.HashPart())
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		a.Published = b.Published // the moment
		if got, want := fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b); got != want {
			t.Fatalf("item:\n got %s\nwant %s", got, want)
		}
		if string(a.Narinfo) != string(p.Narinfo) {
			t.Fatalf("narinfo:\n got %s\nwant %s", a.Narinfo, p.Narinfo)
		}
	}
	keys := func(c *sqlite.DB) (all []catalog.File) {
		for f, err := range c.Keys(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if len(all) > 0 && all[len(all)-1].Key >= f.Key {
				t.Fatalf("%s comes after %s", f.Key, all[len(all)-1].Key)
			}
			all = append(all, f)
		}
		return all
	}
	if a, b := keys(built), keys(published); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%d keys, want %d", len(a), len(b))
	}
	a, errA := built.Changes(t.Context(), 0, 2000)
	b, errB := published.Changes(t.Context(), 0, 2000)
	if errA != nil || errB != nil || len(a) != len(b) || len(a) != 1000 {
		t.Errorf("%d changes, want %d: %v, %v", len(a), len(b), errA, errB)
	}
	if a, b := uploads(t, built), uploads(t, published); fmt.Sprint(a) != fmt.Sprint(b) || len(a) == 0 {
		t.Errorf("uploads %v, want %v", a, b)
	}
	// It goes on as any other.
	next := catalogtest.Item("next", "item-999")
	catalogtest.Reserve(t, built, next)
	if out, err := built.Publish(t.Context(), []catalog.Publication{next}); err != nil || out[0].Verdict != catalog.Published {
		t.Errorf("%v, %v", out, err)
	}
	if c, err := sqlite.Backup(t.Context(), path, filepath.Join(t.TempDir(), "backup")); err != nil || c.Items != 1001 {
		t.Errorf("its backup, which checks the file: %+v, %v", c, err)
	}
}

func uploads(t *testing.T, c *sqlite.DB) (keys []objstore.Key) {
	t.Helper()
	for u, err := range c.Uploads(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, u.Key)
	}
	return keys
}

func TestWhatCannotBeBuiltLeavesNothing(t *testing.T) {
	interrupted := errors.New("the list ends")
	noFile := catalogtest.Item("a")
	noFile.Files = nil
	for name, c := range map[string]struct {
		items iter.Seq2[catalog.Publication, error]
		want  error
	}{
		"a reference that has not come": {listed(catalogtest.Item("b", "a"), catalogtest.Item("a")), catalog.ErrNotFound},
		"an item twice":                 {listed(catalogtest.Item("a"), catalogtest.Item("a")), catalog.ErrPresent},
		"an item without a file":        {listed(noFile), nil},
		"a list that fails": {func(yield func(catalog.Publication, error) bool) {
			if yield(catalogtest.Item("a"), nil) {
				yield(catalog.Publication{}, interrupted)
			}
		}, interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "catalogue.db")
			_, err := sqlite.Build(t.Context(), path, c.items)
			var of *sqlite.BuildError
			if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want != interrupted && !errors.As(err, &of) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "catalogue.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Build(t.Context(), path, listed()); !errors.Is(err, catalog.ErrInUse) {
		t.Errorf("beside an open one: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Build(t.Context(), path, listed()); !errors.Is(err, catalog.ErrPresent) {
		t.Errorf("over another: %v", err)
	}
}

func TestWhatIsBuiltAtOnceCallsReferencesAsItWasSigned(t *testing.T) {
	low, top := catalogtest.Item("low"), catalogtest.Item("top", "low")
	other := storepath.Base(string(low.Path.HashPart()) + "-lower")
	top.References = []storepath.Base{other}
	top.Narinfo = bytes.ReplaceAll(top.Narinfo, []byte(low.Path.Base), []byte(other))
	path := filepath.Join(t.TempDir(), "catalogue.db")
	if _, err := sqlite.Build(t.Context(), path, func(yield func(catalog.Publication, error) bool) { _ = yield(low, nil) && yield(top, nil) }); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if it, err := db.Item(t.Context(), top.Path.HashPart()); err != nil || !bytes.Equal(it.Narinfo, top.Narinfo) {
		t.Errorf("%v\n%s\nwant\n%s", err, it.Narinfo, top.Narinfo)
	}
}

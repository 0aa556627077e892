package sqlite_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/storepath"
)

func TestContractOfACatalogueThatRemembers(t *testing.T) {
	fresh, again := files()
	catalogtest.Run(t, func(t *testing.T) catalog.Catalogue { return remembering(t, fresh(t)) },
		func(t *testing.T, c catalog.Catalogue) catalog.Catalogue { return remembering(t, again(t, c)) })
}

func remembering(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
	t.Helper()
	if err := c.(*sqlite.DB).Remember(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// two opens one catalogue twice, as two processes do; the first remembers.
func two(t *testing.T) (remembers, other *sqlite.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalogue.db")
	for _, db := range []**sqlite.DB{&remembers, &other} {
		var err error
		if *db, err = sqlite.Open(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*db).Close() })
	}
	return remembers, other
}

func publish(t *testing.T, c catalog.Catalogue, name string, refs ...string) storepath.HashPart {
	t.Helper()
	p := catalogtest.Item(name, refs...)
	catalogtest.Reserve(t, c, p)
	if out, err := c.Publish(t.Context(), []catalog.Publication{p}); err != nil || out[0].Verdict != catalog.Published {
		t.Fatalf("publish %s: %v, %v", name, out, err)
	}
	return p.Path.HashPart()
}

func TestWhatIsRememberedIsNeverWrong(t *testing.T) {
	a, b := two(t)
	first := publish(t, b, "first")
	nobody := catalogtest.Base("nobody").HashPart()
	if absent, err := a.Absent(t.Context(), nobody); absent || err != nil {
		t.Errorf("before it remembers, it knows that something is absent: %v", err)
	}
	remembering(t, a)
	second := publish(t, b, "second", "first")
	look := func(step string, h storepath.HashPart, there bool) {
		t.Helper()
		if absent, err := a.Absent(t.Context(), h); err != nil || absent && there {
			t.Errorf("%s: absent: %v, %v", step, absent, err)
		}
		it, err := a.Item(t.Context(), h)
		if there && (err != nil || it.Path.HashPart() != h) || !there && !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("%s: %s, %v", step, it.Path, err)
		}
	}
	look("remembered", first, true)
	look("published since", second, true)
	if absent, err := a.Absent(t.Context(), nobody); !absent || err != nil {
		t.Errorf("nobody is not absent: %v", err)
	}
	if out, err := b.Withdraw(t.Context(), catalog.Withdrawal{Items: []storepath.HashPart{second}}); err != nil || out[0].Verdict != 0 {
		t.Fatalf("withdraw: %v, %v", out, err)
	}
	look("withdrawn", second, false)
	look("still there", first, true)
	if _, err := b.Restore(t.Context(), []storepath.HashPart{second}); err != nil {
		t.Fatal(err)
	}
	look("brought back", second, true)
	third := publish(t, b, "third", "first", "second")
	look("with a reference that was brought back", third, true)
	if it, err := a.Item(t.Context(), third); err != nil || len(it.References) != 2 {
		t.Errorf("references %v, %v", it.References, err)
	}
}

func TestWhatIsPublishedWhileItIsReadIsRemembered(t *testing.T) {
	a, b := two(t)
	const items = 300
	var published sync.WaitGroup
	published.Go(func() {
		for i := range items {
			publish(t, b, fmt.Sprint("item-", i))
		}
	})
	for range 5 {
		remembering(t, a)
	}
	for i := range items {
		h := catalogtest.Base(fmt.Sprint("item-", i)).HashPart()
		for absent := true; absent; {
			var err error
			if absent, err = a.Absent(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Item(t.Context(), h); absent && err == nil {
				if absent, _ = a.Absent(t.Context(), h); absent {
					t.Fatalf("item %d is published and absent", i)
				}
			}
		}
	}
	published.Wait()
}

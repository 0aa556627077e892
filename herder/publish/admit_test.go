package publish_test

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// counting counts what is reserved.
type counting struct {
	*sqlite.DB
	calls, keys atomic.Int64
}

func (c *counting) Reserve(ctx context.Context, wants []catalog.Want) ([]objstore.Key, error) {
	c.calls.Add(1)
	c.keys.Add(int64(len(wants)))
	return c.DB.Reserve(ctx, wants)
}

func TestWhatIsThereAlreadyIsNotReservedAgain(t *testing.T) {
	secret, _ := key(t, storepath.Guix)
	f := newFarm(t, secret)
	count := &counting{DB: f.cat}
	f.Publisher.Catalogue = count
	plain := narOf(t, "the same in all")
	publishAll := func() (verdicts map[catalog.Verdict]int) {
		verdicts = make(map[catalog.Verdict]int)
		jobs := func(yield func(publish.Job, error) bool) {
			for i := range 1200 {
				n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: catalogtest.Base(fmt.Sprint(i))}}
				dump := func(_ context.Context, w io.Writer) error { _, err := w.Write(plain); return err }
				if !yield(publish.Job{Narinfo: n, Sign: true, Dump: dump}, nil) {
					return
				}
			}
		}
		if err := f.Run(t.Context(), jobs, func(r publish.Result) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			verdicts[r.Verdict]++
		}); err != nil {
			t.Fatal(err)
		}
		return verdicts
	}
	if v := publishAll(); v[catalog.Published] != 1200 {
		t.Fatalf("first: %v", v)
	}
	if n := count.keys.Load(); n != 1200 {
		t.Errorf("%d keys were reserved for 1200 items", n)
	}
	if n := count.calls.Load(); n > 100 {
		t.Errorf("they were reserved in %d transactions", n)
	}
	count.keys.Store(0)
	if v := publishAll(); v[catalog.Present] != 1200 {
		t.Fatalf("again: %v", v)
	}
	if n := count.keys.Load(); n != 0 {
		t.Errorf("%d keys were reserved for what is there", n)
	}
}

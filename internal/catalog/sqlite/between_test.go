package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/storepath"
)

// interrupting is a context that does something when it is looked at for the nth time: a call looks at it where it waits for others.
type interrupting struct {
	context.Context
	looks, at int
	do        func()
}

func (c *interrupting) Done() <-chan struct{} {
	if c.looks++; c.looks == c.at {
		c.do()
	}
	return c.Context.Done()
}

// between is a catalogue that two processes have open, with an item low that top references.
type between struct {
	one, other *DB
	low, top   catalog.Publication
}

func newBetween(t *testing.T) *between {
	t.Helper()
	b := &between{low: catalogtest.Item("low"), top: catalogtest.Item("top", "low")}
	path := filepath.Join(t.TempDir(), "catalogue.db")
	for _, db := range []**DB{&b.one, &b.other} {
		var err error
		if *db, err = Open(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*db).Close() })
	}
	b.publish(t, b.low)
	return b
}

func (b *between) publish(t *testing.T, p catalog.Publication) {
	t.Helper()
	catalogtest.Reserve(t, b.other, p)
	if out, err := b.other.Publish(t.Context(), []catalog.Publication{p}); err != nil || out[0].Verdict != catalog.Published {
		t.Fatalf("%+v, %v", out, err)
	}
}

func (b *between) withdraw(t *testing.T, ps ...catalog.Publication) (ids []int64) {
	t.Helper()
	var hs []storepath.HashPart
	for _, p := range ps {
		hs = append(hs, p.Path.HashPart())
	}
	out, err := b.other.Withdraw(t.Context(), catalog.Withdrawal{Items: hs})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		if o.Verdict != catalog.Withdrawn {
			t.Fatalf("%+v", out)
		}
		ids = append(ids, o.Sequence)
	}
	return ids
}

// eachMoment calls f with contexts that do something at one moment after the other, until f does not look so often.
func eachMoment(t *testing.T, f func(t *testing.T, at func(do func()) *interrupting)) {
	t.Helper()
	moments := 0
	for again := true; again; {
		again = false
		t.Run(fmt.Sprintf("moment %d", moments+1), func(t *testing.T) {
			var ctx *interrupting
			f(t, func(do func()) *interrupting {
				ctx = &interrupting{Context: t.Context(), at: moments + 1, do: do}
				return ctx
			})
			again = ctx.looks >= ctx.at
		})
		if again {
			moments++
		}
	}
	if moments < 3 {
		t.Errorf("only %d moments were tried", moments)
	}
}

func TestAnItemIsNotWithdrawnThatIsReferencedMeanwhile(t *testing.T) {
	eachMoment(t, func(t *testing.T, at func(func()) *interrupting) {
		b := newBetween(t)
		published := false
		ctx := at(func() { b.publish(t, b.top); published = true })
		out, err := b.one.Withdraw(ctx, catalog.Withdrawal{Items: []storepath.HashPart{b.low.Path.HashPart()}})
		if err != nil {
			t.Fatal(err)
		}
		want := catalog.WithdrawOutcome{Verdict: catalog.Withdrawn, Sequence: 1}
		if published {
			want = catalog.WithdrawOutcome{Verdict: catalog.Referenced, By: b.top.Path.Base}
		}
		if out[0] != want {
			t.Errorf("%+v, want %+v", out[0], want)
		}
		if missing, err := b.one.Missing(t.Context(), []storepath.HashPart{b.low.Path.HashPart()}); err != nil || len(missing) == 1 == published {
			t.Errorf("missing: %v, %v", missing, err)
		}
	})
}

func TestAnItemIsWithdrawnUnderTheNumberThatItGotMeanwhile(t *testing.T) {
	eachMoment(t, func(t *testing.T, at func(func()) *interrupting) {
		b := newBetween(t)
		want := catalog.WithdrawOutcome{Verdict: catalog.Withdrawn, Sequence: 1}
		ctx := at(func() {
			b.withdraw(t, b.low)
			b.publish(t, b.top) // low comes back
			want = catalog.WithdrawOutcome{Verdict: catalog.Referenced, By: b.top.Path.Base}
		})
		out, err := b.one.Withdraw(ctx, catalog.Withdrawal{Items: []storepath.HashPart{b.low.Path.HashPart()}})
		if err != nil || out[0] != want {
			t.Errorf("%+v, want %+v; %v", out[0], want, err)
		}
	})
}

func TestAnItemIsNotDeletedThatComesBackOrIsNeededMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		before, meanwhile func(t *testing.T, b *between) []int64 // before returns what is to be deleted
		want              catalog.DeleteVerdict
	}{
		"undone": {
			func(t *testing.T, b *between) []int64 { return b.withdraw(t, b.low) },
			func(t *testing.T, b *between) []int64 {
				if vs, err := b.other.Restore(t.Context(), []storepath.HashPart{b.low.Path.HashPart()}); err != nil || vs[0] != catalog.Restored {
					t.Fatal(vs, err)
				}
				return nil
			}, catalog.NotCondemned,
		},
		"referenced": {
			func(t *testing.T, b *between) []int64 { return b.withdraw(t, b.low) },
			func(t *testing.T, b *between) []int64 { b.publish(t, b.top); return nil }, catalog.NotCondemned,
		},
		"withdrawn with what needs it, under a number that was guessed": {
			func(t *testing.T, b *between) []int64 { b.publish(t, b.top); return []int64{1} },
			func(t *testing.T, b *between) []int64 { return b.withdraw(t, b.top, b.low) }, catalog.Needed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachMoment(t, func(t *testing.T, at func(func()) *interrupting) {
				b := newBetween(t)
				ids, happened := c.before(t, b), false
				ctx := at(func() { c.meanwhile(t, b); happened = true })
				out, err := b.one.BeginDelete(ctx, ids, time.Now().Add(time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				if happened && out[0].Verdict != c.want {
					t.Errorf("%+v, want %s", out[0], c.want)
				}
			})
		})
	}
}

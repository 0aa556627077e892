package catalogtest

import (
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// Popularity holds a catalogue to what catalog.Popularity promises.
func Popularity(t *testing.T, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	c := open(t)
	for _, name := range []string{"a", "b", "c"} {
		publish(t, c, Item(name))
	}
	hash := func(name string) storepath.HashPart { return Base(name).HashPart() }
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	served := func(name string, times int64, day int) catalog.Served {
		return catalog.Served{Hash: hash(name), Times: times, Last: monday.AddDate(0, 0, day)}
	}
	record := func(s ...catalog.Served) {
		t.Helper()
		if err := c.RecordServed(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want ...catalog.Served) {
		t.Helper()
		got := map[storepath.HashPart]catalog.Served{}
		for s, err := range c.EachServed(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if _, again := got[s.Hash]; again {
				t.Errorf("%s: %s is told twice", what, s.Hash)
			}
			got[s.Hash] = s
		}
		for _, w := range want {
			if g := got[w.Hash]; g.Times != w.Times || !g.Last.Equal(w.Last) {
				t.Errorf("%s: %+v, want %+v", what, g, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d items were served, want %d", what, len(got), len(want))
		}
	}
	want("at first")
	record()
	record(served("a", 3, 1), served("b", 1, 1))
	want("once", served("a", 3, 1), served("b", 1, 1))
	record(served("a", 2, 0), served("b", 4, 2), served("nobody", 1, 1))
	want("a day before and a day after", served("a", 5, 1), served("b", 5, 2))
	c = reopen(t, c)
	want("after a restart", served("a", 5, 1), served("b", 5, 2))
}

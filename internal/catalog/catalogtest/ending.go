package catalogtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

func testDelete(t *testing.T, fresh fresh, again again) {
	t.Run("only what was withdrawn long enough ago, and nothing that stays needs, begins to be deleted", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("mid", "low"), Item("top", "mid"))
		c.withdraw("low", "mid", "top")
		low, mid, top := c.sequences("low")[0], c.sequences("mid")[0], c.sequences("top")[0]
		try := func(before time.Time, ids ...int64) (all []string) {
			t.Helper()
			out, err := c.BeginDelete(t.Context(), ids, before)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range out {
				all = append(all, fmt.Sprintf("%s %d", o.Verdict, len(o.Keys)))
			}
			return all
		}
		equal(t, "young", try(time.Now().Add(-time.Minute), low, mid, top), []string{"too young 0", "too young 0", "too young 0"})
		equal(t, "without the referrer", try(soon(), mid, low), []string{"needed 0", "needed 0"})
		out, err := c.BeginDelete(t.Context(), []int64{low}, soon())
		if err != nil || out[0].By != Base("mid") {
			t.Errorf("%+v, %v", out, err)
		}
		equal(t, "no such item", try(soon(), top+1000), []string{"not condemned 0"})
		equal(t, "the referrer", try(soon(), top), []string{"deleting 1"})
		equal(t, "the rest, and again", try(soon(), low, mid, top), []string{"deleting 1", "deleting 1", "deleting 1"})
	})

	t.Run("what is deleting cannot come back, is listed after a restart, and leaves a tombstone", func(t *testing.T) {
		low, a := Item("low"), Item("a", "low")
		a.Files = append(a.Files, File("a", compress.Lzip))
		c := fresh(t, low, a)
		c.withdraw("low", "a")
		keys := []objstore.Key{a.Files[1].Key, a.Files[0].Key}
		equal(t, "keys", c.beginDelete("a")[0].Keys, keys)
		c = again(c)
		equal(t, "undoing", c.restore("a"), []string{"gone"})
		equal(t, "items", names(t, c), []string(nil))
		for _, w := range collect(t, c.Withdrawn(t.Context(), 0)) {
			state, keys := catalog.StateCondemned, []objstore.Key(nil)
			if w.Path == a.Path {
				state, keys = catalog.StateDeleting, []objstore.Key{a.Files[1].Key, a.Files[0].Key}
			}
			equal(t, "state of "+w.Path.Name(), w.State, state)
			equal(t, "keys of "+w.Path.Name(), w.Keys, keys)
		}
		out := publish(t, c, Item("top", "a"))
		equal(t, "what references it", out[0].Missing, []storepath.Base{a.Path.Base})
		id := c.sequences("a")
		if err := c.Deleted(t.Context(), append(id, c.sequences("low")...)); err != nil {
			t.Fatal(err)
		}
		if err := c.Deleted(t.Context(), id); err != nil {
			t.Errorf("deleted twice: %v", err)
		}
		c = again(c)
		if ws := collect(t, c.Withdrawn(t.Context(), 0)); len(ws) != 1 || ws[0].Path != low.Path {
			t.Errorf("withdrawn: %+v", ws)
		}
		ts := collect(t, c.Tombstones(t.Context(), 0))
		if len(ts) != 1 || ts[0].Path != a.Path || ts[0].NarHash != a.NarHash || ts[0].NarSize != a.NarSize || ts[0].Sequence != id[0] || ts[0].By != "gc" || ts[0].Plan != "plan 1" || ts[0].Deleted.Before(ts[0].Withdrawn) {
			t.Errorf("tombstones: %+v", ts)
		}
		if s, err := c.Owner(t.Context(), a.Files[0].Key); s != catalog.KeySpent || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
	})

	t.Run("keys are never used again, neither while the objects are deleted nor when nobody remembers the item", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		want := []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}}
		c.withdraw("a")
		ids, keys := c.sequences("a"), c.beginDelete("a")[0].Keys
		second := a
		second.Files = []catalog.File{a.Files[0]}
		second.Files[0].Key = reserve(t, c, want)[0]
		equal(t, "the second key", second.Files[0].Key, catalog.NarKey(compress.Zstd, a.Path.Base, 2))
		out, err := c.Publish(t.Context(), []catalog.Publication{second})
		if err != nil || out[0].Verdict != catalog.Published {
			t.Fatalf("%+v, %v", out, err)
		}
		if err := c.Deleted(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		equal(t, "files", c.item("a").Files, second.Files)
		if slices.Contains(keys, second.Files[0].Key) {
			t.Errorf("the new object has the key of the one that was deleted: %v", keys)
		}
		// Somebody who was slow publishes it again with the first key, whose object he may have put just now.
		out, err = c.Publish(t.Context(), []catalog.Publication{a})
		if err != nil || out[0].Verdict != catalog.Present || !slices.Equal(out[0].Unused, keys) {
			t.Errorf("%+v, %v", out, err)
		}
		c.delete("a")
		if _, err := c.Publish(t.Context(), []catalog.Publication{a}); !errors.Is(err, catalog.ErrNotReserved) {
			t.Errorf("published under a key that was deleted: %v", err)
		}
		c = again(c)
		equal(t, "the third key", reserve(t, c, want)[0], catalog.NarKey(compress.Zstd, a.Path.Base, 3))
		if ok, err := c.Abandon(t.Context(), keys[0], soon()); !ok || err != nil {
			t.Errorf("the slow one's object is not cleaned up: %v, %v", ok, err)
		}
		if err := c.Abandoned(t.Context(), keys[0]); err != nil {
			t.Fatal(err)
		}
		want[0].After = ""
		equal(t, "the third key again", reserve(t, c, want)[0], catalog.NarKey(compress.Zstd, a.Path.Base, 3))
	})

	t.Run("the key of a condemned nar is no upload", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		c.withdraw("a")
		c.beginDelete("a")
		second := a
		second.Files = []catalog.File{a.Files[0]}
		second.Files[0].Key = reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})[0]
		for _, p := range []catalog.Publication{second, a} {
			if _, err := c.Publish(t.Context(), []catalog.Publication{p}); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := c.Abandon(t.Context(), a.Files[0].Key, soon()); ok || err != nil {
			t.Errorf("Abandon = %v, %v", ok, err)
		}
	})

	t.Run("a nar is deleted with the last item that could come back with it", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		publish(t, c, alike("b", a), alike("c", a))
		c.withdraw("a", "b")
		if out := c.beginDelete("a"); out[0].Verdict != catalog.Deletable || len(out[0].Keys) != 0 {
			t.Errorf("while one is live: %+v", out)
		}
		c.withdraw("c")
		if out := c.beginDelete("b"); len(out[0].Keys) != 0 {
			t.Errorf("while one is condemned: %+v", out)
		}
		equal(t, "undoing the last", c.restore("c"), []string{"restored"})
		equal(t, "files", c.item("c").Files, a.Files)
		c.withdraw("c")
		ids := c.sequences("a", "b", "c")
		if out := c.beginDelete("c"); len(out[0].Keys) != 1 || out[0].Keys[0] != a.Files[0].Key {
			t.Errorf("the last: %+v", out)
		}
		if err := c.Deleted(t.Context(), ids[:2]); err != nil {
			t.Fatal(err)
		}
		if ws := collect(t, again(c).Withdrawn(t.Context(), 0)); len(ws) != 1 || len(ws[0].Keys) != 1 {
			t.Errorf("what is left to do: %+v", ws)
		}
	})

	t.Run("changes are told to the end, and after it", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a, Item("b", "a"))
		c.withdraw("b", "a")
		c.restore("b")
		c.withdraw("b", "a")
		c.beginDelete("b")
		equal(t, "changes", c.told(0), []string{"published a, now condemned", "published b, now deleting", "withdrawn b, now deleting", "withdrawn a, now condemned",
			"restored a, now condemned", "restored b, now deleting", "withdrawn b, now deleting", "withdrawn a, now condemned", "deleted b, now deleting"})
		first, err := c.Changes(t.Context(), 0, 1)
		if err != nil || string(first[0].Item.Narinfo) != string(a.Narinfo) || !slices.Equal(first[0].Item.Files, a.Files) || first[0].Item.NarHash != a.NarHash {
			t.Errorf("of a condemned item: %+v, %v", first, err)
		}
		if err := c.Deleted(t.Context(), c.sequences("b")); err != nil {
			t.Fatal(err)
		}
		c = again(c)
		equal(t, "changes", c.told(7), []string{"withdrawn a, now condemned", "deleted b, now gone"})
		last, err := c.Changes(t.Context(), 8, 1)
		if b := Item("b", "a"); err != nil || last[0].Item.Path != b.Path || last[0].Item.NarHash != b.NarHash || last[0].Item.NarSize != b.NarSize || last[0].Sequence != 9 {
			t.Errorf("of an item that is gone: %+v, %v", last, err)
		}
	})
}

package catalogtest

import (
	"fmt"
	"sync"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

func testReturn(t *testing.T, fresh fresh, again again) {
	t.Run("undoing brings an item back whole, after what it references", func(t *testing.T) {
		low, mid, top := Item("low"), Item("mid", "low"), Item("top", "mid", "low", "top")
		c := fresh(t, low, mid, top)
		before := c.item("top")
		c.withdraw("low", "mid", "top")
		c = again(c)
		end, err := c.EachHashPart(t.Context(), 0, func([20]byte) { t.Error("something is there") })
		if err != nil {
			t.Fatal(err)
		}
		if end == 0 {
			end = before.Sequence
		}
		equal(t, "verdicts", c.restore("top", "low", "absent"), []string{"restored", "live", "gone"})
		equal(t, "items", names(t, c), []string{"low", "mid", "top"})
		var back []storepath.HashPart
		if _, err := c.EachHashPart(t.Context(), end, func(h [20]byte) { back = append(back, storepath.HashPartOf(h)) }); err != nil || len(back) != 3 {
			t.Errorf("hash parts since: %v, %v", back, err)
		}
		after := c.item("top")
		if after.Sequence <= before.Sequence || after.Sequence <= c.item("mid").Sequence {
			t.Errorf("it was number %d and is %d, after %d", before.Sequence, after.Sequence, c.item("mid").Sequence)
		}
		after.Sequence = before.Sequence
		equal(t, "item", after, before)
		equal(t, "narinfo", string(after.Narinfo), string(top.Narinfo))
		equal(t, "changes", c.told(6), []string{"restored low, now live", "restored mid, now live", "restored top, now live"})
		counts, err := c.Counts(t.Context())
		if err != nil || counts.Items != 3 || counts.Nars != 3 || counts.Files != 3 || counts.Bytes != 1500 {
			t.Errorf("counts: %+v, %v", counts, err)
		}
		if s, err := c.Owner(t.Context(), top.Files[0].Key); s != catalog.KeyLive || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
		if ws := collect(t, c.Withdrawn(t.Context(), 0)); len(ws) != 0 {
			t.Errorf("still withdrawn: %+v", ws)
		}
		equal(t, "withdrawn again", c.withdraw("low", "mid", "top"), []string{"withdrawn", "withdrawn", "withdrawn"})
		equal(t, "and brought back again", c.restore("top"), []string{"restored"})
		equal(t, "items", names(t, c), []string{"low", "mid", "top"})
	})

	t.Run("an item that is published brings back what it references", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("mid", "low"), Item("aside", "low"))
		c.withdraw("low", "mid", "aside")
		equal(t, "verdicts", verdicts(publish(t, c, Item("top", "mid"))), []string{"published"})
		equal(t, "items", names(t, c), []string{"low", "mid", "top"})
		equal(t, "changes", c.told(6), []string{"restored low, now live", "restored mid, now live", "published top, now live"})
	})

	t.Run("an item that is refused brings nothing back", func(t *testing.T) {
		c := fresh(t, Item("low"))
		c.withdraw("low")
		out := publish(t, c, Item("top", "low", "absent"))
		equal(t, "missing", out[0].Missing, []storepath.Base{Base("absent")})
		equal(t, "items", names(t, c), []string(nil))
	})

	t.Run("an item that is published again comes back as it was, with new compressions", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("a", "low"))
		was := c.item("a")
		c.withdraw("low", "a")
		a := Item("a", "low")
		a.Files = append(a.Files, File("a", compress.Lzip))
		reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Lzip}})
		out, err := c.Publish(t.Context(), []catalog.Publication{a})
		if err != nil || out[0].Verdict != catalog.Present || len(out[0].Unused) != 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		c = again(c)
		equal(t, "files", c.item("a").Files, []catalog.File{File("a", compress.Lzip), File("a", compress.Zstd)})
		equal(t, "narinfo", string(c.item("a").Narinfo), string(was.Narinfo))
		equal(t, "changes", c.told(4), []string{"restored low, now live", "restored a, now live", "files a, now live"})
	})

	t.Run("an item that is published again with another nar comes back with the first", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		c.withdraw("a")
		b := a
		b.NarHash, b.Files = digest.Of([]byte("another")), nil
		render(&b)
		out, err := c.Publish(t.Context(), []catalog.Publication{b})
		if err != nil || out[0].Verdict != catalog.Differs || out[0].Other != a.NarHash {
			t.Fatalf("%+v, %v", out, err)
		}
		equal(t, "nar hash", c.item("a").NarHash, a.NarHash)
	})

	t.Run("another item with the nar brings the nar back, and not the item", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		c.withdraw("a")
		equal(t, "verdicts", verdicts(publish(t, c, alike("b", a))), []string{"published"})
		equal(t, "files", c.item("b").Files, a.Files)
		equal(t, "items", names(t, c), []string{"b"})
		if out := c.beginDelete("a"); out[0].Verdict != catalog.Deletable || len(out[0].Keys) != 0 {
			t.Errorf("deleting a, whose nar b has: %+v", out)
		}
		if s, err := c.Owner(t.Context(), a.Files[0].Key); s != catalog.KeyLive || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
	})

	t.Run("what waits is released with what was withdrawn meanwhile, and waits again for what was deleted", func(t *testing.T) {
		c := fresh(t, Item("one"), Item("two"))
		a, b := Item("a", "one", "last"), Item("b", "two", "last")
		a.Wait, b.Wait = true, true
		publish(t, c, a, b)
		c.withdraw("one")
		c.delete("two")
		c = again(c)
		equal(t, "released", publish(t, c, Item("last"))[0].Released, []storepath.Path{a.Path})
		equal(t, "items", names(t, c), []string{"last", "one", "a"})
		w := collect(t, c.WaitingItems(t.Context()))
		if len(w) != 1 || w[0].Path != b.Path || len(w[0].Missing) != 1 || w[0].Missing[0] != Base("two").HashPart() {
			t.Errorf("waiting: %+v", w)
		}
		two := Item("two")
		two.Files[0].Key = reserve(t, c, []catalog.Want{{Base: two.Path.Base, Compression: compress.Zstd}})[0]
		out, err := c.Publish(t.Context(), []catalog.Publication{two})
		if err != nil || len(out[0].Released) != 1 || out[0].Released[0] != b.Path {
			t.Errorf("%+v, %v", out, err)
		}
	})

	t.Run("publishers and collectors at once leave a closed catalogue", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("mid", "low"))
		var tops []catalog.Publication
		for i := range 40 {
			tops = append(tops, Item(fmt.Sprintf("top-%d", i), "mid"))
		}
		Reserve(t, c, tops...)
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range tops {
				if out, err := c.Publish(t.Context(), tops[i:i+1]); err != nil || out[0].Verdict != catalog.Published {
					t.Errorf("%+v, %v", out, err)
				}
			}
		})
		for range 2 {
			wg.Go(func() {
				for i := range tops {
					if _, err := c.Withdraw(t.Context(), catalog.Withdrawal{Items: parts("low", "mid", tops[i].Path.Name())}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		there := map[storepath.Base]bool{}
		for _, it := range collect(t, c.Items(t.Context(), 0)) {
			for _, r := range it.References {
				if !there[r] {
					t.Errorf("%s is there without %s", it.Path.Name(), r.Name())
				}
			}
			there[it.Path.Base] = true
		}
	})
}

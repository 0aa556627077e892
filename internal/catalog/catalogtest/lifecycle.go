package catalogtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// living is a catalogue with what a test does with the lives of its items.
type living struct {
	catalog.Catalogue
	*testing.T
}

// soon is a time before which everything was withdrawn.
func soon() time.Time { return time.Now().Add(time.Hour) }

func parts(names ...string) (hs []storepath.HashPart) {
	for _, n := range names {
		hs = append(hs, Base(n).HashPart())
	}
	return hs
}

// withdraw withdraws by name and returns the verdicts.
func (c living) withdraw(names ...string) (verdicts []string) {
	c.T.Helper()
	out, err := c.Withdraw(c.T.Context(), catalog.Withdrawal{Items: parts(names...), By: "gc", Plan: "plan 1"})
	if err != nil {
		c.Fatal(err)
	}
	for _, o := range out {
		verdicts = append(verdicts, o.Verdict.String())
	}
	return verdicts
}

func (c living) restore(names ...string) (verdicts []string) {
	c.T.Helper()
	out, err := c.Restore(c.T.Context(), parts(names...))
	if err != nil {
		c.Fatal(err)
	}
	for _, v := range out {
		verdicts = append(verdicts, v.String())
	}
	return verdicts
}

// sequences returns the numbers of withdrawn items by name.
func (c living) sequences(names ...string) []int64 {
	c.T.Helper()
	all := make([]int64, len(names))
	for _, w := range collect(c.T, c.Withdrawn(c.T.Context(), 0)) {
		if i := slices.Index(names, w.Path.Name()); i >= 0 {
			all[i] = w.Sequence
		}
	}
	return all
}

func (c living) beginDelete(names ...string) []catalog.DeleteOutcome {
	c.T.Helper()
	out, err := c.BeginDelete(c.T.Context(), c.sequences(names...), soon())
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// delete goes all the way.
func (c living) delete(names ...string) {
	c.T.Helper()
	equal(c.T, "withdrawing", c.withdraw(names...), slices.Repeat([]string{"withdrawn"}, len(names)))
	ids := c.sequences(names...)
	for i, o := range c.beginDelete(names...) {
		equal(c.T, "deleting "+names[i], o.Verdict, catalog.Deletable)
	}
	if err := c.Deleted(c.T.Context(), ids); err != nil {
		c.Fatal(err)
	}
}

func (c living) item(name string) catalog.Item {
	c.T.Helper()
	it, err := c.Item(c.T.Context(), Base(name).HashPart())
	if err != nil {
		c.Fatal(err)
	}
	return it
}

// told returns kind, name and state of all changes after the given one.
func (c living) told(after int64) (all []string) {
	c.T.Helper()
	changes, err := c.Changes(c.T.Context(), after, 1000)
	if err != nil {
		c.Fatal(err)
	}
	kinds := map[catalog.ChangeKind]string{catalog.ChangePublished: "published", catalog.ChangeFilesAdded: "files", catalog.ChangeFileReplaced: "replaced",
		catalog.ChangeWithdrawn: "withdrawn", catalog.ChangeRestored: "restored", catalog.ChangeDeleted: "deleted"}
	for _, ch := range changes {
		all = append(all, fmt.Sprintf("%s %s, now %s", kinds[ch.Kind], ch.Item.Path.Name(), ch.State))
	}
	return all
}

// alike makes an item that has the nar of another.
func alike(name string, other catalog.Publication, refs ...string) catalog.Publication {
	p := Item(name, refs...)
	p.NarHash, p.NarSize, p.Files = other.NarHash, other.NarSize, nil
	render(&p)
	return p
}

// Lifecycle checks the contract of catalog.Lifecycle. open and reopen are as in Run.
func Lifecycle(t *testing.T, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	fresh := func(t *testing.T, ps ...catalog.Publication) living {
		c := living{open(t), t}
		publish(t, c, ps...)
		return c
	}
	again := func(c living) living { return living{reopen(c.T, c.Catalogue), c.T} }
	testWithdraw(t, fresh, again)
	testReturn(t, fresh, again)
	testDelete(t, fresh, again)
	testLease(t, fresh, again)
	testMoment(t, fresh, again)
}

type (
	fresh func(t *testing.T, ps ...catalog.Publication) living
	again func(c living) living
)

func testWithdraw(t *testing.T, fresh fresh, again again) {
	t.Run("what is withdrawn is not there for any reader, also after a restart", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("top", "low"))
		was, err := c.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "verdicts", c.withdraw("top", "absent"), []string{"withdrawn", "not live"})
		if is, err := c.Version(t.Context()); is == was || err != nil {
			t.Errorf("the version did not change: %v", err)
		}
		c = again(c)
		h := Base("top").HashPart()
		if _, err := c.Item(t.Context(), h); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("Item: %v", err)
		}
		missing, err := c.Missing(t.Context(), parts("low", "top"))
		equal(t, "missing", missing, []storepath.HashPart{h})
		fs, ferr := c.Files(t.Context(), []digest.SHA256{Item("top").NarHash, Item("low").NarHash})
		if err != nil || ferr != nil || len(fs[0]) != 0 || len(fs[1]) != 1 {
			t.Errorf("files: %v, %v, %v", fs, ferr, err)
		}
		equal(t, "items", names(t, c), []string{"low"})
		n := 0
		if _, err := c.EachHashPart(t.Context(), 0, func([20]byte) { n++ }); n != 1 || err != nil {
			t.Errorf("%d hash parts, %v", n, err)
		}
		counts, err := c.Counts(t.Context())
		equal(t, "counts", counts, catalog.Counts{Items: 1, Nars: 1, NarBytes: 1003, Files: 1, Bytes: 500, Dirs: map[storepath.Dir]int64{storepath.Guix: 1}})
		if ks := collect(t, c.Keys(t.Context())); err != nil || len(ks) != 1 || ks[0] != File("low", compress.Zstd) {
			t.Errorf("keys: %+v, %v", ks, err)
		}
		if s, err := c.Owner(t.Context(), File("top", compress.Zstd).Key); s != catalog.KeyCondemned || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
		if us := collect(t, c.Uploads(t.Context())); len(us) != 0 {
			t.Errorf("uploads: %+v", us)
		}
		equal(t, "withdrawn again", c.withdraw("top"), []string{"not live"})
	})

	t.Run("a withdrawn item and its files are found by who was told of it, until it is deleting", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, Item("low"), a, Item("top", "low", "a", "top"))
		publish(t, c, alike("b", a))
		was := c.item("top")
		if _, err := c.Condemned(t.Context(), a.Path.HashPart()); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("of a live item: %v", err)
		}
		c.withdraw("top", "a")
		c = again(c)
		for _, want := range []catalog.Item{was, a.Item} {
			got, err := c.Condemned(t.Context(), want.Path.HashPart())
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "files", got.Files, want.Files)
			equal(t, "narinfo", string(got.Narinfo), string(want.Narinfo))
			equal(t, "references", got.References, want.References)
		}
		c.beginDelete("top")
		if _, err := c.Condemned(t.Context(), was.Path.HashPart()); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("of an item that is deleting: %v", err)
		}
	})

	t.Run("what was withdrawn is listed with when, by whom and why", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("top", "low"))
		before, ids := time.Now().Add(-time.Second), []int64{c.item("low").Sequence, c.item("top").Sequence}
		out, err := c.Withdraw(t.Context(), catalog.Withdrawal{Items: parts("low", "top"), By: "gc", Plan: "plan 7"})
		if err != nil || out[0].Sequence != ids[0] || out[1].Sequence != ids[1] {
			t.Errorf("%+v, %v", out, err)
		}
		all := collect(t, again(c).Withdrawn(t.Context(), 0))
		for i := range all {
			if all[i].At.Before(before) || all[i].At.After(time.Now().Add(time.Second)) {
				t.Errorf("withdrawn at %v", all[i].At)
			}
			all[i].At = time.Time{}
		}
		var want []catalog.WithdrawnItem
		for i, p := range []catalog.Publication{Item("low"), Item("top", "low")} {
			want = append(want, catalog.WithdrawnItem{Path: p.Path, NarHash: p.NarHash, NarSize: p.NarSize, Sequence: ids[i], State: catalog.StateCondemned, By: "gc", Plan: "plan 7"})
		}
		equal(t, "withdrawn", all, want)
	})

	t.Run("what a live item references stays, with all that it references", func(t *testing.T) {
		c := fresh(t, Item("a"), Item("b", "a"), Item("c", "b", "c"), Item("d", "c"), Item("other", "a"))
		out, err := c.Withdraw(t.Context(), catalog.Withdrawal{Items: parts("a", "b", "c")})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "outcomes", out, []catalog.WithdrawOutcome{{Verdict: catalog.Referenced, By: out[0].By}, {Verdict: catalog.Referenced, By: Base("c")}, {Verdict: catalog.Referenced, By: Base("d")}})
		if out[0].By != Base("b") && out[0].By != Base("other") {
			t.Errorf("a is kept by %s", out[0].By)
		}
		equal(t, "items", len(names(t, c)), 5)
		if len(c.told(5)) != 0 {
			t.Errorf("changes: %v", c.told(5))
		}
	})

	t.Run("a set is withdrawn referrers first, in whatever order it is given", func(t *testing.T) {
		c := fresh(t, Item("a"), Item("b", "a"), Item("c", "b", "c"), Item("stays", "a"))
		equal(t, "verdicts", c.withdraw("a", "b", "c"), []string{"referenced", "withdrawn", "withdrawn"})
		equal(t, "changes", c.told(4), []string{"withdrawn c, now condemned", "withdrawn b, now condemned"})
		equal(t, "the rest", c.withdraw("a", "stays"), []string{"withdrawn", "withdrawn"})
		equal(t, "items", names(t, c), []string(nil))
	})

	t.Run("a nar that a live item has too stays, under its keys", func(t *testing.T) {
		a := Item("a")
		b := alike("b", a)
		c := fresh(t, a)
		publish(t, c, b)
		equal(t, "verdicts", c.withdraw("a"), []string{"withdrawn"})
		c = again(c)
		equal(t, "files", c.item("b").Files, a.Files)
		equal(t, "narinfo", string(c.item("b").Narinfo), string(b.Narinfo))
		if s, err := c.Owner(t.Context(), a.Files[0].Key); s != catalog.KeyLive || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
		equal(t, "keys", collect(t, c.Keys(t.Context())), a.Files)
		equal(t, "the next key", reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})[0], catalog.NarKey(compress.Zstd, a.Path.Base, 2))
		counts, err := c.Counts(t.Context())
		if err != nil || counts.Items != 1 || counts.Nars != 1 || counts.Files != 1 {
			t.Errorf("counts: %+v, %v", counts, err)
		}
		equal(t, "withdrawing the other", c.withdraw("b"), []string{"withdrawn"})
		if counts, err := c.Counts(t.Context()); err != nil || counts.Nars != 0 || counts.Files != 0 || counts.Bytes != 0 || counts.NarBytes != 0 {
			t.Errorf("counts: %+v, %v", counts, err)
		}
	})

	t.Run("the narinfo of a withdrawn item stays byte for byte while its nar's files change", func(t *testing.T) {
		a := Item("a")
		c := fresh(t, a)
		publish(t, c, alike("b", a))
		c.withdraw("a")
		if err := c.Replace(t.Context(), a.Files[0].Key, other(t, c, "a", "")); err != nil {
			t.Fatal(err)
		}
		c.restore("a")
		equal(t, "narinfo", string(c.item("a").Narinfo), string(a.Narinfo))
		equal(t, "files", c.item("a").Files, c.item("b").Files)
	})

	t.Run("walks over what was withdrawn give everything once, in order, beyond a page", func(t *testing.T) {
		const n = 2500
		c := fresh(t)
		var ps []catalog.Publication
		var wants []catalog.Want
		var all []string
		for i := range n {
			p := Item(fmt.Sprintf("item-%04d", i))
			ps, all = append(ps, p), append(all, p.Path.Name())
			wants = append(wants, catalog.Want{Base: p.Path.Base, Compression: compress.Zstd})
		}
		reserve(t, c, wants)
		if _, err := c.Publish(t.Context(), ps); err != nil {
			t.Fatal(err)
		}
		c.withdraw(all...)
		var ids []int64
		for _, w := range collect(t, c.Withdrawn(t.Context(), 0)) {
			ids = append(ids, w.Sequence)
		}
		if len(ids) != n || !slices.IsSorted(ids) {
			t.Errorf("%d withdrawn items, sorted %v", len(ids), slices.IsSorted(ids))
		}
		if rest := collect(t, c.Withdrawn(t.Context(), ids[n-2])); len(rest) != 1 || rest[0].Sequence != ids[n-1] {
			t.Errorf("after the last but one: %+v", rest)
		}
		if _, err := c.BeginDelete(t.Context(), ids, soon()); err != nil {
			t.Fatal(err)
		}
		if err := c.Deleted(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		var gone []int64
		for _, d := range collect(t, c.Tombstones(t.Context(), 0)) {
			gone = append(gone, d.Sequence)
		}
		equal(t, "tombstones", gone, ids)
	})
}

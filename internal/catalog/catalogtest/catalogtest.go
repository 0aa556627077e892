// Package catalogtest holds every realisation of a catalogue to the contract in package catalog.
package catalogtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Run checks the contract. open returns a new, empty catalogue; reopen closes c and opens it again, as after a restart.
func Run(t *testing.T, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	t.Run("what was published is found whole, also after a restart", func(t *testing.T) {
		c := open(t)
		before := time.Now().Add(-time.Second)
		dep, app := Item("dep"), Item("app", "app", "dep")
		equal(t, "verdicts", verdicts(publish(t, c, dep, app)), []string{"published", "published"})
		c = reopen(t, c)
		got, err := c.Item(t.Context(), app.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if got.Published.Before(before) || got.Published.After(time.Now().Add(time.Second)) {
			t.Errorf("published at %v", got.Published)
		}
		want := app.Item
		want.Published, want.Sequence = got.Published, got.Sequence
		equal(t, "item", got, want)
		equal(t, "narinfo", string(got.Narinfo), string(app.Narinfo))
		if fs, err := c.Files(t.Context(), []digest.SHA256{digest.Of(nil), dep.NarHash}); err != nil || len(fs) != 2 || len(fs[0]) != 0 || len(fs[1]) != 1 || fs[1][0] != dep.Files[0] {
			t.Errorf("files of the nar: %+v, %v", fs, err)
		}
	})

	t.Run("a narinfo that calls a reference by another name is given back as it was signed", func(t *testing.T) { testNames(t, open(t)) })
	t.Run("what was not published is not found", func(t *testing.T) {
		c := open(t)
		publish(t, c, Item("there"))
		if _, err := c.Item(t.Context(), Base("absent").HashPart()); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("error is %v", err)
		}
		missing, err := c.Missing(t.Context(), []storepath.HashPart{Base("a").HashPart(), Base("there").HashPart(), Base("b").HashPart()})
		equal(t, "missing", missing, []storepath.HashPart{Base("a").HashPart(), Base("b").HashPart()})
		if fs, ferr := c.Files(t.Context(), []digest.SHA256{digest.Of(nil)}); err != nil || ferr != nil || len(fs) != 1 || len(fs[0]) != 0 {
			t.Errorf("files of an unknown nar: %v, %v, %v", fs, ferr, err)
		}
	})

	t.Run("an item is refused while a reference is missing, and changes nothing", func(t *testing.T) {
		c := open(t)
		out := publish(t, c, Item("app", "dep"), Item("other", "app"))
		equal(t, "verdicts", verdicts(out), []string{"refused", "refused"})
		equal(t, "missing", out[0].Missing, []storepath.Base{Base("dep")})
		equal(t, "items", names(t, c), []string(nil))
		equal(t, "waiting", len(collect(t, c.WaitingItems(t.Context()))), 0)
	})

	t.Run("a batch may come in any order and is published references first", func(t *testing.T) {
		c := open(t)
		out := publish(t, c, Item("top", "mid", "low"), Item("mid", "low"), Item("low"))
		equal(t, "verdicts", verdicts(out), []string{"published", "published", "published"})
		equal(t, "order", names(t, c), []string{"low", "mid", "top"})
	})

	t.Run("a batch with a hole publishes what is closed", func(t *testing.T) {
		c := open(t)
		out := publish(t, c, Item("low"), Item("mid", "absent"), Item("top", "mid", "low"))
		equal(t, "verdicts", verdicts(out), []string{"published", "refused", "refused"})
		equal(t, "order", names(t, c), []string{"low"})
	})

	t.Run("what waits is unseen until its last reference is published, and then is there at once", func(t *testing.T) {
		c := open(t)
		top, mid := Item("top", "mid", "low2"), Item("mid", "low1")
		top.Wait, mid.Wait = true, true
		equal(t, "verdicts", verdicts(publish(t, c, top, mid)), []string{"waiting", "waiting"})
		equal(t, "items", names(t, c), []string(nil))
		c = reopen(t, c)
		equal(t, "released by low1", publish(t, c, Item("low1"))[0].Released, []storepath.Path{mid.Path})
		equal(t, "items", names(t, c), []string{"low1", "mid"})
		w := collect(t, c.WaitingItems(t.Context()))
		if len(w) != 1 || w[0].Path != top.Path || len(w[0].Missing) != 1 || w[0].Missing[0] != Base("low2").HashPart() {
			t.Errorf("waiting: %+v", w)
		}
		equal(t, "released by low2", publish(t, c, Item("low2"))[0].Released, []storepath.Path{top.Path})
		equal(t, "items", names(t, c), []string{"low1", "mid", "low2", "top"})
		counts, err := c.Counts(t.Context())
		equal(t, "counts", counts, catalog.Counts{Items: 4, Nars: 4, NarBytes: 4014, Files: 4, Bytes: 2000, Dirs: map[storepath.Dir]int64{storepath.Guix: 4}})
		if err != nil {
			t.Error(err)
		}
	})

	t.Run("the uploads of what waits cannot be abandoned", func(t *testing.T) {
		c := open(t)
		top := Item("top", "low")
		top.Wait = true
		publish(t, c, top)
		if ok, err := c.Abandon(t.Context(), top.Files[0].Key, time.Now().Add(time.Hour)); ok || err != nil {
			t.Errorf("Abandon = %v, %v", ok, err)
		}
		us := collect(t, c.Uploads(t.Context()))
		if len(us) != 1 || us[0].For != top.Path.Base {
			t.Errorf("uploads: %+v", us)
		}
	})

	t.Run("the same item again is present, and brings the compressions that were lacking", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		v1, err := c.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a.Files = append(a.Files, File("a", compress.Lzip))
		if _, err := c.Reserve(t.Context(), []catalog.Want{{Base: a.Path.Base, Compression: compress.Lzip}}); err != nil {
			t.Fatal(err)
		}
		out, err := c.Publish(t.Context(), []catalog.Publication{a})
		if err != nil || out[0].Verdict != catalog.Present {
			t.Fatalf("%+v, %v", out, err)
		}
		got, _ := c.Item(t.Context(), a.Path.HashPart())
		equal(t, "files", got.Files, []catalog.File{File("a", compress.Lzip), File("a", compress.Zstd)})
		if v2, _ := c.Version(t.Context()); v2 == v1 {
			t.Error("the version did not change with the files")
		}
	})

	t.Run("the same item with another nar is recorded, and the first stays", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		b := a
		b.NarHash, b.Files = digest.Of([]byte("another")), nil
		render(&b)
		b.By = "somebody"
		out, err := c.Publish(t.Context(), []catalog.Publication{b})
		if err != nil || out[0].Verdict != catalog.Differs || out[0].Other != a.NarHash {
			t.Fatalf("%+v, %v", out, err)
		}
		got, _ := c.Item(t.Context(), a.Path.HashPart())
		equal(t, "nar hash", got.NarHash, a.NarHash)
		ds := collect(t, c.Differences(t.Context()))
		if len(ds) != 1 || ds[0].Path != a.Path || ds[0].Live != a.NarHash || ds[0].Other != b.NarHash || ds[0].By != "somebody" {
			t.Errorf("differences: %+v", ds)
		}
	})

	t.Run("items with the same nar share its files", func(t *testing.T) {
		c := open(t)
		a, b := Item("a"), Item("b")
		publish(t, c, a)
		b.NarHash, b.NarSize, b.Files = a.NarHash, a.NarSize, nil
		render(&b)
		if out := publish(t, c, b); out[0].Verdict != catalog.Published {
			t.Fatalf("%+v", out)
		}
		got, _ := c.Item(t.Context(), b.Path.HashPart())
		equal(t, "files", got.Files, a.Files)
	})

	t.Run("an item without files, whose nar nobody has, is an error and changes nothing", func(t *testing.T) {
		c := open(t)
		a, b := Item("a"), Item("b")
		b.Files = nil
		Reserve(t, c, a)
		if out, err := c.Publish(t.Context(), []catalog.Publication{a, b}); err == nil {
			t.Errorf("accepted: %+v", out)
		}
		equal(t, "items", names(t, c), []string(nil))
	})

	t.Run("a file whose key was never handed out is refused, and nothing changes", func(t *testing.T) {
		c := open(t)
		a, b := Item("a"), Item("b")
		Reserve(t, c, a)
		if _, err := c.Publish(t.Context(), []catalog.Publication{a, b}); !errors.Is(err, catalog.ErrNotReserved) {
			t.Errorf("error is %v", err)
		}
		equal(t, "items", names(t, c), []string(nil))
	})

	t.Run("a key is handed out again until something is published under it, and then never", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		want := []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}}
		first := reserve(t, c, want)
		equal(t, "the first key", first[0], catalog.NarKey(compress.Zstd, a.Path.Base, 1))
		c = reopen(t, c)
		equal(t, "again", reserve(t, c, want), first)
		publish(t, c, a)
		second := reserve(t, c, want)
		equal(t, "after publication", second[0], catalog.NarKey(compress.Zstd, a.Path.Base, 2))
		want[0].After = second[0]
		equal(t, "after other bytes were found there", reserve(t, c, want)[0], catalog.NarKey(compress.Zstd, a.Path.Base, 3))
	})

	t.Run("a compression that the nar has already is reported as unused", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		again := a
		again.Files = []catalog.File{{Compression: compress.Zstd, Key: reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})[0], Size: 7}}
		out, err := c.Publish(t.Context(), []catalog.Publication{again})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "unused", out[0].Unused, []objstore.Key{again.Files[0].Key})
		if us := collect(t, c.Uploads(t.Context())); len(us) != 1 || us[0].Key != again.Files[0].Key {
			t.Errorf("uploads: %+v", us)
		}
	})

	t.Run("an abandoned upload is not handed out, cannot be published, and is forgotten at the end", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		Reserve(t, c, a)
		k := a.Files[0].Key
		if ok, err := c.Abandon(t.Context(), k, time.Now().Add(-time.Hour)); ok || err != nil {
			t.Errorf("a young upload was abandoned: %v, %v", ok, err)
		}
		if ok, err := c.Abandon(t.Context(), k, time.Now().Add(time.Hour)); !ok || err != nil {
			t.Fatalf("Abandon = %v, %v", ok, err)
		}
		equal(t, "the next key", reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})[0], catalog.NarKey(compress.Zstd, a.Path.Base, 2))
		if _, err := c.Publish(t.Context(), []catalog.Publication{a}); !errors.Is(err, catalog.ErrNotReserved) {
			t.Errorf("published under an abandoned key: %v", err)
		}
		if err := c.Abandoned(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Owner(t.Context(), k); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("owner of a forgotten key: %v", err)
		}
		equal(t, "the key is new again", reserve(t, c, []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})[0], k)
	})

	t.Run("published keys cannot be abandoned", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		if ok, err := c.Abandon(t.Context(), a.Files[0].Key, time.Now().Add(time.Hour)); ok || err != nil {
			t.Errorf("Abandon = %v, %v", ok, err)
		}
		if s, err := c.Owner(t.Context(), a.Files[0].Key); s != catalog.KeyLive || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
	})

	t.Run("walks give everything once, in order, beyond a page", func(t *testing.T) {
		c := open(t)
		const n = 2500
		var ps []catalog.Publication
		var wants []catalog.Want
		for i := range n {
			p := Item(fmt.Sprintf("item-%04d", i))
			ps = append(ps, p)
			wants = append(wants, catalog.Want{Base: p.Path.Base, Compression: compress.Zstd}, catalog.Want{Base: p.Path.Base, Compression: compress.Lzip})
		}
		reserve(t, c, wants)
		if _, err := c.Publish(t.Context(), ps); err != nil {
			t.Fatal(err)
		}
		ns := names(t, c)
		if len(ns) != n || !slices.IsSorted(ns) {
			t.Errorf("%d names, sorted %v", len(ns), slices.IsSorted(ns))
		}
		ks := collect(t, c.Keys(t.Context()))
		if len(ks) != n || !slices.IsSortedFunc(ks, func(a, b catalog.File) int { return strings.Compare(string(a.Key), string(b.Key)) }) {
			t.Errorf("%d keys", len(ks))
		}
		if us := collect(t, c.Uploads(t.Context())); len(us) != n {
			t.Errorf("%d uploads", len(us))
		}
		hashes := map[[20]byte]bool{}
		end, err := c.EachHashPart(t.Context(), 0, func(h [20]byte) { hashes[h] = true })
		if err != nil || len(hashes) != n {
			t.Errorf("%d hash parts, %v", len(hashes), err)
		}
		publish(t, c, Item("one-more"))
		var since []storepath.HashPart
		end, err = c.EachHashPart(t.Context(), end, func(h [20]byte) { since = append(since, storepath.HashPartOf(h)) })
		if err != nil || len(since) != 1 || since[0] != Base("one-more").HashPart() {
			t.Errorf("hash parts since: %v, %v", since, err)
		}
		if again, err := c.EachHashPart(t.Context(), end, func([20]byte) { t.Error("a hash part again") }); again != end || err != nil {
			t.Errorf("after the last: %d, want %d; %v", again, end, err)
		}
		last := collect(t, c.Items(t.Context(), 0))[n-1].Sequence
		if after := collect(t, c.Items(t.Context(), last-1)); len(after) != 2 {
			t.Errorf("%d items after the last but one", len(after))
		}
	})

	t.Run("of concurrent publishers of one item, one publishes and the others find it present", func(t *testing.T) {
		c := open(t)
		dep := Item("dep")
		publish(t, c, dep)
		a := Item("a", "dep")
		Reserve(t, c, a)
		var (
			wg   sync.WaitGroup
			outs [8]catalog.Outcome
			errs [8]error
		)
		for i := range outs {
			wg.Go(func() {
				os, err := c.Publish(t.Context(), []catalog.Publication{a})
				if errs[i] = err; err == nil {
					outs[i] = os[0]
				}
			})
		}
		wg.Wait()
		published := 0
		for i, o := range outs {
			if errs[i] != nil {
				t.Error(errs[i])
			}
			if o.Verdict == catalog.Published {
				published++
			} else if o.Verdict != catalog.Present {
				t.Errorf("verdict %s", o.Verdict)
			}
		}
		equal(t, "published", published, 1)
	})

	t.Run("a cancelled call changes nothing and says why", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		Reserve(t, c, a)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the operator went home"))
		if _, err := c.Publish(ctx, []catalog.Publication{a}); err == nil || !strings.Contains(err.Error(), "the operator went home") {
			t.Errorf("error is %v", err)
		}
		if _, err := c.Item(ctx, a.Path.HashPart()); err == nil || errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("ignorance was reported as absence: %v", err)
		}
		equal(t, "items", names(t, c), []string(nil))
	})

	t.Run("logs are found by derivation", func(t *testing.T) {
		c := open(t)
		drv := storepath.Base(string(Base("x")) + ".drv")
		if _, err := c.Log(t.Context(), drv); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("error is %v", err)
		}
		if err := c.AddLog(t.Context(), drv, catalog.LogKey(drv)); err != nil {
			t.Fatal(err)
		}
		if k, err := c.Log(t.Context(), drv); k != catalog.LogKey(drv) || err != nil {
			t.Errorf("Log = %v, %v", k, err)
		}
		if s, err := c.Owner(t.Context(), catalog.LogKey(drv)); s != catalog.KeyLog || err != nil {
			t.Errorf("Owner = %v, %v", s, err)
		}
	})

	t.Run("where the objects are is recorded once", func(t *testing.T) {
		c := open(t)
		if got, err := c.ObjectsAt(t.Context(), ""); got != "" || err != nil {
			t.Errorf("before the first call: %q, %v", got, err)
		}
		for _, where := range []string{"here", "there", ""} {
			if got, err := c.ObjectsAt(t.Context(), where); got != "here" || err != nil {
				t.Errorf("ObjectsAt(%q) = %q, %v", where, got, err)
			}
			c = reopen(t, c)
		}
	})

	t.Run("verification is remembered", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		at := time.UnixMilli(1_800_000_000_000).UTC()
		if err := c.RecordVerified(t.Context(), []objstore.Key{a.Files[0].Key}, at); err != nil {
			t.Fatal(err)
		}
		got, _ := c.Item(t.Context(), a.Path.HashPart())
		equal(t, "verified", got.Files[0].Verified, at)
	})

	testReplace(t, open, reopen)

	t.Run("tokens are found by hash, expire and are revoked", func(t *testing.T) { testTokens(t, open(t)) })
	testFeed(t, open, reopen)
}

func reserve(t testing.TB, c catalog.Publisher, wants []catalog.Want) []objstore.Key {
	t.Helper()
	keys, err := c.Reserve(t.Context(), wants)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

package catalogtest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// other returns another file in the place of that of the test item with this name, under a key that is reserved.
func other(t testing.TB, c catalog.Publisher, name string, after objstore.Key) catalog.File {
	t.Helper()
	f := File(name, compress.Zstd)
	f.Key = reserve(t, c, []catalog.Want{{Base: Base(name), Compression: compress.Zstd, After: after}})[0]
	f.Size, f.SHA256 = 501, digest.Of([]byte("other bytes of "+name))
	return f
}

func testReplace(t *testing.T, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	t.Run("a file is replaced for all items with its nar, and its key is not handed out again", func(t *testing.T) {
		c := open(t)
		a, b := Item("a"), Item("b")
		a.Files = append(a.Files, File("a", compress.Lzip))
		publish(t, c, a)
		b.NarHash, b.NarSize, b.Files = a.NarHash, a.NarSize, nil
		render(&b)
		publish(t, c, b)
		before, err := c.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := File("a", compress.Zstd).Key
		f := other(t, c, "a", "")
		if err := c.Replace(t.Context(), old, f); err != nil {
			t.Fatal(err)
		}
		if after, err := c.Version(t.Context()); after == before || err != nil {
			t.Errorf("the version did not change with the file: %v", err)
		}
		c = reopen(t, c)
		for _, p := range []catalog.Publication{a, b} {
			got, err := c.Item(t.Context(), p.Path.HashPart())
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "files of "+p.Path.Name(), got.Files, []catalog.File{File("a", compress.Lzip), f})
			equal(t, "narinfo of "+p.Path.Name()+", which tells the size of the file that was replaced", string(got.Narinfo), string(p.Narinfo))
		}
		changes, err := c.Changes(t.Context(), 2, 10)
		if err != nil || len(changes) != 2 || changes[0].Kind != catalog.ChangeFileReplaced || changes[0].Item.Path != a.Path || changes[1].Kind != catalog.ChangeFileReplaced || changes[1].Item.Path != b.Path {
			t.Errorf("changes: %+v, %v", changes, err)
		}
		if us := collect(t, c.Uploads(t.Context())); len(us) != 1 || us[0].Key != old || us[0].For != "" {
			t.Errorf("uploads: %+v", us)
		}
		third := catalog.NarKey(compress.Zstd, a.Path.Base, 3)
		want := []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}}
		equal(t, "the next key", reserve(t, c, want)[0], third)
		if ok, err := c.Abandon(t.Context(), old, time.Now()); !ok || err != nil {
			t.Errorf("Abandon = %v, %v", ok, err)
		}
		if err := c.Abandoned(t.Context(), old); err != nil {
			t.Error(err)
		}
		equal(t, "the next key when the old one was cleaned up", reserve(t, c, want)[0], third)
	})

	t.Run("what is not published is not replaced, and nothing takes a place without a key of its own", func(t *testing.T) {
		c := open(t)
		a, low, top := Item("a"), Item("low"), Item("top", "low")
		top.Wait = true
		publish(t, c, a)
		publish(t, c, top)
		Reserve(t, c, low)
		f := other(t, c, "a", "")
		live := a.Files[0].Key
		for _, k := range []objstore.Key{"nar/zstd/nobody", f.Key, low.Files[0].Key} {
			if err := c.Replace(t.Context(), k, f); !errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("replace %s: %v", k, err)
			}
		}
		for _, k := range []objstore.Key{live, top.Files[0].Key, catalog.NarKey(compress.Zstd, a.Path.Base, 9)} {
			g := f
			g.Key = k
			if err := c.Replace(t.Context(), live, g); !errors.Is(err, catalog.ErrNotReserved) {
				t.Errorf("replace by %s: %v", k, err)
			}
		}
		g := f
		g.Compression = compress.Lzip
		if err := c.Replace(t.Context(), live, g); err == nil {
			t.Error("replaced by another compression")
		}
		if ok, err := c.Abandon(t.Context(), f.Key, time.Now().Add(time.Hour)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := c.Replace(t.Context(), live, f); !errors.Is(err, catalog.ErrNotReserved) {
			t.Errorf("replace by an abandoned key: %v", err)
		}
		got, err := c.Item(t.Context(), a.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "files", got.Files, a.Files)
	})

	t.Run("of concurrent replacements one takes place", func(t *testing.T) {
		c := open(t)
		a := Item("a")
		publish(t, c, a)
		var (
			wg    sync.WaitGroup
			files [8]catalog.File
			errs  [8]error
			after objstore.Key
		)
		for i := range files {
			files[i] = other(t, c, "a", after)
			after = files[i].Key
		}
		for i := range files {
			wg.Go(func() { errs[i] = c.Replace(t.Context(), a.Files[0].Key, files[i]) })
		}
		wg.Wait()
		var won []catalog.File
		for i, err := range errs {
			switch {
			case err == nil:
				won = append(won, files[i])
			case !errors.Is(err, catalog.ErrNotFound):
				t.Error(err)
			}
		}
		got, err := c.Item(t.Context(), a.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "files", got.Files, won)
		if us := collect(t, c.Uploads(t.Context())); len(us) != len(files) {
			t.Errorf("%d uploads, want the old key and %d that lost: %+v", len(us), len(files)-1, us)
		}
	})
}

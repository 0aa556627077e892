package catalogtest

import (
	"bytes"
	"slices"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// called makes an item whose narinfo calls a reference by another name than the item with that hash part has.
func called(name, ref, by string) catalog.Publication {
	p := Item(name, ref)
	other := storepath.Base(string(Base(ref).HashPart()) + "-" + by)
	p.References = []storepath.Base{other}
	p.Narinfo = bytes.ReplaceAll(p.Narinfo, []byte(Base(ref)), []byte(other))
	return p
}

// testNames: what was signed is given back as it was, also where it calls a reference by a name of its own.
func testNames(t *testing.T, c catalog.Catalogue) {
	publish(t, c, Item("low"))
	top := called("top", "low", "lower")
	publish(t, c, top)
	same := func(when string) {
		t.Helper()
		it, err := c.Item(t.Context(), top.Path.HashPart())
		if err != nil || !bytes.Equal(it.Narinfo, top.Narinfo) || !slices.Equal(it.References, top.References) {
			t.Errorf("%s: %v, references %v\n%s\nwant\n%s", when, err, it.References, it.Narinfo, top.Narinfo)
		}
	}
	same("published")
	old := top.Files[0].Key
	keys, err := c.Reserve(t.Context(), []catalog.Want{{Base: top.Path.Base, Compression: compress.Zstd, After: old}})
	if err != nil {
		t.Fatal(err)
	}
	f := top.Files[0]
	f.Key = keys[0]
	if err := c.Replace(t.Context(), old, f); err != nil {
		t.Fatal(err)
	}
	same("with another file")
}

package catalogtest

import (
	"fmt"
	"iter"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// Base returns the base name of the test item with this name; the same name gives the same hash part.
func Base(name string) storepath.Base {
	d := digest.Of([]byte("item " + name))
	return storepath.Base(string(storepath.HashPartOf([20]byte(d[:20]))) + "-" + name)
}

// Item returns an unpublished test item that references others and has a narinfo and one zstd file.
func Item(name string, refs ...string) catalog.Publication {
	p := catalog.Publication{By: "test"}
	p.Path = storepath.Path{Dir: storepath.Guix, Base: Base(name)}
	p.NarHash = digest.Of([]byte("nar of " + name))
	p.NarSize = int64(1000 + len(name))
	for _, r := range refs {
		p.References = append(p.References, Base(r))
	}
	p.Files = []catalog.File{File(name, compress.Zstd)}
	render(&p)
	return p
}

// render makes the narinfo agree with the other fields.
func render(p *catalog.Publication) {
	p.Narinfo = narinfo.Guix(&narinfo.Narinfo{StorePath: p.Path, NarHash: p.NarHash, NarSize: p.NarSize, References: p.References,
		Files: []narinfo.File{{URL: narinfo.NarURL(compress.Zstd, p.Path.Base), Compression: compress.Zstd, FileSize: 500}}})
}

// File returns a file of the test item with this name.
func File(name string, m compress.Method) catalog.File {
	return catalog.File{Compression: m, Key: catalog.NarKey(m, Base(name), 1), Size: 500, SHA256: digest.Of([]byte(name + string(m))), Verified: time.UnixMilli(1_700_000_000_000).UTC()}
}

// Reserve reserves the first key of every file of ps.
func Reserve(t testing.TB, c catalog.Publisher, ps ...catalog.Publication) {
	t.Helper()
	for _, p := range ps {
		for _, f := range p.Files {
			if _, err := c.Reserve(t.Context(), []catalog.Want{{Base: p.Path.Base, Compression: f.Compression}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func publish(t testing.TB, c catalog.Catalogue, ps ...catalog.Publication) []catalog.Outcome {
	t.Helper()
	Reserve(t, c, ps...)
	out, err := c.Publish(t.Context(), ps)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func collect[T any](t testing.TB, seq iter.Seq2[T, error]) (all []T) {
	t.Helper()
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

func names(t testing.TB, c catalog.Reader) (all []string) {
	t.Helper()
	for _, it := range collect(t, c.Items(t.Context(), 0)) {
		all = append(all, it.Path.Name())
	}
	return all
}

func verdicts(os []catalog.Outcome) (all []string) {
	for _, o := range os {
		all = append(all, o.Verdict.String())
	}
	return all
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

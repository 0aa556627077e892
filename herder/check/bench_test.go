package check_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"testing"

	"narfold/herder/check"
	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// endless is a catalogue and a store of n items that are nowhere, each with five references.
type endless struct {
	check.Catalogue
	check.Objects
	n     int
	asked int
}

func (e *endless) Keys(context.Context) iter.Seq2[catalog.File, error] {
	return func(yield func(catalog.File, error) bool) {
		for i := range e.n {
			if !yield(catalog.File{Key: objstore.Key(fmt.Sprintf("nar/zstd/%032d-item", i)), Size: 100}, nil) {
				return
			}
		}
	}
}

func (e *endless) List(context.Context, string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for i := range e.n {
			if !yield(objstore.Info{Key: objstore.Key(fmt.Sprintf("nar/zstd/%032d-item", i)), Size: 100}, nil) {
				return
			}
		}
	}
}

func (e *endless) Uploads(context.Context) iter.Seq2[catalog.Upload, error] {
	return func(func(catalog.Upload, error) bool) {}
}

func (e *endless) WaitingItems(context.Context) iter.Seq2[catalog.WaitingItem, error] {
	return func(func(catalog.WaitingItem, error) bool) {}
}

func (e *endless) Differences(context.Context) iter.Seq2[catalog.Difference, error] {
	return func(func(catalog.Difference, error) bool) {}
}

func (e *endless) FeedSegments(context.Context) iter.Seq2[catalog.FeedSegment, error] {
	return func(func(catalog.FeedSegment, error) bool) {}
}

func (e *endless) FeedPacked(context.Context) (catalog.FeedSegment, []byte, error) {
	return catalog.FeedSegment{}, nil, catalog.ErrNotFound
}

func (e *endless) Items(context.Context, int64) iter.Seq2[catalog.Item, error] {
	base := func(i int) storepath.Base {
		d := digest.Of(fmt.Append(nil, i))
		return storepath.Base(string(storepath.HashPartOf([20]byte(d[:20]))) + "-item")
	}
	return func(yield func(catalog.Item, error) bool) {
		for i := range e.n {
			it := catalog.Item{Path: storepath.Path{Dir: storepath.Nix, Base: base(i)}}
			for _, r := range []int{i / 2, i / 3, i / 10, i % 100, max(0, i-1)} { // old and new, popular and not
				it.References = append(it.References, base(min(r, i)))
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

func (e *endless) Missing(_ context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
	e.asked += len(hs)
	return nil, nil
}

// BenchmarkRun is of what a check does besides waiting for the catalogue and the store.
func BenchmarkRun(b *testing.B) {
	e := &endless{n: b.N}
	b.ReportAllocs()
	r, err := check.Run(b.Context(), check.Config{Catalogue: e, Objects: e})
	if err != nil || r.Items != int64(b.N) || len(r.Findings) > 0 {
		b.Fatal(r, err)
	}
	b.ReportMetric(float64(e.asked)/float64(b.N), "asked/op")
}

// A listing that never fits in memory is no burden: what is held after many items is what is held after few, but for what is
// remembered of references.
func TestACheckHoldsPagesAndNotListings(t *testing.T) {
	const n = 100_000
	e := &endless{n: n}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	held := uint64(0)
	cfg := check.Config{Catalogue: watched{e, func() {
		runtime.GC()
		runtime.ReadMemStats(&after)
		held = max(held, after.HeapAlloc-min(after.HeapAlloc, before.HeapAlloc))
	}}, Objects: e}
	if r, err := check.Run(t.Context(), cfg); err != nil || r.Files != n || r.Objects != n || len(r.Findings) > 0 {
		t.Fatal(r, err)
	}
	if held > 4<<20 { // 100,000 keys and their files are more than 10 MB
		t.Errorf("%d bytes are held", held)
	}
}

// watched calls look after a walk over the keys has passed all but one.
type watched struct {
	*endless
	look func()
}

func (w watched) Keys(ctx context.Context) iter.Seq2[catalog.File, error] {
	return func(yield func(catalog.File, error) bool) {
		i := 0
		for f, err := range w.endless.Keys(ctx) {
			if i++; i == w.n {
				w.look()
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

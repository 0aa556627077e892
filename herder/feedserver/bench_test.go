package feedserver

import (
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/catalog/synthetic"
	"narfold/internal/nixkey"
	"narfold/internal/objstore/dir"
)

// BenchmarkAFeedFromItsBeginning measures how fast a herder tells what was in its catalogue before it had a feed, as after an import: from
// changes to sealed segments in a directory.
func BenchmarkAFeedFromItsBeginning(b *testing.B) {
	const n = 50_000
	p, err := synthetic.New(1)
	if err != nil {
		b.Fatal(err)
	}
	key, err := nixkey.Generate("farm.example-feed-1", rand.NewChaCha8([32]byte{1}))
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		b.StopTimer()
		path := filepath.Join(b.TempDir(), "catalogue.db")
		_, err := sqlite.Build(b.Context(), path, func(yield func(catalog.Publication, error) bool) {
			for pub := range p.Publications(0, n) {
				if !yield(pub, nil) {
					return
				}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		c, err := sqlite.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		store, err := dir.Open(filepath.Join(b.TempDir(), "objects"))
		if err != nil {
			b.Fatal(err)
		}
		s, err := New(c, store, key, rand.NewChaCha8([32]byte{1}), slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		seen := int64(-1)
		b.StartTimer()
		if err := s.follow(b.Context(), &seen); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if p := s.place(); p.end().Sequence != n {
			b.Errorf("the feed ends at %d", p.end().Sequence)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

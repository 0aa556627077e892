package feedserver

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/postgres"
	"narfold/internal/catalog/postgres/postgrestest"
	"narfold/internal/compress"
	"narfold/internal/nixkey"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

// Two herders on two connections to one PostgreSQL and one bucket, whose requests fail now and then, done or not done, and which are
// stopped and started while items are published. In the end there is one feed, sealed once.
func TestTwoHerdersOfOneDatabaseAndOneBucketSealOneFeed(t *testing.T) {
	bucket, database := objstoretest.S3(t), postgrestest.For(t)
	url := database.URL(database.Database(t))
	key, err := nixkey.Generate("farm.example-feed-1", rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	var cats [2]*postgres.DB
	for i := range cats {
		if cats[i], err = postgres.Open(t.Context(), url, postgres.Options{}); err != nil {
			t.Fatal(err)
		}
		defer cats[i].Close()
	}
	sound, err := s3.New(bucket.Config("farm"))
	if err != nil {
		t.Fatal(err)
	}
	records := int64(0)
	publish := func(batch, n int) {
		t.Helper()
		var ps []catalog.Publication
		var wants []catalog.Want
		for i := range n {
			p := catalogtest.Item(fmt.Sprintf("item-%d-%d", batch, i))
			ps, wants = append(ps, p), append(wants, catalog.Want{Base: p.Path.Base, Compression: compress.Zstd})
		}
		if _, err := cats[batch%2].Reserve(t.Context(), wants); err != nil {
			t.Fatal(err)
		}
		if _, err := cats[batch%2].Publish(t.Context(), ps); err != nil {
			t.Fatal(err)
		}
		records += int64(n)
	}
	var herders sync.WaitGroup
	begin := func(which int, seed uint64) (stop func()) {
		store, err := s3.New(bucket.Config("farm"))
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(cats[which], objstoretest.Faulty(store, objstoretest.Seeded(seed, 15)), key, rand.NewChaCha8([32]byte{byte(seed)}), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		herders.Go(func() {
			defer close(ended)
			if err := h.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		return func() { cancel(); <-ended }
	}
	r := rand.New(rand.NewPCG(1, 9))
	stops := [2]func(){begin(0, 1), begin(1, 2)}
	for batch := range 16 {
		publish(batch, 50+r.IntN(400))
		if r.IntN(3) == 0 {
			which := r.IntN(2)
			stops[which]()
			stops[which] = begin(which, uint64(batch+10))
		}
	}
	for _, stop := range stops {
		stop()
	}
	herders.Wait()
	last, err := New(cats[0], sound, key, rand.NewChaCha8([32]byte{99}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	seen := int64(-1)
	if err := round(t.Context(), last, &seen); err != nil {
		t.Fatal(err)
	}
	whole(t, cats[1], sound, key, "in the end", records)
	if records < 2500 {
		t.Errorf("only %d records were told", records)
	}
}

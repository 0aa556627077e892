package postgres

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/catalog/synthetic"
)

// BenchmarkPublish publishes 10,000 items in batches of 500, and looks each up, beside the embedded catalogue. Both flush to the disk
// at each commit, as in production.
func BenchmarkPublish(b *testing.B) {
	const items, batch = 10_000, 500
	all, err := synthetic.New(1)
	if err != nil {
		b.Fatal(err)
	}
	var ps []catalog.Publication
	var wants []catalog.Want
	for p := range all.Publications(0, items) {
		ps = append(ps, p)
		wants = append(wants, catalog.Want{Base: p.Path.Base, Compression: p.Files[0].Compression})
	}
	run := func(b *testing.B, open func(b *testing.B) catalog.Catalogue) {
		var reserving, publishing, looking time.Duration
		for range b.N {
			c := open(b)
			for first := 0; first < items; first += batch {
				start := time.Now()
				if _, err := c.Reserve(b.Context(), wants[first:first+batch]); err != nil {
					b.Fatal(err)
				}
				reserved := time.Now()
				out, err := c.Publish(b.Context(), ps[first:first+batch])
				if err != nil || out[batch-1].Verdict != catalog.Published {
					b.Fatal(err)
				}
				reserving += reserved.Sub(start)
				publishing += time.Since(reserved)
			}
			start := time.Now()
			for _, p := range ps {
				if _, err := c.Item(b.Context(), p.Path.HashPart()); err != nil {
					b.Fatal(err)
				}
			}
			looking += time.Since(start)
			if db, ok := c.(*DB); ok {
				sizes, err := rows(b.Context(), db, pgx.RowTo[int64], "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(sizes[0])/items, "bytes/item")
			}
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		}
		rate := func(d time.Duration) float64 { return float64(b.N*items) / d.Seconds() }
		b.ReportMetric(rate(publishing), "published/s")
		b.ReportMetric(rate(reserving), "reserved/s")
		b.ReportMetric(rate(reserving+publishing), "both/s")
		b.ReportMetric(rate(looking), "look-ups/s")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("postgres", func(b *testing.B) {
		admin(b, "postgres", "ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()")
		defer admin(b, "postgres", "ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
		run(b, func(b *testing.B) catalog.Catalogue {
			db, err := Open(b.Context(), address(database(b)), Options{})
			if err != nil {
				b.Fatal(err)
			}
			if fsync, err := rows(b.Context(), db, pgx.RowTo[string], "SHOW fsync"); err != nil || fsync[0] != "on" {
				b.Fatal(fsync, err)
			}
			return db
		})
	})
	b.Run("sqlite", func(b *testing.B) {
		run(b, func(b *testing.B) catalog.Catalogue {
			db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "catalogue.db"))
			if err != nil {
				b.Fatal(err)
			}
			return db
		})
	})
}

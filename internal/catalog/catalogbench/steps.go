package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/synthetic"
	"narfold/internal/storepath"
)

// imported is what filling a database took.
type imported struct {
	Items      int     `json:"items"`
	Seconds    float64 `json:"seconds"` // from opening to the end of closing, the making of the items included
	CPUSeconds float64 `json:"cpu_seconds"`
	Bytes      int64   `json:"bytes"` // 0 if it is not in files of this process
	PeakRSS    int64   `json:"peak_rss_bytes"`
}

func importing(ctx context.Context, s settings) (result imported, err error) {
	k, err := kindOf(s.kind)
	if err != nil {
		return result, err
	}
	p, err := synthetic.New(s.seed)
	if err != nil {
		return result, err
	}
	begun := start()
	items := ahead(ctx, p, s.items)
	if k.build != nil && !s.publish {
		err = k.build(ctx, s.where, items)
	} else {
		err = publishing(ctx, k, s, items)
	}
	if err != nil {
		return result, err
	}
	result.Items = s.items
	result.Seconds, result.CPUSeconds = begun.spent()
	if result.PeakRSS, err = memory("VmHWM"); err != nil {
		return result, err
	}
	if k.size != nil {
		result.Bytes, err = k.size(s.where)
	}
	return result, err
}

// publishing fills an open database, batch after batch.
func publishing(ctx context.Context, k kind, s settings, items iter.Seq2[catalog.Publication, error]) error {
	db, err := k.open(ctx, s.where)
	if err != nil {
		return err
	}
	return errors.Join(db.load(ctx, items, s.batch), db.Close())
}

// ahead makes items on another processor than the one that takes them, some thousands in advance.
func ahead(ctx context.Context, p *synthetic.Population, n int) iter.Seq2[catalog.Publication, error] {
	return func(yield func(catalog.Publication, error) bool) {
		const slice = 500
		ctx, stop := context.WithCancel(ctx)
		made := make(chan []catalog.Publication, 8)
		// The goroutine ends when all is made, or when the loop below is left; it is waited for in both cases by reading to the end.
		go func() {
			defer close(made)
			for first := 0; first < n; first += slice {
				batch := make([]catalog.Publication, 0, slice)
				for pub := range p.Publications(first, min(n, first+slice)) {
					batch = append(batch, pub)
				}
				select {
				case made <- batch:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() {
			stop()
			for range made {
			}
		}()
		for batch := range made {
			for i := range batch {
				if !yield(batch[i], nil) {
					return
				}
			}
		}
		if err := context.Cause(ctx); err != nil {
			yield(catalog.Publication{}, err)
		}
	}
}

// generated is what only the making of the items took.
type generated struct {
	Items        int     `json:"items"`
	Seconds      float64 `json:"seconds"`
	CPUSeconds   float64 `json:"cpu_seconds"`
	NarinfoBytes int64   `json:"narinfo_bytes"`
	References   int64   `json:"references"`
}

func generating(ctx context.Context, s settings) (result generated, err error) {
	p, err := synthetic.New(s.seed)
	if err != nil {
		return result, err
	}
	begun := start()
	for pub, err := range ahead(ctx, p, s.items) {
		if err != nil {
			return result, err
		}
		result.Items++
		result.NarinfoBytes += int64(len(pub.Narinfo))
		result.References += int64(len(pub.References))
	}
	result.Seconds, result.CPUSeconds = begun.spent()
	return result, nil
}

// named are hash parts to ask a server for.
type named struct {
	Hits   []storepath.HashPart `json:"hits"`
	Misses []storepath.HashPart `json:"misses"`
}

func naming(s settings) (result named, err error) {
	p, err := synthetic.New(s.seed)
	if err != nil {
		return result, err
	}
	for i := range 10_000 {
		n := number(uint64(i), s.items)
		result.Hits, result.Misses = append(result.Hits, p.HashPart(n)), append(result.Misses, p.Miss(n))
	}
	return result, nil
}

// used is what was measured on a full database.
type used struct {
	// From the start of opening, with nothing of the database in the caches of the operating system.
	OpenSeconds   float64 `json:"open_seconds"`    // until it is open
	AnswerSeconds float64 `json:"answer_seconds"`  // until the first item is found
	TableSeconds  float64 `json:"table_seconds"`   // until all that a herder keeps in memory is there
	RSS           int64   `json:"rss_bytes"`       // that opening, and holding the table, has added to the process
	RSSAfter      int64   `json:"rss_after_bytes"` // the same after all look-ups: with full caches

	// The rest with the database in the caches of the operating system.
	Hits    rate    `json:"hits"`
	Misses  rate    `json:"misses"`
	Latency latency `json:"latency"` // of hits, by a schedule
	Scan    rate    `json:"scan"`
}

func using(ctx context.Context, s settings) (result used, err error) {
	k, err := kindOf(s.kind)
	if err != nil {
		return result, err
	}
	p, err := synthetic.New(s.seed)
	if err != nil {
		return result, err
	}
	if k.forget != nil {
		if err := k.forget(s.where); err != nil {
			return result, err
		}
	}
	base, err := settled()
	if err != nil {
		return result, err
	}
	begun := time.Now()
	db, err := k.open(ctx, s.where)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	result.OpenSeconds = time.Since(begun).Seconds()
	if err := expect(ctx, db, p, s.items/2, true); err != nil {
		return result, err
	}
	result.AnswerSeconds = time.Since(begun).Seconds()
	var t table
	own, err := db.remember(ctx)
	if err == nil && !own {
		if err = db.eachHashPart(ctx, t.add); err == nil && t.used != s.items {
			err = fmt.Errorf("table of hash parts: have %d items, want %d", t.used, s.items)
		}
	}
	if err != nil {
		return result, err
	}
	result.TableSeconds = time.Since(begun).Seconds()
	rss, err := settled()
	if err != nil {
		return result, err
	}
	result.RSS = rss - base

	if k.remember != nil {
		if err := k.remember(s.where); err != nil {
			return result, err
		}
	}
	workers := runtime.GOMAXPROCS(0)
	if result.Hits, err = flatOut(ctx, workers, s.seconds, func(i uint64) error { return expect(ctx, db, p, number(i, s.items), true) }); err != nil {
		return result, err
	}
	if result.Misses, err = flatOut(ctx, workers, s.seconds, func(i uint64) error { return expect(ctx, db, p, number(i, s.items), false) }); err != nil {
		return result, err
	}
	result.Latency, err = scheduled(ctx, 2*workers, s.rate, s.seconds, func(i uint64) error { return expect(ctx, db, p, number(i, s.items), true) })
	if err != nil {
		return result, err
	}
	if rss, err = settled(); err != nil {
		return result, err
	}
	result.RSSAfter = rss - base
	result.Scan, err = scanning(ctx, db, s.items)
	runtime.KeepAlive(&t)
	return result, err
}

// number turns a count into one of n numbers, as if by chance and the same in each run.
func number(i uint64, n int) int {
	i = (i + 1) * 0x9e3779b97f4a7c15
	i = (i ^ i>>31) * 0xbf58476d1ce4e5b9
	return int((i ^ i>>30) % uint64(n))
}

// expect looks item i up, or a hash part that nobody has, and fails if the answer is not the expected one.
func expect(ctx context.Context, db subject, p *synthetic.Population, i int, present bool) error {
	h := p.Miss(i)
	if present {
		h = p.HashPart(i)
	}
	switch found, err := db.find(ctx, h); {
	case err != nil:
		return err
	case found != present:
		return fmt.Errorf("look up %s (number %d): found %v, want %v", h, i, found, present)
	}
	return nil
}

func scanning(ctx context.Context, db subject, want int) (rate, error) {
	begun := start()
	items, references, err := db.scan(ctx)
	if err != nil {
		return rate{}, err
	}
	if items != want || references < items/2 {
		return rate{}, fmt.Errorf("scan: %d items with %d references, want %d items", items, references, want)
	}
	return begun.rate(items), nil
}

// settled returns the memory of the process after what is not needed went back to the operating system.
func settled() (int64, error) {
	debug.FreeOSMemory()
	return memory("VmRSS")
}

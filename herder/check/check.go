// Package check compares the catalogue with the object store, both ways, and cleans up uploads that came to nothing.
//
// It answers whether everything that is published can be served: each file's object is there with the right size and, if asked, expands
// to the right nar; and everything that a published item references is published. It also accounts for every object: part of a
// published item, an upload, a log, or unknown. It works beside a running herder and running imports, and calls nothing damaged
// or unknown before it has asked both sides again about that very key. It holds no more than a page of each listing in memory.
package check

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// ErrRemoving says that another check is removing objects of this deployment at this moment.
var ErrRemoving = errors.New("another check is removing objects")

// Config says what is checked, and how thoroughly.
type Config struct {
	Catalogue Catalogue
	Objects   Objects

	// Sample is the portion of the files to expand and hash: 0 for none, 1 for all, and between them that many, chosen by chance.
	Sample float64
	// NotWithin passes over files that were verified within that time, so that a check that was interrupted goes on where it was.
	NotWithin time.Duration
	// Rate is how many bytes are read from the object store in a second for that. Default: as many as there are.
	Rate int64
	// Workers is how many files are expanded at once. Default: GOMAXPROCS.
	Workers int
	// Expanded, if not nil, is told each time a file has been hashed, with its bytes in the store. Calls may come at once.
	Expanded func(bytes int64)

	// OlderThan is how old an unknown object is before it is called unaccounted, and how old anything is that is removed; younger
	// ones may be on their way. Zero trusts that nothing is.
	OlderThan time.Duration
	// RemoveAbandoned deletes uploads that the catalogue knows, that nothing waits for, and that are older than OlderThan.
	RemoveAbandoned bool
	// RemoveUnknown deletes objects that the catalogue does not know and that are older than OlderThan, unless damage was found:
	// then they may be what is missing.
	RemoveUnknown bool
	// Deleter is needed to remove something.
	Deleter objstore.Deleter
	// LockFile is needed to remove something. It is locked meanwhile, so that of two checks only one removes: a check that stands
	// still between asking and deleting must not find, when it goes on, that another has given the key to somebody else. It must
	// be the same file for all that share the catalogue.
	LockFile string

	// Findings is how many of each kind are told in detail; all are counted. Default: 1000.
	Findings int
	Log      *slog.Logger
}

// Catalogue is what a check asks of a catalogue, and tells it.
type Catalogue interface {
	catalog.Accounts
	Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error]
	Item(ctx context.Context, h storepath.HashPart) (catalog.Item, error)
	Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	RecordVerified(ctx context.Context, keys []objstore.Key, at time.Time) error
	FeedSegments(ctx context.Context) iter.Seq2[catalog.FeedSegment, error]
	FeedPacked(ctx context.Context) (catalog.FeedSegment, []byte, error)
	// Reserve is asked only for RemoveUnknown.
	Reserve(ctx context.Context, wants []catalog.Want) ([]objstore.Key, error)
}

// Objects is what a check asks of an object store.
type Objects interface {
	objstore.Reader
	objstore.Lister
}

// checker is one run.
type checker struct {
	Config
	begun  time.Time
	report *Report

	// Damaged keys and items, for naming and for what references them; at most Findings of each kind.
	damagedKeys  map[objstore.Key]*Finding
	damagedItems map[storepath.HashPart][]*Finding

	segments map[int64]int64 // sizes of the feed's segments in the store, by number: one for each thousand changes
}

// Run checks. What it found is in the report, damage too; it fails only if it could not go on, with what it had found until then.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Findings <= 0 {
		cfg.Findings = 1000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &checker{
		Config: cfg, begun: time.Now(), report: &Report{Sample: cfg.Sample},
		damagedKeys:  make(map[objstore.Key]*Finding),
		damagedItems: make(map[storepath.HashPart][]*Finding),
		segments:     make(map[int64]int64),
	}
	err := c.run(ctx)
	if err != nil {
		c.report.Incomplete = err.Error()
	}
	c.report.Seconds = time.Since(c.begun).Seconds()
	return *c.report, err
}

func (c *checker) run(ctx context.Context) (err error) {
	if c.RemoveAbandoned || c.RemoveUnknown {
		if c.Deleter == nil || c.LockFile == "" {
			return errors.New("check: removing needs a deleter and a lock file")
		}
		unlock, err := lockRemoval(c.LockFile)
		if err != nil {
			return err
		}
		defer unlock()
	}
	steps := []struct {
		what string
		do   func(context.Context) error
		when bool
	}{
		{"remove abandoned uploads", c.removeAbandoned, c.RemoveAbandoned},
		{"compare catalogue and object store", func(ctx context.Context) error { return c.compare(ctx, c.unaccounted) }, true},
		{"check the change feed", c.feed, true},
		{"expand nars", c.expandAll, c.Sample > 0},
		{"check references", c.closure, true},
		{"list what waits", c.pending, true},
		{"remove unknown objects", c.removeUnknown, c.RemoveUnknown},
	}
	for _, s := range steps {
		if !s.when {
			continue
		}
		begun := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		c.Log.Debug("check step done", "step", s.what, "took", time.Since(begun))
	}
	return nil
}

// pending counts items that wait for references, and tells what was built differently.
func (c *checker) pending(ctx context.Context) error {
	r := c.report
	for w, err := range c.Catalogue.WaitingItems(ctx) {
		if err != nil {
			return err
		}
		r.Waiting++
		if len(r.WaitingItems) < c.Findings {
			r.WaitingItems = append(r.WaitingItems, Waiting{Item: w.Path.String(), Missing: w.Missing, Since: w.Since})
		}
	}
	for d, err := range c.Catalogue.Differences(ctx) {
		if err != nil {
			return err
		}
		r.Differs++
		if len(r.Differences) < c.Findings {
			r.Differences = append(r.Differences, Difference{Item: d.Path.String(), Published: d.Live, Other: d.Other, By: d.By, Seen: d.Seen})
		}
	}
	return nil
}

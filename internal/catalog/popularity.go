package catalog

import (
	"context"
	"iter"
	"time"

	"narfold/internal/storepath"
)

// Served is how often the nar of an item was asked for. Who asked is not kept, nor when to more than the day.
type Served struct {
	Hash  storepath.HashPart
	Times int64
	Last  time.Time // the last day, as its beginning in UTC
}

// Popularity remembers what is asked for, for those who decide what to keep and in which compressions.
type Popularity interface {
	// RecordServed adds to what is remembered. It takes some thousands at a time; each item is there once.
	RecordServed(ctx context.Context, served []Served) error
	// EachServed yields what is remembered of published items, in no particular order. Of items that were never asked for there is nothing.
	EachServed(ctx context.Context) iter.Seq2[Served, error]
}

// Day returns the beginning of t's day in UTC.
func Day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

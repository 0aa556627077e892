// Package tally counts which nars are asked for, and tells the catalogue now and then, so that those who decide what to keep know what is
// used. It keeps no address and no time but the day.
package tally

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

const (
	// tellEvery is how often the catalogue is told; what was not told when a process is killed is forgotten.
	tellEvery = 10 * time.Minute
	// most bounds how many items are counted between two tellings; others are passed over.
	most = 200_000
	// atOnce is how many are told in one transaction.
	atOnce = 5_000
	// lastTelling bounds how long the end of a process waits for that.
	lastTelling = 10 * time.Second
)

// Recorder remembers; a catalogue does.
type Recorder interface {
	RecordServed(ctx context.Context, served []catalog.Served) error
}

// Tally counts. Make it with New; its methods may be called by several goroutines.
type Tally struct {
	to  Recorder
	log *slog.Logger

	mu    sync.Mutex
	times map[storepath.HashPart]int64
}

// New returns a tally that tells a recorder.
func New(to Recorder, log *slog.Logger) *Tally {
	return &Tally{to: to, log: log, times: make(map[storepath.HashPart]int64)}
}

// Served counts that the nar of an item was asked for.
func (t *Tally) Served(h storepath.HashPart) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.times[h]; ok || len(t.times) < most {
		t.times[h] = n + 1
	}
}

// Run tells until ctx ends, and then once more.
func (t *Tally) Run(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.tell(ctx)
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTelling)
			defer cancel()
			t.tell(ctx)
			return nil
		}
	}
}

// tell tells what was counted, and counts what could not be told again.
func (t *Tally) tell(ctx context.Context) {
	t.mu.Lock()
	counted := t.times
	t.times = make(map[storepath.HashPart]int64)
	t.mu.Unlock()
	day := catalog.Day(time.Now())
	batch := make([]catalog.Served, 0, min(atOnce, len(counted)))
	flush := func() {
		err := t.to.RecordServed(ctx, batch)
		if err != nil {
			t.log.Warn("what was served is not recorded yet", "items", len(batch), "error", err)
			t.mu.Lock()
			for _, s := range batch {
				t.times[s.Hash] += s.Times
			}
			t.mu.Unlock()
		}
		batch = batch[:0]
	}
	for h, n := range counted {
		if batch = append(batch, catalog.Served{Hash: h, Times: n, Last: day}); len(batch) == atOnce {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
}

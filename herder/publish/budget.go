package publish

import (
	"context"
	"sync"
)

// spoolBytes is how much may lie in the spool before no further nar is begun. Those that are under way go on, so that the one which
// the committer waits for always ends.
const spoolBytes = 1 << 30

// budget counts the bytes that lie in the spool.
type budget struct {
	mu    sync.Mutex
	left  int64
	freed chan struct{} // closed and replaced when bytes come back
}

func newBudget(n int64) *budget { return &budget{left: n, freed: make(chan struct{})} }

// admit waits until something may be begun.
func (b *budget) admit(ctx context.Context) error {
	for {
		b.mu.Lock()
		ok, freed := b.left > 0, b.freed
		b.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *budget) take(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= n
}

func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	close(b.freed)
	b.freed = make(chan struct{})
}

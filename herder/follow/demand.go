package follow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"narfold/herder/source"
	"narfold/internal/storepath"
)

const (
	// maxWaiting is how many items may wait for their turn; what is asked for beyond that is asked for again.
	maxWaiting = 10_000
	// maxAsked bounds what is remembered of having been asked for.
	maxAsked = 100_000
	// askAgain is how long the upstream is not asked again for an item that users ask for here.
	askAgain = 5 * time.Minute
)

// demand are items that users asked for here in vain.
type demand struct {
	more chan struct{} // has room for one: there is something in waiting

	mu      sync.Mutex
	waiting []storepath.HashPart
	asked   map[storepath.HashPart]time.Time // since when they wait, or the upstream was asked
}

func newDemand() *demand {
	return &demand{more: make(chan struct{}, 1), asked: map[storepath.HashPart]time.Time{}}
}

// Want has the item with the hash part h taken from the upstream, if that has it, with all that it references. It returns at once: Run
// does it. Only an upstream with OnDemand is asked.
func (f *Follower) Want(h storepath.HashPart) {
	if f.OnDemand {
		f.demand.add(h, time.Now())
	}
}

func (d *demand) add(h storepath.HashPart, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if since, known := d.asked[h]; known && now.Sub(since) < askAgain || len(d.waiting) == maxWaiting {
		return
	}
	if len(d.asked) == maxAsked {
		clear(d.asked)
	}
	d.asked[h] = now
	d.waiting = append(d.waiting, h)
	select {
	case d.more <- struct{}{}:
	default:
	}
}

func (d *demand) take() []storepath.HashPart {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.waiting
	d.waiting = nil
	return all
}

// attend brings what users ask for until the given time has passed. It returns an error only when ctx ends.
func (f *Follower) attend(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.demand.more:
		}
		items := f.demand.take()
		sum, err := f.work(ctx, nil, func(ctx context.Context, r *round) error {
			r.demanded = true
			return r.take(ctx, slices.Values(items))
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.tell(sum)
		if err != nil {
			f.Log.Warn("what users ask for cannot be brought now", "upstream", f.name(), "items", len(items), "error", err)
		}
		if errors.Is(err, source.ErrUnavailable) {
			// Not again before the next round has found it there.
			if err := sleepUntil(ctx, timer); err != nil {
				return err
			}
			return nil
		}
	}
}

func sleepUntil(ctx context.Context, timer *time.Timer) error {
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

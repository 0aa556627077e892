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

	mu       sync.Mutex
	waiting  []storepath.HashPart
	asked    map[storepath.HashPart]asked
	attended bool // somebody brings what waits
}

// asked is since when an item waits, or the upstream was asked for it, and what closes when that is settled.
type asked struct {
	since   time.Time
	settled chan struct{}
}

func newDemand() *demand {
	return &demand{more: make(chan struct{}, 1), asked: map[storepath.HashPart]asked{}}
}

// Want has the item with the hash part h taken from the upstream, if that has it, with all that it references. It returns at once: Run
// does it. If it does it now, the answer is a channel that closes when the item is here, or is not to be had; else it is nil. Only
// an upstream with OnDemand is asked.
func (f *Follower) Want(h storepath.HashPart) <-chan struct{} {
	if !f.OnDemand {
		return nil
	}
	return f.demand.add(h, time.Now())
}

func (d *demand) add(h storepath.HashPart, now time.Time) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, known := d.asked[h]
	switch {
	case known && before.settled != nil:
		if !d.attended {
			return nil
		}
		return before.settled
	case known && now.Sub(before.since) < askAgain, len(d.waiting) == maxWaiting:
		return nil
	}
	if len(d.asked) >= maxAsked {
		d.forget()
	}
	d.asked[h] = asked{now, make(chan struct{})}
	d.waiting = append(d.waiting, h)
	select {
	case d.more <- struct{}{}:
	default:
	}
	if !d.attended {
		return nil
	}
	return d.asked[h].settled
}

// forget makes room for what is asked for next. The mutex is held.
func (d *demand) forget() {
	for h, a := range d.asked {
		if a.settled == nil {
			delete(d.asked, h)
		}
	}
}

func (d *demand) take() []storepath.HashPart {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.waiting
	d.waiting = nil
	return all
}

// settle tells those who wait for items that these are here, or not to be had.
func (d *demand) settle(items []storepath.HashPart) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range items {
		if a := d.asked[h]; a.settled != nil {
			close(a.settled)
			d.asked[h] = asked{since: a.since}
		}
	}
}

func (d *demand) attend(now bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attended = now
}

// attend brings what users ask for until the given time has passed. It returns an error only when ctx ends.
func (f *Follower) attend(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	f.demand.attend(true)
	defer f.demand.attend(false)
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
		f.demand.settle(items)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.tell(sum)
		if err != nil {
			f.Log.Warn("what users ask for cannot be brought now", "upstream", f.name(), "items", len(items), "error", err)
		}
		if errors.Is(err, source.ErrUnavailable) {
			// Not again before the next round has found it there, and nobody waits meanwhile.
			f.demand.attend(false)
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

package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"narfold/internal/catalog"
)

const (
	// batchItems and batchBytes bound what becomes visible at once: enough that the flushes of disk and catalogue cost little for
	// each, few enough that an interruption repeats little.
	batchItems = 1000
	// lastItems is the size of the batches at the end: a batch is at most half of what is left, because while the last one is
	// published nothing else is left to do.
	lastItems  = 128
	batchBytes = 256 << 20
	// linger is how long a batch that is ready waits for the nar after it, which is under way: small nars are ready within less, and
	// each batch costs two flushes, which take as long as some dozens of small nars.
	linger = 50 * time.Millisecond
)

// commitAll takes tasks in their order, as many at a time as are stored, or soon will be, and publishes them: while one batch is
// flushed, the batch before becomes visible. With an error it returns the task that it had taken and not come to, if any.
func (p *Publisher) commitAll(ctx context.Context, order <-chan *task, b *budget, st *storing, report func(Result)) (next *task, err error) {
	discard := func(batch []*task) {
		for _, t := range batch {
			t.discard(b)
		}
	}
	flushed := make(chan []*task, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(flushed)
		for {
			var batch []*task
			var err error
			if batch, next, err = gather(ctx, order, next); err != nil || len(batch) == 0 {
				return err
			}
			if err := st.flush(ctx); err != nil {
				discard(batch)
				return err
			}
			select {
			case flushed <- batch:
			case <-ctx.Done():
				discard(batch)
				return context.Cause(ctx)
			}
		}
	})
	g.Go(func() error {
		for batch := range flushed {
			err := p.commit(ctx, batch, st, report)
			discard(batch)
			if err != nil {
				return err
			}
		}
		return nil
	})
	err = g.Wait()
	for batch := range flushed { // what was put when the one before failed
		discard(batch)
	}
	return next, err
}

// gather returns the next batch, which begins with next if that is not nil, and the task after it if that was taken already. An empty
// batch is the end. With an error next is the task that was taken, if any.
func gather(ctx context.Context, order <-chan *task, first *task) (batch []*task, next *task, err error) {
	next = first
	if next == nil {
		select {
		case t, ok := <-order:
			if !ok {
				return nil, nil, nil
			}
			next = t
		case <-ctx.Done(): // what was flushed before could not be published: nobody waits for the next
			return nil, nil, context.Cause(ctx)
		}
	}
	select {
	case <-next.done:
	case <-ctx.Done():
		return nil, next, context.Cause(ctx)
	}
	patience := time.NewTimer(linger)
	defer patience.Stop()
	bytes := int64(0)
	for next != nil && len(batch) < batchSize(len(batch)+1+len(order)) && bytes < batchBytes && next.readyBy(ctx, patience.C) {
		batch = append(batch, next)
		bytes += next.spooled
		next = nil
		select {
		case t, ok := <-order:
			if ok {
				next = t
			}
		default:
		}
	}
	return batch, next, nil
}

// batchSize returns how many of the tasks that are left, as far as is known, make a batch.
func batchSize(left int) int { return min(max(left/2, lastItems), batchItems) }

// publishable returns the tasks of a batch whose items are not there yet and have nothing wrong with them.
func publishable(batch []*task) (good []*task) {
	for _, t := range batch {
		if t.err == nil && !t.present {
			good = append(good, t)
		}
	}
	return good
}

// readyBy waits until t is prepared, at most until the time has come or ctx ends.
func (t *task) readyBy(ctx context.Context, time <-chan time.Time) bool {
	select {
	case <-t.done:
		return true
	default:
	}
	select {
	case <-t.done:
		return true
	case <-time:
	case <-ctx.Done():
	}
	return false
}

// commit makes a batch visible whose objects are stored, and tells what became of each task.
func (p *Publisher) commit(ctx context.Context, batch []*task, st *storing, report func(Result)) error {
	tell := func(t *task, r Result) {
		report(r)
		if t.settled != nil {
			t.settled(r, nil)
		}
	}
	for _, t := range batch {
		switch {
		case t.err != nil:
			tell(t, Result{Path: t.Narinfo.StorePath, Verdict: catalog.Refused, NarSize: t.narSize, Err: fmt.Errorf("publish %s: %w", t.Narinfo.StorePath, t.err)})
		case t.present:
			tell(t, Result{Path: t.Narinfo.StorePath, Verdict: catalog.Present, NarSize: t.narSize})
		}
	}
	good := publishable(batch)
	if len(good) == 0 {
		return nil
	}
	// A reservation may have been cleaned up while a batch was on its way for very long. Then its keys are reserved again, and
	// what lies there is taken over.
	for attempt := 0; ; attempt++ {
		err := p.publishAll(ctx, good, tell)
		if !errors.Is(err, catalog.ErrNotReserved) || attempt == 9 {
			return err
		}
		p.Log.Warn("reservation lost, trying again", "error", err)
		if err := st.again(ctx, good); err != nil {
			return err
		}
	}
}

// publishAll publishes what is stored, in one transaction.
func (p *Publisher) publishAll(ctx context.Context, batch []*task, tell func(*task, Result)) error {
	publications := make([]catalog.Publication, len(batch))
	for i, t := range batch {
		publications[i] = t.publication()
	}
	outcomes, err := p.Catalogue.Publish(ctx, publications)
	if err != nil {
		return fmt.Errorf("publish %d items: %w", len(batch), err)
	}
	for i, t := range batch {
		o := outcomes[i]
		r := Result{Path: t.Narinfo.StorePath, Verdict: o.Verdict, Missing: o.Missing, Released: o.Released, NarSize: t.narSize}
		for _, f := range t.forms {
			if !f.adopted {
				r.Stored += f.spooled.size
			}
		}
		switch o.Verdict {
		case catalog.Refused:
			r.Err = fmt.Errorf("publish %s: %w: %s", t.Narinfo.StorePath, ErrReferences, list(o.Missing))
		case catalog.Differs:
			r.Err = fmt.Errorf("publish %s: %w: published with nar %s, this one has %s; the first stays", t.Narinfo.StorePath, ErrDiffers, o.Other, t.narHash)
		}
		tell(t, r)
	}
	return nil
}

// list names the first few of many.
func list[T ~string](names []T) string {
	const most = 5
	s := ""
	for i, n := range names {
		if i == most {
			return fmt.Sprintf("%s and %d more", s, len(names)-most)
		}
		if i > 0 {
			s += ", "
		}
		s += string(n)
	}
	return s
}

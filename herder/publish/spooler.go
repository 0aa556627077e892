package publish

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Spooler is the first half of publishing, for those who take nars elsewhere: it reads, verifies and compresses on all processors,
// and hands out what lies in the spool. Its fields are those of Publisher.
type Spooler struct {
	Dir          string
	Compressions []compress.Method
	Options      compress.Options
	Workers      int
}

// Spooled is an item whose nar is in the spool.
type Spooled struct {
	Job
	NarHash digest.SHA256
	NarSize int64
	Forms   []Form // at least one, unless Err is set
	// Err says why the nar could not be had; it concerns this item alone.
	Err error

	references []<-chan struct{} // each closed when the item was taken
}

// Form is one compressed form of a nar.
type Form struct {
	Compression compress.Method
	Size        int64
	SHA256      digest.SHA256
	Open        func() (io.ReadCloser, error)
}

// AwaitReferences returns when take has returned for every earlier item that this one references.
func (s *Spooled) AwaitReferences(ctx context.Context) error {
	for _, taken := range s.references {
		select {
		case <-taken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Run calls take for each of jobs, which must be references first: it begins with them in that order, at most parallel of them at a
// time. The forms are there until take returns. An error of take ends the run; so does one of the spool or the context.
func (s *Spooler) Run(ctx context.Context, jobs iter.Seq2[Job, error], parallel int, take func(context.Context, *Spooled) error) error {
	return s.run(ctx, listed(jobs), stages{item: s.spool, finish: func(ctx context.Context, order <-chan *task, b *budget) (*task, error) {
		return hand(ctx, order, b, parallel, take)
	}})
}

// hand hands tasks out in their order. With an error it returns the task that it had taken and not come to, if any.
func hand(ctx context.Context, order <-chan *task, b *budget, parallel int, take func(context.Context, *Spooled) error) (*task, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	// Belongs to this goroutine. What is taken is forgotten when there are many: a closed channel is as good as none.
	underWay := make(map[storepath.Base]<-chan struct{})
	for {
		t, err := nextReady(ctx, order)
		if err != nil || t == nil {
			return t, cmp.Or(g.Wait(), err) // why the context ended comes first
		}
		out := t.handOut()
		for _, ref := range t.Narinfo.References {
			if taken, ok := underWay[ref]; ok && ref != t.Narinfo.StorePath.Base {
				out.references = append(out.references, taken)
			}
		}
		if len(underWay) > 4*parallel+1000 {
			forgetTaken(underWay)
		}
		taken := make(chan struct{})
		underWay[t.Narinfo.StorePath.Base] = taken
		g.Go(func() error {
			defer close(taken)
			defer t.discard(b)
			return take(ctx, out)
		})
	}
}

// nextReady returns the next task when it is prepared, or nil after the last. With an error too the task may be one to be discarded.
func nextReady(ctx context.Context, order <-chan *task) (t *task, err error) {
	select {
	case t = <-order:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if t == nil {
		return nil, nil
	}
	select {
	case <-t.done:
		return t, nil
	case <-ctx.Done():
		return t, context.Cause(ctx)
	}
}

func forgetTaken(underWay map[storepath.Base]<-chan struct{}) {
	for base, taken := range underWay {
		select {
		case <-taken:
			delete(underWay, base)
		default:
		}
	}
}

func (t *task) handOut() *Spooled {
	s := &Spooled{Job: t.Job, NarHash: t.narHash, NarSize: t.narSize, Err: t.err}
	for _, f := range t.forms {
		s.Forms = append(s.Forms, Form{Compression: f.compression, Size: f.spooled.size, SHA256: f.spooled.sum(), Open: f.spooled.open})
	}
	return s
}

func (s *Spooler) workers() int {
	if s.Workers > 0 {
		return s.Workers
	}
	return runtime.GOMAXPROCS(0)
}

func (s *Spooler) compressions() []compress.Method {
	if len(s.Compressions) > 0 {
		return s.Compressions
	}
	return []compress.Method{compress.Zstd}
}

// ahead is how many items are admitted at a time. Twice as many may be admitted and not begun, so that workers have something to do
// while the catalogue is busy with what is published, and four times as many not yet committed.
const ahead = 500

// While enough tasks wait for a worker, for some milliseconds of small nars, those that are listed are collected, and admitted
// together: each transaction of the catalogue costs a flush. Whether there still are enough is asked again after lookAgain.
const (
	enough    = 64
	lookAgain = time.Millisecond
)

// stages are what run does with each task, and after it.
type stages struct {
	// admit is told of tasks before they are begun, as many at a time as have been listed while there was enough to do. May be nil.
	admit func(context.Context, []*task) error
	item  func(context.Context, *task) error // prepares it
	// store is run beside, and takes what has been spooled until the channel is closed; it closes done of each. Nil: nothing is stored.
	store   func(context.Context) error
	spooled chan<- *task
	// finish takes tasks in the order of jobs. With an error it returns the task that it had taken and not come to.
	finish func(context.Context, <-chan *task, *budget) (*task, error)
}

// listed is a list that does not wait for anything but its own source.
func listed(jobs iter.Seq2[Job, error]) func(context.Context) iter.Seq2[Job, error] {
	return func(context.Context) iter.Seq2[Job, error] { return jobs }
}

// run lets workers prepare what list yields, whose context ends when the run does, so that a list which waits for more ends with it.
func (s *Spooler) run(ctx context.Context, list func(context.Context) iter.Seq2[Job, error], st stages) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("make spool: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	var (
		listed = make(chan *task, ahead)
		queue  = make(chan *task, 2*ahead)
		order  = make(chan *task, 4*ahead) // tasks in the order of jobs
		budget = newBudget(spoolBytes)
	)
	g.Go(func() error {
		defer close(listed)
		for job, err := range list(ctx) {
			if err != nil {
				return fmt.Errorf("list what to publish: %w", err)
			}
			select {
			case listed <- &task{Job: job, done: make(chan struct{})}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(queue)
		defer close(order)
		for {
			group, err := waiting(ctx, listed, func() bool { return len(queue) >= enough })
			if err != nil || len(group) == 0 {
				return err
			}
			if st.admit != nil {
				if err := st.admit(ctx, group); err != nil {
					return err
				}
			}
			for _, t := range group {
				for _, c := range []chan *task{order, queue} {
					select {
					case c <- t:
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
			}
		}
	})
	work := func() error {
		for t := range queue {
			err := s.prepare(ctx, t, budget, st.item)
			if err != nil || st.store == nil || t.err != nil || len(t.forms) == 0 {
				close(t.done)
				if err != nil {
					return err
				}
				continue
			}
			select {
			case st.spooled <- t:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
	working := int64(s.workers())
	left := new(atomic.Int64)
	left.Store(working)
	for range working {
		g.Go(func() error {
			defer func() {
				if left.Add(-1) == 0 && st.store != nil {
					close(st.spooled)
				}
			}()
			return work()
		})
	}
	if st.store != nil {
		g.Go(func() error { return st.store(ctx) })
	}
	var held *task
	g.Go(func() (err error) {
		held, err = st.finish(ctx, order, budget)
		return err
	})
	err := g.Wait()
	// What was prepared and not taken would leave its spool files behind.
	if held != nil {
		held.discard(budget)
	}
	for t := range order {
		t.discard(budget)
	}
	return err
}

// waiting waits for a task of c, and returns it with those that come after it as long as the workers have enough to do, at most a
// batch. None is the end.
func waiting(ctx context.Context, c <-chan *task, enough func() bool) (group []*task, err error) {
	var again *time.Timer
	for len(group) < ahead {
		if len(group) > 0 && len(c) == 0 && !enough() {
			return group, nil
		}
		var look <-chan time.Time
		if len(group) > 0 {
			if again == nil {
				again = time.NewTimer(lookAgain)
				defer again.Stop()
			} else {
				again.Reset(lookAgain)
			}
			look = again.C
		}
		select {
		case t, ok := <-c:
			if !ok {
				return group, nil
			}
			group = append(group, t)
		case <-look:
		case <-ctx.Done():
			return group, context.Cause(ctx)
		}
	}
	return group, nil
}

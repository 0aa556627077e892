package publish

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// ErrStopped says that the queue is not running: the server is going down.
var ErrStopped = errors.New("publishing has stopped")

// Queue publishes what many callers hand in one by one, gathered into batches: what Run does for a list, for uploads.
type Queue struct {
	Publisher *Publisher

	jobs chan Job
	gone chan struct{} // closed when Run ends
}

// NewQueue makes a queue, which does nothing until Run.
func NewQueue(p *Publisher) *Queue {
	return &Queue{Publisher: p, jobs: make(chan Job), gone: make(chan struct{})}
}

// Run publishes until ctx ends. When the catalogue or the object store cannot go on, those who wait are told, and it begins anew.
func (q *Queue) Run(ctx context.Context) error {
	defer close(q.gone)
	for ctx.Err() == nil {
		pending := newPending()
		// Those who wait are told at once when a run fails, and not when the next job comes.
		err := q.Publisher.run(ctx, func(running context.Context) iter.Seq2[Job, error] {
			return func(yield func(Job, error) bool) {
				for {
					select {
					case job := <-q.jobs:
						if !yield(pending.track(job), nil) {
							return
						}
					case <-running.Done():
						return
					}
				}
			}
		}, func(Result) {})
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
		}
		pending.fail(err)
		if err != nil && ctx.Err() == nil {
			q.Publisher.Log.Error("publishing stopped and begins anew", "error", err)
			select { // a full disk or a lost bucket is not there again at once
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// Submit publishes one item, and returns what became of it. Its references are published already, or are refused or waited for as
// the job says; an error is one that concerns more than this item.
func (q *Queue) Submit(ctx context.Context, job Job) (Result, error) {
	done := make(chan submitted, 1)
	job.settled = func(r Result, err error) { done <- submitted{r, err} }
	select {
	case q.jobs <- job:
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	case <-q.gone:
		return Result{}, ErrStopped
	}
	// Once handed in it goes its way, so that its answer is waited for also when the client has gone: the caller's staged nar is in use.
	s := <-done
	return s.result, s.err
}

type submitted struct {
	result Result
	err    error
}

// pending are the jobs of one run that have not been reported.
type pending struct {
	mu    sync.Mutex
	next  int
	waits map[int]func(Result, error)
}

func newPending() *pending { return &pending{waits: make(map[int]func(Result, error))} }

// track makes job report once: by its result, or by the end of the run.
func (p *pending) track(job Job) Job {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.next
	p.next++
	p.waits[id] = job.settled
	job.settled = func(r Result, err error) {
		p.mu.Lock()
		settled := p.waits[id]
		delete(p.waits, id)
		p.mu.Unlock()
		if settled != nil {
			settled(r, err)
		}
	}
	return job
}

func (p *pending) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, settled := range p.waits {
		delete(p.waits, id)
		settled(Result{}, err)
	}
}

package follow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"narfold/herder/publish"
	"narfold/herder/source"
	"narfold/internal/catalog"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// Summary is what became of one round.
type Summary struct {
	Upstream string `json:"upstream"`
	// Wanted is how many items the upstream, or the list, names that were not here; what they reference is not among them.
	Wanted    int64   `json:"wanted"`
	Published int64   `json:"published"`
	Present   int64   `json:"present"` // somebody else published them meanwhile
	Refused   int64   `json:"refused"`
	Differs   int64   `json:"differs"`             // published here with another content
	Postponed int64   `json:"postponed,omitempty"` // left alone for a while, since they failed before
	NarBytes  int64   `json:"nar_bytes"`
	Stored    int64   `json:"stored_bytes"`
	Seconds   float64 `json:"seconds"`
	// Sequence is the verified place in the change feed.
	Sequence int64 `json:"feed_sequence,omitempty"`
	// Failures are the first hundred reasons.
	Failures []Failure `json:"failures,omitempty"`

	broken []storepath.HashPart // what failed of itself
}

// Failure is why an item was not taken.
type Failure struct {
	Item  string `json:"item"`
	Error string `json:"error"`
}

const (
	maxFailures = 100
	// portion is how many wanted items are looked into at a time, unless a test says otherwise: their narinfos are known before the
	// first nar comes.
	portion = 10_000
	// patience is how many items in a row an upstream may leave without an answer before the round ends.
	patience = 8
)

// round is one round. The part of an item is only taken where ready says so; nil means always.
func (f *Follower) round(ctx context.Context, ready func(storepath.HashPart) bool) (sum Summary, err error) {
	f.state.begin(time.Now())
	defer func() { f.state.end(&sum, err) }()
	return f.work(ctx, ready, func(ctx context.Context, r *round) error {
		switch {
		case f.FeedKey != nil:
			return r.feed(ctx)
		case f.OnDemand && len(f.Items) == 0 && f.List == "":
			return nil
		}
		return r.listed(ctx)
	})
}

// work does some work of a round, alone.
func (f *Follower) work(ctx context.Context, ready func(storepath.HashPart) bool, do func(context.Context, *round) error) (sum Summary, err error) {
	begun := time.Now()
	sum.Upstream = f.name()
	defer func() { sum.Seconds = time.Since(begun).Seconds() }()
	unlock, err := f.lock()
	if err != nil {
		return sum, fmt.Errorf("follow %s: %w", f.name(), err)
	}
	defer unlock()
	r := &round{f: f, ready: ready, sum: &sum, failed: map[storepath.HashPart]bool{}, coming: map[storepath.HashPart]bool{}}
	if err := do(ctx, r); err != nil {
		return sum, fmt.Errorf("follow %s: %w", f.name(), err)
	}
	return sum, nil
}

// round is the work of one round. The list and its jobs are read by one goroutine, narinfos by several, and results come from a third.
type round struct {
	f     *Follower
	ready func(storepath.HashPart) bool
	// demanded says that users named what is wanted: that the upstream does not have it is no news.
	demanded bool

	mu     sync.Mutex
	sum    *Summary
	failed map[storepath.HashPart]bool // refused, for whatever reason; at most maxFailing
	coming map[storepath.HashPart]bool // handed to the publisher
	silent int                         // items in a row without an answer
	stop   context.CancelCauseFunc     // ends the work on a portion
}

// listed takes what lists say.
func (r *round) listed(ctx context.Context) error {
	items, err := source.List(ctx, r.f.URL, r.f.Items, r.f.List, source.Options{HTTP: r.f.HTTP, Log: r.f.Log})
	if err != nil {
		return err
	}
	return r.take(ctx, slices.Values(items))
}

// take takes the named items as far as they are not here, and what they reference.
func (r *round) take(ctx context.Context, items iter.Seq[storepath.HashPart]) error {
	return inPortions(items, r.f.portion, func(some []storepath.HashPart) error {
		some, err := r.missing(ctx, some)
		if err != nil || len(some) == 0 {
			return err
		}
		r.sum.Wanted += int64(len(some))
		return r.portion(ctx, some)
	})
}

// inPortions calls f with the items, at most size at a time.
func inPortions(items iter.Seq[storepath.HashPart], size int, f func([]storepath.HashPart) error) error {
	var some []storepath.HashPart
	for h := range items {
		if some = append(some, h); len(some) == size {
			if err := f(some); err != nil {
				return err
			}
			some = nil
		}
	}
	if len(some) == 0 {
		return nil
	}
	return f(some)
}

// missing returns those that are not here, have their turn, and have not failed in this round.
func (r *round) missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
	missing, err := r.f.Missing(ctx, hs)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(missing, func(h storepath.HashPart) bool {
		if r.failed[h] {
			return true
		}
		if r.ready == nil || r.ready(h) {
			return false
		}
		r.sum.Postponed++
		r.failed[h] = true
		return true
	}), nil
}

func (r *round) portion(ctx context.Context, some []storepath.HashPart) error {
	names := make([]string, len(some))
	for i, h := range some {
		names[i] = string(h)
	}
	s, err := source.Open(ctx, r.f.URL, source.Options{
		Items: names, Closure: true, Missing: r.missing, Accept: r.accept, Refused: r.refuse, Unavailable: r.unavailable,
		HTTP: r.f.HTTP, Spool: r.f.Spool, By: "follow", Log: r.f.Log,
	})
	if err != nil {
		return err
	}
	ctx, r.stop = context.WithCancelCause(ctx)
	defer r.stop(nil)
	err = r.f.To.Run(ctx, r.jobs(ctx, s), r.report)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // which tells more than what was interrupted
	}
	clear(r.coming) // has come, or failed
	return errors.Join(err, s.Close())
}

// accept lets a narinfo in, and so what it references be asked for, that a key of this upstream signed.
func (r *round) accept(n *narinfo.Narinfo) error {
	r.mu.Lock()
	r.silent = 0
	r.mu.Unlock()
	return r.f.Keys.Check(n, true)
}

// errReferences says of an item that what it references cannot be here before it.
var errReferences = errors.New("references cannot be had")

// jobs lists what s has, without what could not be published for want of its references: their nars would be downloaded in vain, round
// after round.
func (r *round) jobs(ctx context.Context, s source.Source) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for job, err := range s.Jobs(ctx) {
			if err == nil {
				var why error
				if why, err = r.obstacle(ctx, job.Narinfo); err == nil && why != nil {
					r.refuse(job.Narinfo.StorePath.String(), why)
					continue
				}
			}
			if err == nil {
				r.mu.Lock()
				r.coming[job.Narinfo.StorePath.HashPart()] = true
				r.mu.Unlock()
				for i := range job.Sources {
					job.Sources[i].Open = atPace(r.f.pace, job.Sources[i].Open)
				}
			}
			if !yield(job, err) {
				return
			}
		}
	}
}

// obstacle returns why an item cannot be published, if that is known already.
func (r *round) obstacle(ctx context.Context, n *narinfo.Narinfo) (why, err error) {
	var unknown []storepath.HashPart
	names := map[storepath.HashPart]storepath.Base{}
	r.mu.Lock()
	for _, b := range n.References {
		switch h := b.HashPart(); {
		case b == n.StorePath.Base:
		case r.failed[h]:
			why = fmt.Errorf("%w: %s was not taken", errReferences, b)
		case !r.coming[h]:
			unknown = append(unknown, h)
			names[h] = b
		}
	}
	r.mu.Unlock()
	if why != nil || len(unknown) == 0 {
		return why, nil
	}
	missing, err := r.f.Missing(ctx, unknown)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	return fmt.Errorf("%w: %s is not here, and the upstream does not have it, or only in a circle", errReferences, names[missing[0]]), nil
}

// refuse notes an item that the source leaves out.
func (r *round) refuse(item string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.demanded && errors.Is(err, source.ErrNotFound) {
		return
	}
	r.sum.Refused++
	r.fail(item, hashPartIn(item), err)
}

// unavailable notes an item for which the upstream had no answer. Several in a row mean that it is away.
func (r *round) unavailable(item string, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent++; r.silent >= patience {
		return err
	}
	r.sum.Refused++
	r.fail(item, hashPartIn(item), err)
	return nil
}

// fail notes why an item is not taken. The mutex is held.
func (r *round) fail(item string, h storepath.HashPart, err error) {
	if len(r.failed) < maxFailing {
		r.failed[h] = true
	}
	if !errors.Is(err, errReferences) && !errors.Is(err, publish.ErrReferences) && !errors.Is(err, source.ErrUnavailable) && len(r.sum.broken) < maxFailing {
		r.sum.broken = append(r.sum.broken, h)
	}
	if len(r.sum.Failures) < maxFailures {
		r.sum.Failures = append(r.sum.Failures, Failure{item, err.Error()})
	}
}

// hashPartIn returns the hash part of what package source calls an item: a store path, a base name or a hash part.
func hashPartIn(item string) storepath.HashPart {
	if p, err := storepath.Parse(item); err == nil {
		return p.HashPart()
	}
	h, err := storepath.ParseHashPart(item[:min(len(item), storepath.HashLen)])
	if err != nil {
		return ""
	}
	return h
}

// report notes what became of an item.
func (r *round) report(res publish.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Stored += res.Stored
	if res.Err != nil {
		if errors.Is(res.Err, source.ErrUnavailable) {
			if r.silent++; r.silent >= patience {
				r.stop(res.Err)
			}
		}
		if res.Verdict == catalog.Differs {
			r.sum.Differs++
		} else {
			r.sum.Refused++
		}
		r.fail(res.Path.String(), res.Path.HashPart(), res.Err)
		return
	}
	r.silent = 0
	if res.Verdict == catalog.Present {
		r.sum.Present++
		return
	}
	r.sum.Published++
	r.sum.NarBytes += res.NarSize
	r.f.state.took(res.NarSize)
}

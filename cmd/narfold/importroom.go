package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"narfold/herder/publish"
	"narfold/herder/room"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// errReserve says that what is left on the disk is kept in reserve.
var errReserve = fmt.Errorf("%w: what is left is kept in reserve", objstore.ErrFull)

// reserving publishes as long as the reserve stays free.
type reserving struct {
	to   publishing
	room room.Room
	// missing returns those of hs that are not published.
	missing func(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
}

// publishing is what reserving needs of a publish.Publisher.
type publishing interface {
	Run(ctx context.Context, jobs iter.Seq2[publish.Job, error], report func(publish.Result)) error
}

// Run is that of a publish.Publisher, and ends with errReserve before an item that would use up the reserve; what came before it is
// published.
//
// Nars count as they are, since nobody knows yet how small they become. When those under way seem to use up the reserve they are let
// come to their end, and the room is looked at again.
func (v *reserving) Run(ctx context.Context, jobs iter.Seq2[publish.Job, error], report func(publish.Result)) error {
	if v.room.Reserve == 0 {
		return v.to.Run(ctx, jobs, report)
	}
	next, stop := iter.Pull2(jobs)
	defer stop()
	p := &portions{reserving: v, next: next, underWay: make(map[storepath.Base]int64)}
	for !p.ended {
		err := v.to.Run(ctx, p.portion(ctx), func(r publish.Result) {
			p.settled(r.Path.Base)
			report(r)
		})
		if err != nil {
			return err
		}
	}
	return p.why
}

// portions hands out jobs in portions for which there is room.
type portions struct {
	*reserving
	next  func() (publish.Job, error, bool)
	held  *publish.Job // the first of the next portion
	ended bool         // no portion follows
	why   error        // if that is not since all jobs were handed out

	mu       sync.Mutex
	underWay map[storepath.Base]int64 // bytes of the nars
	bytes    int64                    // of all of them
}

// portion yields jobs until there are no more, or there is no room for the next one beside those under way.
func (p *portions) portion(ctx context.Context) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for first := true; ; first = false {
			job, err, ok := p.take()
			if !ok {
				p.ended = true
				return
			}
			if err == nil {
				switch short := p.fits(ctx, job); {
				case short == nil:
				case errors.Is(short, errReserve) && !first:
					p.held = &job
					return
				default:
					p.ended, p.why = true, short
					return
				}
			}
			if !yield(job, err) {
				p.ended = true
				return
			}
		}
	}
}

func (p *portions) take() (publish.Job, error, bool) {
	if p.held != nil {
		job := *p.held
		p.held = nil
		return job, nil, true
	}
	return p.next()
}

// fits counts a job as under way if there is room for it, and returns errReserve if there is not.
func (p *portions) fits(ctx context.Context, job publish.Job) error {
	p.mu.Lock()
	coming := p.bytes + job.Narinfo.NarSize
	p.mu.Unlock()
	view, err := p.room.Look(coming)
	if err != nil {
		return err
	}
	path := job.Narinfo.StorePath
	if view.Level() == room.None {
		missing, err := p.missing(ctx, []storepath.HashPart{path.HashPart()})
		if err != nil || len(missing) == 0 {
			return err // what is here already takes no room
		}
		return hint(fmt.Errorf("%w (publish.reserve): %s, and %s has %d bytes, in %s", errReserve, view.Message(), path, job.Narinfo.NarSize, view.Folder),
			`make room, or a smaller reserve in the file for --config, such as [publish] reserve = "256MiB"; then the same again`)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += job.Narinfo.NarSize - p.underWay[path.Base]
	p.underWay[path.Base] = job.Narinfo.NarSize
	return nil
}

func (p *portions) settled(b storepath.Base) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes -= p.underWay[b]
	delete(p.underWay, b)
}

package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// learner learns the references of items, to list them in their order.
type learner struct {
	c     *cache
	shelf *shelf  // nil if narinfos are cheap to read again
	place []int64 // on the shelf, by node

	mu      sync.Mutex // guards all below while narinfos are read at once
	graph   graph
	listed  listed // of a cache that is listed whole; else
	numbers numbers
	bytes   int64
}

func (c *cache) newLearner() (*learner, error) {
	l := &learner{c: c}
	if !c.tree.traits().cheap {
		s, err := newShelf(c.opt.Spool)
		if err != nil {
			return nil, err
		}
		l.shelf = s
	}
	return l, nil
}

func (l *learner) close() {
	if l.shelf != nil {
		l.shelf.close()
	}
}

func (l *learner) part(id uint32) part {
	if l.listed != nil {
		return l.listed[id]
	}
	return l.numbers.parts[id]
}

// streaming is a tree that gives its narinfos fastest in an order of its own.
type streaming interface {
	// streamed returns what there is, and yields each narinfo with its place in that.
	streamed(ctx context.Context) (listed, iter.Seq2[streamedText, error])
}

type streamedText struct {
	id   uint32
	text []byte
}

// stream learns all that a streaming tree has.
func (l *learner) stream(ctx context.Context, t streaming) error {
	parts, texts := t.streamed(ctx)
	l.listed = parts
	l.graph.grow(len(parts))
	for r, err := range texts {
		if err != nil {
			return fmt.Errorf("read %s: %w", l.c.tree, err)
		}
		n, err := l.c.judge(r.text, parts[r.id].hashPart())
		if err != nil {
			if err := l.c.leaveOut(ctx, string(parts[r.id].hashPart()), err); err != nil {
				return err
			}
			continue
		}
		l.graph.set(r.id, l.within(n))
		l.bytes += n.NarSize
	}
	return nil
}

// within returns the references of n that are listed.
func (l *learner) within(n *narinfo.Narinfo) []uint32 {
	refs := make([]uint32, 0, len(n.References))
	for _, r := range n.References {
		if id, ok := l.listed.of(partOf(r.HashPart())); ok {
			refs = append(refs, id)
		}
	}
	return refs
}

// whole learns all that the cache has.
func (l *learner) whole(ctx context.Context) error {
	if t, ok := l.c.tree.(streaming); ok {
		return l.stream(ctx, t)
	}
	var parts []part
	for h, err := range l.c.tree.hashParts(ctx) {
		if err != nil {
			return fmt.Errorf("list %s: %w", l.c.tree, err)
		}
		parts = append(parts, partOf(h))
	}
	l.listed = newListed(parts)
	l.graph.grow(len(l.listed))
	if l.shelf != nil {
		l.place = make([]int64, len(l.listed))
	}
	return l.each(ctx, len(l.listed), func(ctx context.Context, i int) error {
		n, err := l.learn(ctx, uint32(i), nil)
		if err != nil {
			return l.c.leaveOut(ctx, string(l.listed[i].hashPart()), err)
		}
		refs := l.within(n)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.graph.set(uint32(i), refs)
		l.bytes += n.NarSize
		return nil
	})
}

// named learns the given items and, with Closure, what they reference, one step after another.
func (l *learner) named(ctx context.Context, items []wanted) error {
	asked := map[uint32]wanted{}
	var step []uint32
	for _, w := range items {
		id, fresh := l.numbers.of(partOf(w.hash))
		if fresh {
			step = append(step, id)
		}
		asked[id] = w
	}
	for len(step) > 0 {
		var err error
		if step, err = l.missing(ctx, step); err != nil {
			return err
		}
		l.graph.grow(len(l.numbers.parts))
		if l.shelf != nil {
			l.place = append(l.place, make([]int64, len(l.numbers.parts)-len(l.place))...)
		}
		parts := l.numbers.parts // as they are now; those found below are appended
		var next []uint32
		err = l.each(ctx, len(step), func(ctx context.Context, i int) error {
			id := step[i]
			w, named := asked[id]
			n, err := l.learn(ctx, id, &parts[id])
			if err == nil && named {
				err = w.check(n)
			}
			switch {
			case errors.Is(err, ErrNotFound) && !named:
				return nil // a reference that lies outside the source
			case err != nil:
				return l.c.leaveOut(ctx, w.orPart(parts[id]), err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			refs := make([]uint32, 0, len(n.References))
			for _, r := range n.References {
				ref, fresh := l.numbers.of(partOf(r.HashPart()))
				if fresh && l.c.opt.Closure {
					next = append(next, ref)
				}
				refs = append(refs, ref)
			}
			l.graph.set(id, refs)
			l.bytes += n.NarSize
			return nil
		})
		if err != nil {
			return err
		}
		step = next
	}
	return nil
}

// missing returns those of a step that are wanted.
func (l *learner) missing(ctx context.Context, step []uint32) (wanted []uint32, err error) {
	if l.c.opt.Missing == nil {
		return step, nil
	}
	for some := range slices.Chunk(step, 1000) {
		hs := make([]storepath.HashPart, len(some))
		for i, id := range some {
			hs[i] = l.part(id).hashPart()
		}
		missing, err := l.c.opt.Missing(ctx, hs)
		if err != nil {
			return nil, err
		}
		for i, id := range some {
			if len(missing) > 0 && missing[0] == hs[i] {
				wanted, missing = append(wanted, id), missing[1:]
			}
		}
	}
	return wanted, nil
}

// each calls f for 0 to n-1, some at once.
func (l *learner) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := l.c.tree.traits().workers
	var at atomic.Int64
	for range min(workers, n) {
		g.Go(func() error {
			for {
				i := int(at.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// learn reads the narinfo of a node and keeps it if reading it again is dear.
func (l *learner) learn(ctx context.Context, id uint32, p *part) (*narinfo.Narinfo, error) {
	if p == nil {
		p = &l.listed[id]
	}
	n, err := l.c.fetch(ctx, p.hashPart())
	if err != nil || l.shelf == nil {
		return n, err
	}
	l.place[id], err = l.shelf.put(n.Raw)
	return n, err
}

// again returns the narinfo that learn has read.
func (l *learner) again(ctx context.Context, id uint32) (*narinfo.Narinfo, error) {
	if l.shelf == nil {
		return l.c.fetch(ctx, l.part(id).hashPart())
	}
	text, err := l.shelf.get(l.place[id])
	if err != nil {
		return nil, err
	}
	return narinfo.Parse(text)
}

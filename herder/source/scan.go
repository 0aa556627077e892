package source

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"narfold/herder/publish"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// scanned is a store directory without a database. Each item is dumped once to learn its references, hash and size, and once more when
// it is published. References are found as the daemons find them after a build: by the hash parts of the items beside it. Derivers
// are not known. The time for the search grows with the square of the number of items.
type scanned struct {
	logical storepath.Dir
	real    string
	opt     Options
	items   []wanted
	tally
}

func newScanned(logical storepath.Dir, real string, items []wanted, opt Options) *scanned {
	return &scanned{logical: logical, real: real, items: items, opt: opt}
}

// String names the directory.
func (s *scanned) String() string { return s.real }

// Close closes nothing.
func (s *scanned) Close() error { return nil }

// Dir returns the logical store directory.
func (s *scanned) Dir() storepath.Dir { return s.logical }

// Jobs implements Source.
func (s *scanned) Jobs(ctx context.Context) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) { finish(yield, s.list(ctx, yield)) }
}

// learned is what dumping an item tells: some 90 bytes for each.
type learned struct {
	base storepath.Base
	hash digest.SHA256
	size int64
	self bool // it references itself
}

func (s *scanned) list(ctx context.Context, yield jobs) error {
	all, err := s.entries()
	if err != nil {
		return err
	}
	c := scan{s: s, all: all, parts: make([]storepath.HashPart, len(all)), taken: make([]bool, len(all))}
	for i, it := range all {
		c.parts[i] = it.base.HashPart()
	}
	c.graph.grow(len(all))
	step, err := c.first()
	if err != nil {
		return err
	}
	for len(step) > 0 {
		if step, err = c.step(ctx, step); err != nil {
			return err
		}
	}
	var bytes int64
	for i := range all {
		bytes += all[i].size
	}
	s.tally.set(c.graph.count(), bytes)
	for node := range c.graph.order() {
		if !yield(c.job(node), nil) {
			return errStopped
		}
	}
	return nil
}

// entries lists what looks like an item, ascending, each hash part once: a daemon's own files (<item>.lock, <item>.chroot,
// <item>.check) are longer than the item whose hash part they share, and a lock outlives it as an empty file.
func (s *scanned) entries() ([]learned, error) {
	entries, err := os.ReadDir(s.real)
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	var all []learned
	for _, e := range entries {
		base, err := storepath.ParseBase(e.Name())
		if err != nil || base.IsDerivation() && !s.opt.Derivations || isLock(e) {
			continue
		}
		// ReadDir sorts, so that the shorter name comes first.
		if n := len(all); n > 0 && all[n-1].base.HashPart() == base.HashPart() {
			continue
		}
		all = append(all, learned{base: base})
	}
	return all, nil
}

func isLock(e os.DirEntry) bool {
	if !strings.HasSuffix(e.Name(), ".lock") || !e.Type().IsRegular() {
		return false
	}
	info, err := e.Info()
	return err == nil && info.Size() == 0
}

// scan is one pass over a store. all and graph belong to each item's worker until step returns, except as mu guards.
type scan struct {
	s     *scanned
	all   []learned
	parts []storepath.HashPart // of all, ascending
	taken []bool               // scanned, or to be

	mu    sync.Mutex
	graph graph
}

// find returns the number of the item with the given hash part.
func (c *scan) find(h storepath.HashPart) (uint32, bool) {
	i, ok := slices.BinarySearch(c.parts, h)
	return uint32(i), ok
}

// first returns what is named, or all.
func (c *scan) first() (step []uint32, err error) {
	if len(c.s.items) == 0 {
		for i := range c.all {
			c.taken[i] = true
			step = append(step, uint32(i))
		}
		return step, nil
	}
	for _, w := range c.s.items {
		node, ok := c.find(w.hash)
		if !ok || w.base != "" && w.base != c.all[node].base || w.dir != "" && w.dir != c.s.logical {
			if err := c.s.opt.refuse(w.String(), fmt.Errorf("%w: no such file in %s", ErrNotFound, c.s.real)); err != nil {
				return nil, err
			}
			continue
		}
		if !c.taken[node] {
			c.taken[node] = true
			step = append(step, node)
		}
	}
	return step, nil
}

// step scans the given items, some at once, and returns what they reference and is to be scanned next.
func (c *scan) step(ctx context.Context, nodes []uint32) (next []uint32, err error) {
	g, ctx := errgroup.WithContext(ctx)
	var at atomic.Int64
	for range min(localWorkers(), len(nodes)) {
		g.Go(func() error {
			for {
				i := int(at.Add(1)) - 1
				if i >= len(nodes) {
					return nil
				}
				refs, err := c.scan(ctx, nodes[i])
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				c.mu.Lock()
				if err != nil {
					err = c.s.opt.refuse(string(c.all[nodes[i]].base), err)
				} else {
					c.graph.set(nodes[i], refs)
					for _, r := range refs {
						if c.s.opt.Closure && !c.taken[r] {
							c.taken[r] = true
							next = append(next, r)
						}
					}
				}
				c.mu.Unlock()
				if err != nil {
					return err
				}
			}
		})
	}
	return next, g.Wait()
}

// scan dumps one item.
func (c *scan) scan(ctx context.Context, node uint32) (refs []uint32, err error) {
	it := &c.all[node]
	found, hasher := nar.NewRefScanner(c.parts), nar.NewHasher()
	if err := nar.Dump(ctx, io.MultiWriter(hasher, found), filepath.Join(c.s.real, string(it.base))); err != nil {
		return nil, err
	}
	it.hash, it.size = hasher.Sum(), hasher.Size()
	for _, h := range found.Found() {
		r, _ := c.find(h)
		if r == node {
			it.self = true
			continue
		}
		refs = append(refs, r)
	}
	return refs, nil
}

// job makes the job of an item, with all its references, also those that are not listed.
func (c *scan) job(node uint32) publish.Job {
	it := c.all[node]
	var refs []storepath.Base
	for _, r := range c.graph.of(node) {
		refs = append(refs, c.all[r].base)
	}
	if it.self {
		refs = append(refs, it.base)
	}
	slices.Sort(refs)
	return dumpJob(&narinfo.Narinfo{
		StorePath:  storepath.Path{Dir: c.s.logical, Base: it.base},
		NarHash:    it.hash,
		NarSize:    it.size,
		References: refs,
	}, c.s.real, c.s.opt.By)
}

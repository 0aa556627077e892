package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"

	"narfold/herder/publish"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// tree is what a binary cache is read through. Names are relative to its root.
type tree interface {
	// read returns the whole of a small object. It fails with ErrNotFound if there certainly is none, with ErrDamaged if it
	// has more than limit bytes, and with ErrUnavailable if the tree cannot be asked at all.
	read(ctx context.Context, name string, limit int) ([]byte, error)
	// nar tells how the file that a narinfo names is opened, or why it is not. It asks nothing of the tree yet.
	nar(f narinfo.File) (opener, error)
	// has tells whether the file is there, as far as that is cheap to know.
	has(ctx context.Context, f narinfo.File) bool
	// hashParts lists what narinfos there are, or fails with ErrUnlistable.
	hashParts(ctx context.Context) iter.Seq2[storepath.HashPart, error]
	// logs lists the names of the build logs, or fails with ErrUnlistable.
	logs(ctx context.Context) iter.Seq2[string, error]
	// traits tell how the tree is best used.
	traits() traits
	String() string
	Close() error
}

// traits tell how a tree is best used.
type traits struct {
	cheap   bool // reading a narinfo twice costs next to nothing
	one     bool // of several forms of a nar one is enough, since each costs a download
	workers int  // narinfos read at once
}

// cache is a binary cache.
type cache struct {
	tree  tree
	opt   Options
	items []wanted

	mu    sync.Mutex // guards dir
	dir   storepath.Dir
	tally tally

	refusing sync.Mutex // held while opt.Refused is called, since narinfos are read by several
}

// tally is how much there is, once that is known.
type tally struct {
	items, bytes atomic.Int64
	known        atomic.Bool
}

func (t *tally) set(items, bytes int64) {
	t.items.Store(items)
	t.bytes.Store(bytes)
	t.known.Store(true)
}

// Len implements Source.
func (t *tally) Len() (int64, bool) { return t.items.Load(), t.known.Load() }

// NarBytes implements Source.
func (t *tally) NarBytes() (int64, bool) { return t.bytes.Load(), t.known.Load() }

// openCache reads the cache's nix-cache-info and makes a cache of a tree, which it closes if that fails.
func openCache(ctx context.Context, t tree, opt Options) (_ *cache, err error) {
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	c := &cache{tree: t, opt: opt}
	if c.items, err = parseItems(opt.Items); err != nil {
		return nil, err
	}
	if opt.StorePaths != "" {
		more, err := readStorePaths(ctx, opt.StorePaths, opt)
		if err != nil {
			return nil, err
		}
		c.items = append(c.items, more...)
	}
	info, err := t.read(ctx, cacheInfo, maxCacheInfo)
	switch {
	case errors.Is(err, ErrNotFound): // the first narinfo tells the store directory
	case err != nil:
		return nil, fmt.Errorf("read %s of %s: %w", cacheInfo, t, err)
	default:
		if c.dir, err = parseCacheInfo(info); err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", cacheInfo, t, err)
		}
	}
	return c, nil
}

const (
	cacheInfo    = "nix-cache-info"
	maxCacheInfo = 64 << 10
)

// parseCacheInfo returns the StoreDir of a nix-cache-info, or "" if it has none. The other fields concern clients.
func parseCacheInfo(text []byte) (storepath.Dir, error) {
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(string(line), ":")
		if strings.TrimSpace(name) == "StoreDir" {
			dir, err := storepath.ParseDir(strings.TrimSpace(value))
			if err != nil {
				return "", fmt.Errorf("%w: StoreDir: %w", ErrDamaged, err)
			}
			return dir, nil
		}
	}
	return "", nil
}

// String names the cache.
func (c *cache) String() string { return c.tree.String() }

// Close closes what the cache is read through.
func (c *cache) Close() error { return c.tree.Close() }

// Dir returns the store directory of the items.
func (c *cache) Dir() storepath.Dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dir
}

// Len and NarBytes implement Source.
func (c *cache) Len() (int64, bool)      { return c.tally.Len() }
func (c *cache) NarBytes() (int64, bool) { return c.tally.NarBytes() }

// Jobs implements Source.
func (c *cache) Jobs(ctx context.Context) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) { finish(yield, c.list(ctx, yield)) }
}

func (c *cache) list(ctx context.Context, yield jobs) error {
	l, err := c.newLearner()
	if err != nil {
		return err
	}
	defer l.close()
	items := c.items
	if len(items) == 0 {
		err = l.whole(ctx)
		if errors.Is(err, ErrUnlistable) {
			if items, err = c.ownList(ctx); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	if len(items) > 0 {
		if err := l.named(ctx, items); err != nil {
			return err
		}
	}
	c.tally.set(l.graph.count(), l.bytes)
	for id := range l.graph.order() {
		if err := c.yield(ctx, l, id, yield); err != nil {
			return err
		}
	}
	return nil
}

// yield gives one item to the reader of the list.
func (c *cache) yield(ctx context.Context, l *learner, id uint32, yield jobs) error {
	n, err := l.again(ctx, id)
	if err == nil {
		var job publish.Job
		if job, err = c.job(ctx, n); err == nil {
			if !yield(job, nil) {
				return errStopped
			}
			return nil
		}
	}
	return c.leaveOut(ctx, string(l.part(id).hashPart()), err)
}

// leaveOut refuses one item, or returns what concerns more than that item.
func (c *cache) leaveOut(ctx context.Context, item string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, errStopped) {
		return err
	}
	c.refusing.Lock()
	defer c.refusing.Unlock()
	if errors.Is(err, ErrUnavailable) {
		if c.opt.Unavailable == nil {
			return err
		}
		return c.opt.Unavailable(item, err)
	}
	return c.opt.refuse(item, err)
}

// job makes a job of a narinfo.
func (c *cache) job(ctx context.Context, n *narinfo.Narinfo) (publish.Job, error) {
	forms, err := chooseForms(ctx, n, c.tree)
	if err != nil {
		return publish.Job{}, err
	}
	return publish.Job{Narinfo: n, Sources: forms, Sign: c.opt.Sign, By: c.opt.By}, nil
}

// fetch reads and judges the narinfo of an item.
func (c *cache) fetch(ctx context.Context, h storepath.HashPart) (*narinfo.Narinfo, error) {
	text, err := c.tree.read(ctx, string(h)+".narinfo", narinfo.MaxSize)
	if err != nil {
		return nil, err
	}
	return c.judge(text, h)
}

// judge parses a narinfo and checks that it is the one asked for.
func (c *cache) judge(text []byte, h storepath.HashPart) (*narinfo.Narinfo, error) {
	n, err := narinfo.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := n.Check(h); err != nil {
		return nil, err
	}
	if c.opt.Accept != nil {
		if err := c.opt.Accept(n); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		c.dir = n.StorePath.Dir
	}
	if n.StorePath.Dir != c.dir {
		return nil, fmt.Errorf("%w: %s is not in %s, the store of %s", ErrDamaged, n.StorePath, c.dir, c.tree)
	}
	return n, nil
}

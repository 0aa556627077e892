package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/objstore"
	"narfold/internal/pace"
)

// recordEvery is how many verified files are told to the catalogue at once, which costs one flush of a disk.
const recordEvery = 500

// unreadableInARow is how many objects may be unreadable one after the other before the store is taken to be unavailable.
const unreadableInARow = 20

// expandAll expands and hashes the files of published items, or a sample of them.
func (c *checker) expandAll(ctx context.Context) (err error) {
	type work struct {
		item catalog.Item
		file catalog.File
	}
	e := &expander{checker: c, pace: pace.New(c.Rate)}
	// What was verified is recorded also when the rest is not come to.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, e.record(ctx, true))
	}()
	g, gctx := errgroup.WithContext(ctx)
	queue := make(chan work)
	g.Go(func() error {
		defer close(queue)
		for it, err := range c.Catalogue.Items(gctx, 0) {
			if err != nil {
				return err
			}
			for _, f := range it.Files {
				switch other, err := e.another(gctx, it, f); {
				case err != nil:
					return err
				// What was verified since the check began came meanwhile.
				case other, !f.Verified.Before(c.begun.Add(-c.NotWithin)), c.Sample < 1 && rand.Float64() >= c.Sample, e.told(f.Key):
					continue
				}
				select {
				case queue <- work{it, f}:
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
		}
		return nil
	})
	for range c.Workers {
		g.Go(func() error {
			for w := range queue {
				if err := e.check(gctx, w.item, w.file); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// expander is one pass over the contents of files.
type expander struct {
	*checker
	pace *pace.Pace

	mu         sync.Mutex // guards what follows, and the checker's report and damage meanwhile
	verified   []objstore.Key
	unreadable int // in a row
}

// check reads a file, twice if it seems damaged: what a link or a memory garbled once is no damage of the store.
func (e *expander) check(ctx context.Context, it catalog.Item, f catalog.File) error {
	var problem error
	for range 2 {
		if problem = e.expand(ctx, it, f); problem == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if problem == nil {
		return e.good(ctx, f)
	}
	if live, err := e.is(ctx, f.Key, catalog.KeyLive); err != nil || !live {
		return err // withdrawn since
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.damagedKeys[f.Key] != nil {
		return nil // another item with the same nar came first
	}
	var bad corrupt
	switch {
	case errors.As(problem, &bad):
		e.unreadable = 0
		e.damaged(f, Corrupt, bad.Error())
	case errors.Is(problem, objstore.ErrNotFound):
		e.unreadable = 0
		e.damaged(f, Missing, "the object is not in the store")
	default:
		if e.unreadable++; e.unreadable >= unreadableInARow {
			return fmt.Errorf("%d objects in a row cannot be read: %w", e.unreadable, problem)
		}
		e.damaged(f, Unreadable, problem.Error())
	}
	return nil
}

// another reports whether a file is expanded for another item: items may share a nar, and its key has the name of the one that
// brought it.
func (e *expander) another(ctx context.Context, it catalog.Item, f catalog.File) (bool, error) {
	_, base, _, err := catalog.ParseNarKey(f.Key)
	if err != nil || base == it.Path.Base {
		return false, nil
	}
	owner, err := e.Catalogue.Item(ctx, base.HashPart())
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil
	}
	return slices.ContainsFunc(owner.Files, func(g catalog.File) bool { return g.Key == f.Key }), err
}

// told reports whether a finding about the key's object was kept.
func (e *expander) told(k objstore.Key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.damagedKeys[k] != nil
}

// corrupt says how an object differs from what was published.
type corrupt struct{ why string }

func (c corrupt) Error() string { return c.why }

// expand reads an object to its end. The error is corrupt if it is not what was published, else the object store's.
func (e *expander) expand(ctx context.Context, it catalog.Item, f catalog.File) error {
	o, err := e.Objects.Get(ctx, f.Key, objstore.Range{})
	if err != nil {
		return err
	}
	defer o.Close()
	if o.Info.Size != f.Size {
		return corrupt{fmt.Sprintf("the object has %d bytes, and %d were published", o.Info.Size, f.Size)}
	}
	src := &source{ctx: ctx, r: o, pace: e.pace}
	h := sha256.New()
	tee := io.TeeReader(src, h)
	z, err := compress.NewReader(f.Compression, tee)
	if err != nil {
		return corrupt{err.Error()}
	}
	defer z.Close()
	sum, expanding := nar.Verify(z)
	// The rest, where expanding came to a stop before the end: the hash tells whether it is the bytes that changed.
	if _, err := io.Copy(io.Discard, tee); err != nil && src.err == nil {
		src.err = err
	}
	var got digest.SHA256
	h.Sum(got[:0])
	switch {
	case src.err != nil:
		return src.err
	case got != f.SHA256:
		return corrupt{fmt.Sprintf("its bytes have changed: they hash to %s", got)}
	case expanding != nil:
		return corrupt{fmt.Sprintf("its bytes are those that were published, but do not expand to a nar: %v", expanding)}
	case sum.Hash != it.NarHash || sum.Size != it.NarSize:
		return corrupt{fmt.Sprintf("its bytes are those that were published, but expand to another nar: %s of %d bytes, where the narinfo says %s of %d", sum.Hash, sum.Size, it.NarHash, it.NarSize)}
	}
	return nil
}

// good counts a file that was verified.
func (e *expander) good(ctx context.Context, f catalog.File) error {
	if e.Expanded != nil {
		e.Expanded(f.Size)
	}
	e.mu.Lock()
	e.unreadable = 0
	e.report.Expanded++
	e.report.ExpandedBytes += f.Size
	e.verified = append(e.verified, f.Key)
	e.mu.Unlock()
	return e.record(ctx, false)
}

// record tells the catalogue what was verified, if that is many or all.
func (e *expander) record(ctx context.Context, all bool) error {
	e.mu.Lock()
	var keys []objstore.Key
	if len(e.verified) >= recordEvery || all {
		keys, e.verified = e.verified, nil
	}
	e.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	return e.Catalogue.RecordVerified(ctx, keys, time.Now().UTC())
}

// source reads an object at the pace, and remembers its error: what reads through it may hide that.
type source struct {
	ctx  context.Context
	r    io.Reader
	pace *pace.Pace
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if err := s.ctx.Err(); err != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	if perr := s.pace.Wait(s.ctx, n); perr != nil {
		s.err = perr
		return n, perr
	}
	return n, err
}

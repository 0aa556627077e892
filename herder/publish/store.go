package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// puts is how many objects are put at once: a bucket's answer takes tens of milliseconds.
const puts = 16

// storing puts the nars of one run into the object store, each as soon as it is spooled. Nothing of that is durable before flush.
type storing struct {
	p       *Publisher
	batch   objstore.Batch
	spooled chan *task // with forms to be put
}

func (p *Publisher) newStoring() *storing {
	return &storing{p: p, batch: objstore.BatchOf(p.Objects), spooled: make(chan *task)}
}

// admit finds out which of the tasks are there already, and reserves keys for what the others will bring: one transaction of the
// catalogue for all of them, which keeps nobody waiting later.
func (st *storing) admit(ctx context.Context, tasks []*task) error {
	hashes := make([]digest.SHA256, len(tasks))
	for i, t := range tasks {
		hashes[i] = t.Narinfo.NarHash
	}
	files, err := st.p.Catalogue.Files(ctx, hashes)
	if err != nil {
		return err
	}
	var lacking []*task
	for i, t := range tasks {
		if t.known, err = st.p.already(ctx, t, files[i]); err != nil {
			return err
		}
		if !t.known {
			t.wants = st.p.spooler().expected(t)
			lacking = append(lacking, t)
		}
	}
	return st.reserve(ctx, lacking)
}

// reserve reserves a key for each of the compressions that a task wants.
func (st *storing) reserve(ctx context.Context, tasks []*task) error {
	var wants []catalog.Want
	for _, t := range tasks {
		for _, m := range t.wants {
			wants = append(wants, catalog.Want{Base: t.Narinfo.StorePath.Base, Compression: m})
		}
	}
	if len(wants) == 0 {
		return nil
	}
	keys, err := st.p.Catalogue.Reserve(ctx, wants)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		t.keys = make(map[compress.Method]objstore.Key, len(t.wants))
		for _, m := range t.wants {
			t.keys[m] = keys[0]
			keys = keys[1:]
		}
	}
	return nil
}

// expected returns the compressions of the forms that t will probably have: what its sources bring turns out when they are read.
func (s *Spooler) expected(t *task) []compress.Method {
	var kept []form
	for _, from := range t.Sources {
		if from.Keep && from.Compression.Writable() {
			kept = append(kept, form{compression: from.Compression})
		}
	}
	wants := s.lacking(nil, kept)
	for _, f := range kept {
		wants = append(wants, f.compression)
	}
	return wants
}

// run puts what comes over spooled until that is closed, and closes done of each task whose forms are put.
func (st *storing) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(puts)
	for {
		select {
		case t, ok := <-st.spooled:
			if !ok {
				return g.Wait()
			}
			st.store(ctx, g, t, func() { close(t.done) })
		case <-ctx.Done():
			return errors.Join(g.Wait(), context.Cause(ctx))
		}
	}
}

// store lets g put the forms of t, and call stored when all are.
func (st *storing) store(ctx context.Context, g *errgroup.Group, t *task, stored func()) {
	left := new(atomic.Int64)
	left.Store(int64(len(t.forms)))
	for i := range t.forms {
		f := &t.forms[i]
		if f.placed {
			// Here it is no more than any other, if its reservation should be lost.
			f.placed, f.adopted = false, true
			if left.Add(-1) == 0 {
				stored()
			}
			continue
		}
		f.key = t.keys[f.compression]
		g.Go(func() error {
			if err := st.put(ctx, f, t.Narinfo.StorePath.Base); err != nil {
				return fmt.Errorf("store nar of %s: %w", t.Narinfo.StorePath.Base, err)
			}
			if left.Add(-1) == 0 {
				stored()
			}
			return nil
		})
	}
}

// again stores tasks whose keys were lost.
func (st *storing) again(ctx context.Context, tasks []*task) error {
	for _, t := range tasks {
		t.wants = t.wants[:0]
		for _, f := range t.forms {
			t.wants = append(t.wants, f.compression)
		}
	}
	if err := st.reserve(ctx, tasks); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(puts)
	for _, t := range tasks {
		st.store(gctx, g, t, func() {})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return st.flush(ctx)
}

// flush returns when all that was put before would survive a power cut.
func (st *storing) flush(ctx context.Context) error {
	if err := st.batch.Commit(ctx); err != nil {
		return fmt.Errorf("make objects durable: %w", err)
	}
	return nil
}

// put stores f under its key. If something lies there from a run that did not come to its end, that is taken over if its bytes are
// these, and otherwise f gets a key of the next generation: keys are write-once.
func (st *storing) put(ctx context.Context, f *form, base storepath.Base) error {
	for want := (catalog.Want{Base: base, Compression: f.compression}); ; want.After = f.key {
		if f.key == "" || f.key == want.After {
			keys, err := st.p.Catalogue.Reserve(ctx, []catalog.Want{want})
			if err != nil {
				return err
			}
			f.key = keys[0]
		}
		_, err := st.batch.Put(ctx, f.key, f.spooled.body(), objstore.IfAbsent)
		if !errors.Is(err, objstore.ErrConflict) {
			return err
		}
		if f.adopted, err = st.p.holds(ctx, f); err != nil || f.adopted {
			return err
		}
	}
}

// holds reports whether the object under f's key has f's bytes.
func (p *Publisher) holds(ctx context.Context, f *form) (bool, error) {
	o, err := p.Objects.Get(ctx, f.key, objstore.Range{})
	if errors.Is(err, objstore.ErrNotFound) {
		return false, nil // deleted since: the next generation is free
	}
	if err != nil {
		return false, err
	}
	defer o.Close()
	if o.Info.Size != f.spooled.size {
		return false, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, o); err != nil {
		return false, fmt.Errorf("read %s: %w", f.key, err)
	}
	sum := f.spooled.sum()
	return string(h.Sum(nil)) == string(sum[:]), nil
}

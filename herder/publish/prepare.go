package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/nar"
	"narfold/internal/objstore"
)

// task is a Job on its way.
type task struct {
	Job
	done chan struct{} // closed when nothing more is to be done before its turn

	// Set by admit.
	known bool // nothing needs to be read
	wants []compress.Method
	keys  map[compress.Method]objstore.Key // reserved

	// Set by prepare, read after done; the first two by admit if the nar is known.
	narHash digest.SHA256
	narSize int64
	forms   []form // spooled; empty if the catalogue has the nar already
	spooled int64  // bytes taken from the budget
	sealed  []byte // the narinfo as it is to be kept
	present bool   // the item is published, with this nar and all that is wanted
	err     error  // of this item alone
}

// form is one compressed nar in the spool.
type form struct {
	compression compress.Method
	spooled     *spooled
	verified    time.Time
	key         objstore.Key // set by storing
	adopted     bool         // the object was there, with these bytes
	placed      bool         // it was put there by whoever brought it
	unfit       bool         // not for serving, only to compress again
}

func (t *task) discard(b *budget) {
	for _, f := range t.forms {
		f.spooled.remove()
	}
	t.forms = nil
	b.give(t.spooled)
	t.spooled = 0
}

// prepare reads, verifies and compresses the nar of t into the spool by way of item. It returns an error only if the run cannot go on;
// what is wrong with this item is in t.err.
func (s *Spooler) prepare(ctx context.Context, t *task, b *budget, item func(context.Context, *task) error) error {
	if err := b.admit(ctx); err != nil {
		return err
	}
	err := item(ctx, t)
	for _, f := range t.forms {
		t.spooled += f.spooled.room()
	}
	b.take(t.spooled)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		t.discard(b)
		return context.Cause(ctx)
	case durable.IsFull(err):
		t.discard(b)
		return fmt.Errorf("spool %s in %s: %w", t.Narinfo.StorePath, s.Dir, err)
	case isFatal(err):
		t.discard(b)
		return err
	}
	t.discard(b)
	t.err = err
	return nil
}

// fatal marks an error that concerns more than one item.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

func isFatal(err error) bool {
	var f fatal
	return errors.As(err, &f)
}

func (p *Publisher) prepareItem(ctx context.Context, t *task) error {
	n := t.Narinfo
	if err := p.Keys.Check(n, !t.Sign); err != nil {
		return err
	}
	if t.Sign && len(n.Sigs) == 0 && n.Signature == "" && n.CA == "" && !p.Keys.Signs(n.StorePath.Dir) {
		return fmt.Errorf("%w: it has none, and there is no key here that signs items of %s", ErrSignature, n.StorePath.Dir)
	}
	if err := checkSignedURLs(t); err != nil {
		return err
	}
	if !t.known {
		if err := p.spooler().spool(ctx, t); err != nil {
			return err
		}
	}
	if t.present {
		return nil
	}
	if err := p.seal(t); err != nil {
		return fatal{fmt.Errorf("publish %s: %w", n.StorePath, err)}
	}
	return nil
}

// spool reads the nar of t and makes every form that is wanted of it.
func (s *Spooler) spool(ctx context.Context, t *task) error {
	t.narHash, t.narSize = t.Narinfo.NarHash, t.Narinfo.NarSize
	if t.Dump != nil {
		return s.prepareDump(ctx, t)
	}
	if len(t.Sources) == 0 {
		return ErrNoSource
	}
	for _, from := range t.Sources {
		if err := s.prepareSource(ctx, t, from); err != nil {
			return fmt.Errorf("%s: %w", from.Compression, err)
		}
	}
	// Only what no source brought is compressed here. A form that may not be served has served its purpose then.
	var made []form
	if want := s.lacking(nil, t.forms); want != nil {
		var err error
		if made, err = s.recompress(ctx, t, want); err != nil {
			return err
		}
	}
	t.forms = slices.DeleteFunc(t.forms, func(f form) bool {
		if f.unfit {
			f.spooled.remove()
		}
		return f.unfit
	})
	t.forms = append(t.forms, made...)
	return nil
}

// already tells whether nothing needs to be read: the item is published with this nar, or another item has brought the nar, whose
// files are given. A nar that nobody has brought is the usual case, and costs no further question.
func (p *Publisher) already(ctx context.Context, t *task, files []catalog.File) (bool, error) {
	t.narHash, t.narSize = t.Narinfo.NarHash, t.Narinfo.NarSize
	known := !t.narHash.IsZero()
	if known && (len(files) == 0 || p.spooler().lacking(files, nil) != nil) {
		return false, nil
	}
	it, err := p.Catalogue.Item(ctx, t.Narinfo.StorePath.HashPart())
	switch {
	case errors.Is(err, catalog.ErrNotFound):
	case err != nil:
		return false, fatal{err}
	case !known:
		t.narHash, t.narSize = it.NarHash, it.NarSize
		fallthrough
	case it.NarHash == t.narHash:
		t.present = p.spooler().lacking(it.Files, nil) == nil
		return t.present, nil
	}
	return known && !t.Narinfo.FilesAreSigned(), nil // signed URLs name files of their own
}

// lacking returns the wanted compressions that neither files nor forms have, or nil. A nar that has none of its own but a form kept
// from its source lacks nothing unless Compressions asks for more.
func (s *Spooler) lacking(files []catalog.File, forms []form) (want []compress.Method) {
	if len(s.Compressions) == 0 && (len(files) > 0 || slices.ContainsFunc(forms, func(f form) bool { return !f.unfit })) {
		return nil
	}
	for _, m := range s.compressions() {
		if !slices.ContainsFunc(files, func(f catalog.File) bool { return f.Compression == m }) &&
			!slices.ContainsFunc(forms, func(f form) bool { return f.compression == m && !f.unfit }) {
			want = append(want, m)
		}
	}
	return want
}

// prepareSource reads one form from its source, and keeps it if it may be served as it is.
func (s *Spooler) prepareSource(ctx context.Context, t *task, from Source) (err error) {
	if from.Placed != "" && t.keys[from.Compression] != from.Placed {
		return fmt.Errorf("%w: what lies under %s is not expected there any more", ErrNoSource, from.Placed)
	}
	r, err := from.Open(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer r.Close()
	sp := newSpooled(s.Dir)
	if from.Placed != "" {
		sp.elsewhere = func() (io.ReadCloser, error) { return from.Open(ctx) }
	}
	defer func() {
		if sp != nil {
			sp.remove()
		}
	}()
	z, err := compress.NewReader(from.Compression, io.TeeReader(r, sp))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer z.Close()
	sum, err := nar.Verify(z)
	if sp.err != nil {
		return fatal{sp.err}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	if err := t.is(sum); err != nil {
		return err
	}
	if err := sp.finish(); err != nil {
		return err
	}
	unfit := !from.Keep || !from.Compression.Writable() || z.Servable() != nil
	if unfit && len(t.forms) > 0 {
		return nil // another form can be compressed again
	}
	placed := from.Placed != "" && !unfit
	t.forms = append(t.forms, form{compression: from.Compression, spooled: sp, verified: time.Now().UTC(), unfit: unfit, placed: placed, key: from.Placed})
	sp = nil
	return nil
}

// is checks that a nar is the one that the narinfo names.
func (t *task) is(sum nar.Summary) error {
	if sum.Hash != t.Narinfo.NarHash {
		return fmt.Errorf("%w: the narinfo says %s, the nar has %s", ErrNarHash, t.Narinfo.NarHash, sum.Hash)
	}
	if sum.Size != t.Narinfo.NarSize {
		return fmt.Errorf("%w: the narinfo says %d bytes, the nar has %d", ErrNarHash, t.Narinfo.NarSize, sum.Size)
	}
	return nil
}

// recompress makes the wanted compressions out of a form that was spooled.
func (s *Spooler) recompress(ctx context.Context, t *task, want []compress.Method) ([]form, error) {
	from := t.forms[0]
	r, err := from.spooled.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	z, err := compress.NewReader(from.compression, r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return s.encode(want, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, contextReader{ctx, z}, make([]byte, 256<<10))
		return err
	})
}

// prepareDump compresses a nar that is made here, and learns its hash on the way.
func (s *Spooler) prepareDump(ctx context.Context, t *task) error {
	hasher := nar.NewHasher()
	made, err := s.encode(s.compressions(), func(w io.Writer) error {
		if err := t.Dump(ctx, io.MultiWriter(hasher, w)); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.forms = append(t.forms, made...)
	if h := t.Narinfo.NarHash; !h.IsZero() && h != hasher.Sum() {
		return fmt.Errorf("%w: the store's database says %s, its files make %s (repair it there)", ErrNarHash, h, hasher.Sum())
	}
	t.narHash, t.narSize = hasher.Sum(), hasher.Size()
	return nil
}

// encode spools what write writes in each of the wanted compressions.
func (s *Spooler) encode(want []compress.Method, write func(io.Writer) error) (made []form, err error) {
	var (
		encoders []io.WriteCloser
		all      []io.Writer
	)
	defer func() {
		for _, e := range encoders {
			e.Close() // again after success: it only tells that it was closed
		}
		if err != nil {
			for _, f := range made {
				f.spooled.remove()
			}
			made = nil
		}
	}()
	for _, m := range want {
		sp := newSpooled(s.Dir)
		made = append(made, form{compression: m, spooled: sp})
		e, err := s.Options.NewWriter(m, sp)
		if err != nil {
			return made, fatal{err}
		}
		encoders = append(encoders, e)
		all = append(all, e)
	}
	err = write(io.MultiWriter(all...))
	// Some encoders write from goroutines of their own: only when they are closed can it be told what came of it.
	for i, e := range encoders {
		if closeErr := e.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("compress by %s: %w", made[i].compression, closeErr)
		}
	}
	for _, f := range made {
		if f.spooled.err != nil {
			return made, fatal{f.spooled.err}
		}
	}
	if err != nil {
		return made, err
	}
	for i := range made {
		if err := made[i].spooled.finish(); err != nil {
			return made, err
		}
		made[i].verified = time.Now().UTC()
	}
	return made, nil
}

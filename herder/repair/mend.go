package repair

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"narfold/herder/check"
	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
)

// tries is how often something is tried again that others have changed meanwhile.
const tries = 5

// mend mends the files of l with the nar of a job. The bytes of the source as they are come first; only where they are not those that
// were published the nar is compressed anew.
func (r *Repairer) mend(ctx context.Context, source string, l *lost, job publish.Job) error {
	if !slices.ContainsFunc(l.files, (*Mending).open) {
		return nil
	}
	if h := job.Narinfo.NarHash; !h.IsZero() && h != l.hash {
		l.because(source, fmt.Errorf("it has another nar of %s: %s, and %s was published", job.Narinfo.StorePath, h, l.hash))
		return nil
	}
	if r.DryRun {
		for _, m := range l.files {
			m.Result, m.Source = Mendable, source
		}
		return nil
	}
	n := *job.Narinfo
	n.NarHash, n.NarSize = l.hash, l.size
	job.Narinfo = &n
	kept := make(map[compress.Method]bool)
	for _, s := range job.Sources {
		if s.Keep {
			kept[s.Compression] = true
		}
	}
	if err := r.attempt(ctx, source, l, job, kept); err != nil {
		return err
	}
	if !slices.ContainsFunc(l.files, func(m *Mending) bool { return m.open() && kept[m.file.Compression] }) {
		return nil
	}
	job.Sources = slices.Clone(job.Sources)
	for i := range job.Sources {
		job.Sources[i].Keep = false
	}
	return r.attempt(ctx, source, l, job, nil)
}

// attempt fetches the nar once. Forms in a compression that is kept are the source's own bytes, and are good only where they are those
// that were published.
func (r *Repairer) attempt(ctx context.Context, source string, l *lost, job publish.Job, kept map[compress.Method]bool) error {
	s := publish.Spooler{Dir: r.Spool, Options: r.Options, Workers: 1}
	for _, m := range l.files {
		if m.open() {
			s.Compressions = append(s.Compressions, m.file.Compression)
		}
	}
	one := func(yield func(publish.Job, error) bool) { yield(job, nil) }
	return s.Run(ctx, one, 1, func(ctx context.Context, nar *publish.Spooled) error {
		if nar.Err != nil {
			l.because(source, nar.Err)
			return nil
		}
		for _, m := range l.files {
			i := slices.IndexFunc(nar.Forms, func(f publish.Form) bool { return f.Compression == m.file.Compression })
			if i < 0 || !m.open() {
				continue
			}
			form := nar.Forms[i]
			same := form.SHA256 == m.file.SHA256 && form.Size == m.file.Size
			if !same && kept[form.Compression] {
				continue
			}
			var err error
			if same {
				err = r.restore(ctx, l, m, form)
			} else {
				err = r.replace(ctx, l, m, form)
			}
			var no refusal
			if errors.As(err, &no) {
				m.Why = append(m.Why, source+": "+no.Error())
				continue
			}
			if err != nil {
				return fmt.Errorf("mend %s: %w", m.Key, err)
			}
			m.Source = source
			r.Log.Debug("file mended", "key", m.Key, "result", m.Result, "new", m.NewKey, "source", source)
		}
		return nil
	})
}

// because notes why a source could not mend what is still damaged.
func (l *lost) because(source string, err error) {
	for _, m := range l.files {
		if m.open() {
			m.Why = append(m.Why, source+": "+err.Error())
		}
	}
}

// refusal is a reason that concerns one file alone.
type refusal struct{ error }

// restore puts the published bytes back under their key.
func (r *Repairer) restore(ctx context.Context, l *lost, m *Mending, form publish.Form) error {
	for range tries {
		var c objstore.Condition
		info, err := r.Objects.Stat(ctx, m.Key)
		switch {
		case errors.Is(err, objstore.ErrNotFound):
			c.IfAbsent = true
		case err != nil:
			return err
		default:
			c.IfMatch = info.ETag
			if whole, err := r.whole(ctx, l, m); whole || err != nil {
				return err
			}
		}
		_, err = r.Objects.Put(ctx, m.Key, body(form), c)
		if errors.Is(err, objstore.ErrConflict) {
			continue // somebody else has put something
		}
		if err != nil {
			return err
		}
		m.Result = Restored
		return r.Catalogue.RecordVerified(ctx, []objstore.Key{m.Key}, time.Now().UTC())
	}
	return refusal{errors.New("its object changes while it is mended")}
}

// whole looks at a file again, and notes if it is not damaged.
func (r *Repairer) whole(ctx context.Context, l *lost, m *Mending) (bool, error) {
	kind, _, err := check.Examine(ctx, r.Objects, l.items[0], m.file)
	if err != nil || kind != "" {
		return false, err
	}
	m.Result = Whole
	return true, nil
}

// replace gives the nar another object, of the next generation, and has the catalogue name that.
func (r *Repairer) replace(ctx context.Context, l *lost, m *Mending, form publish.Form) error {
	if whole, err := r.whole(ctx, l, m); whole || err != nil {
		return err
	}
	for _, it := range l.items {
		n, err := narinfo.Parse(it.Narinfo)
		if err != nil {
			return refusal{fmt.Errorf("its narinfo cannot be read: %w", err)}
		}
		if n.FilesAreSigned() {
			return refusal{fmt.Errorf("it has the nar in other bytes, and the signature of %s covers the size of those that were published", it.Path)}
		}
	}
	_, base, _, err := catalog.ParseNarKey(m.Key)
	if err != nil {
		return refusal{err}
	}
	file := catalog.File{Compression: form.Compression, Size: form.Size, SHA256: form.SHA256, Verified: time.Now().UTC()}
	file.Key = m.Key
	for range tries {
		keys, err := r.Catalogue.Reserve(ctx, []catalog.Want{{Base: base, Compression: form.Compression, After: file.Key}})
		if err != nil {
			return err
		}
		file.Key = keys[0]
		_, err = r.Objects.Put(ctx, file.Key, body(form), objstore.IfAbsent)
		if errors.Is(err, objstore.ErrConflict) {
			same, err := r.holds(ctx, file)
			if err != nil {
				return err
			}
			if !same {
				continue // a key is written once; the next one
			}
		} else if err != nil {
			return err
		}
		err = r.Catalogue.Replace(ctx, m.Key, file)
		switch {
		case err == nil:
			m.Result, m.NewKey = Replaced, file.Key
			return nil
		case errors.Is(err, catalog.ErrNotReserved):
			continue // an item that waits has it, or a check has cleaned it up
		case errors.Is(err, catalog.ErrNotFound):
			m.Result = Whole // another repair was faster, or nobody needs it any more
			return nil
		}
		return err
	}
	return refusal{errors.New("no key stays free for it")}
}

// holds reports whether an object has these bytes, as that of a repair that did not come to its end has.
func (r *Repairer) holds(ctx context.Context, f catalog.File) (bool, error) {
	o, err := r.Objects.Get(ctx, f.Key, objstore.Range{})
	if errors.Is(err, objstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer o.Close()
	if o.Info.Size != f.Size {
		return false, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, o); err != nil {
		return false, fmt.Errorf("read %s: %w", f.Key, err)
	}
	return digest.SHA256(h.Sum(nil)) == f.SHA256, nil
}

func body(f publish.Form) objstore.Body {
	return objstore.Body{Size: f.Size, SHA256: f.SHA256, Open: f.Open}
}

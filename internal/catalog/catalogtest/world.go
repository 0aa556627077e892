package catalogtest

import (
	"bytes"
	"errors"
	"slices"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

var errNoFile = errors.New("no file")

// publish is the contract of Publish in a few lines.
func (w *world) publish(batch []catalog.Publication) ([]catalog.Outcome, error) {
	out := make([]catalog.Outcome, len(batch))
	decided := make([]bool, len(batch))
	for progress := true; progress; {
		progress = false
		for i := range batch {
			if decided[i] || len(w.missing(batch[i])) > 0 {
				continue
			}
			decided[i], progress = true, true
			var err error
			if out[i], err = w.decide(batch[i]); err != nil {
				return nil, err
			}
			if out[i].Verdict == catalog.Published {
				if out[i].Released, err = w.release(batch[i]); err != nil {
					return nil, err
				}
			}
		}
	}
	for i, p := range batch {
		if decided[i] {
			continue
		}
		out[i] = catalog.Outcome{Verdict: catalog.Refused, Missing: w.missing(p)}
		if p.Wait {
			out[i].Verdict = catalog.Waiting
			w.forget(p.Path.Name())
			if len(p.Files) == 0 && len(w.files[p.NarHash]) == 0 {
				return nil, errNoFile
			}
			for _, f := range p.Files {
				if u, ok := w.uploads[f.Key]; !ok || u.abandoned {
					return nil, catalog.ErrNotReserved
				}
				w.uploads[f.Key] = upload{item: p.Path.Base}
			}
			w.waiting[p.Path.Name()] = p
		}
	}
	return out, nil
}

func (w *world) missing(p catalog.Publication) (missing []storepath.Base) {
	for _, r := range p.References {
		if _, live := w.nar[r.Name()]; !live && r != p.Path.Base {
			missing = append(missing, r)
		}
	}
	return missing
}

// release publishes what waits for nothing any more now that p is published, and what had waited for that.
func (w *world) release(p catalog.Publication) (released []storepath.Path, err error) {
	for queue := []catalog.Publication{p}; len(queue) > 0; queue = queue[1:] {
		var next []catalog.Publication
		for _, waits := range w.waiting {
			if slices.Contains(waits.References, queue[0].Path.Base) && len(w.missing(waits)) == 0 {
				next = append(next, waits)
			}
		}
		slices.SortFunc(next, func(a, b catalog.Publication) int {
			x, y := a.Path.HashPart().Bytes(), b.Path.HashPart().Bytes()
			return bytes.Compare(x[:], y[:])
		})
		for _, n := range next {
			if _, err := w.decide(n); err != nil {
				return nil, err
			}
			released, queue = append(released, n.Path), append(queue, n)
		}
	}
	return released, nil
}

// account makes an upload of a key that nothing knows any more.
func (w *world) account(k objstore.Key) {
	for _, files := range w.files {
		for _, live := range files {
			if live == k {
				return
			}
		}
	}
	if _, known := w.uploads[k]; !known {
		w.uploads[k] = upload{}
	}
}

func (w *world) decide(p catalog.Publication) (out catalog.Outcome, err error) {
	name := p.Path.Name()
	nar, live := w.nar[name]
	if live && nar != p.NarHash {
		return catalog.Outcome{Verdict: catalog.Differs, Other: nar}, nil
	}
	files := w.files[p.NarHash]
	if files == nil {
		files = map[compress.Method]objstore.Key{}
	}
	for _, f := range p.Files {
		if have, ok := files[f.Compression]; ok {
			if have != f.Key {
				out.Unused = append(out.Unused, f.Key)
				w.account(f.Key)
			}
			continue
		}
		if u, ok := w.uploads[f.Key]; !ok || u.abandoned {
			return out, catalog.ErrNotReserved
		}
		delete(w.uploads, f.Key)
		files[f.Compression] = f.Key
	}
	if len(files) == 0 {
		return out, errNoFile
	}
	w.files[p.NarHash] = files
	if live {
		out.Verdict = catalog.Present
		return out, nil
	}
	w.nar[name] = p.NarHash
	w.order = append(w.order, name)
	w.forget(name)
	return out, nil
}

func (w *world) forget(name string) {
	if _, ok := w.waiting[name]; !ok {
		return
	}
	delete(w.waiting, name)
	for k, u := range w.uploads {
		if u.item == Base(name) {
			w.uploads[k] = upload{}
		}
	}
}

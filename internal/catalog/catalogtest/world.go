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
			if out[i], err = w.publishOne(batch[i]); err != nil {
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
			if err := w.wait(p); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// wait keeps a publication until nothing that it references is missing.
func (w *world) wait(p catalog.Publication) error {
	w.forget(p.Path.Name())
	if len(p.Files) == 0 && len(w.files[p.NarHash]) == 0 && len(w.cold[p.NarHash]) == 0 {
		return errNoFile
	}
	for _, f := range p.Files {
		if u, ok := w.uploads[f.Key]; !ok || u.abandoned {
			return catalog.ErrNotReserved
		}
		w.uploads[f.Key] = upload{item: p.Path.Base}
	}
	w.waiting[p.Path.Name()] = waiting{p, w.missing(p)}
	return nil
}

func (w *world) missing(p catalog.Publication) (missing []storepath.Base) {
	for _, r := range p.References {
		_, live := w.nar[r.Name()]
		if _, back := w.condemned[r.Name()]; !live && !back && r != p.Path.Base {
			missing = append(missing, r)
		}
	}
	return missing
}

// release publishes what waits for nothing any more now that p is published, and what had waited for that.
func (w *world) release(p catalog.Publication) (released []storepath.Path, err error) {
	for queue := []catalog.Publication{p}; len(queue) > 0; queue = queue[1:] {
		var next []catalog.Publication
		for name, waits := range w.waiting {
			if !slices.Contains(waits.lacks, queue[0].Path.Base) {
				continue
			}
			waits.lacks = slices.DeleteFunc(slices.Clone(waits.lacks), func(b storepath.Base) bool { return b == queue[0].Path.Base })
			if w.waiting[name] = waits; len(waits.lacks) == 0 {
				next = append(next, waits.Publication)
			}
		}
		slices.SortFunc(next, func(a, b catalog.Publication) int {
			x, y := a.Path.HashPart().Bytes(), b.Path.HashPart().Bytes()
			return bytes.Compare(x[:], y[:])
		})
		for _, n := range next {
			if len(w.missing(n)) > 0 { // deleted since
				if err := w.wait(n); err != nil && !errors.Is(err, errNoFile) {
					return nil, err
				}
				continue
			}
			out, err := w.publishOne(n)
			switch {
			case errors.Is(err, errNoFile): // its nar was deleted since
				w.forget(n.Path.Name())
			case err != nil:
				return nil, err
			case out.Verdict == catalog.Published:
				released, queue = append(released, n.Path), append(queue, n)
			}
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
	if _, known := w.uploads[k]; !known && !w.kept(k) {
		w.uploads[k] = upload{abandoned: w.isSpent(k)}
	}
}

// publishOne decides on an item that lacks no reference.
func (w *world) publishOne(p catalog.Publication) (catalog.Outcome, error) {
	w.reviveFor(p)
	return w.decide(p)
}

func (w *world) decide(p catalog.Publication) (out catalog.Outcome, err error) {
	name := p.Path.Name()
	nar, live := w.nar[name]
	if w.wanted[name] = true; live && nar != p.NarHash {
		return catalog.Outcome{Verdict: catalog.Differs, Other: nar}, nil
	}
	w.warm(p.NarHash)
	files := w.files[p.NarHash]
	lacked := len(files)
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
	if w.nars[p.NarHash] == 0 {
		w.lastNar++
		w.nars[p.NarHash] = w.lastNar
	}
	if live {
		if len(files) > lacked {
			w.tell(catalog.ChangeFilesAdded, name)
		}
		out.Verdict = catalog.Present
		return out, nil
	}
	w.nar[name] = p.NarHash
	w.tell(catalog.ChangePublished, name)
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

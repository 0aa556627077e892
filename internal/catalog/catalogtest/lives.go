package catalogtest

import (
	"maps"
	"slices"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// ended is what a world knows of the items that are not live. All of it is empty with a catalogue that withdraws nothing.
type ended struct {
	condemned map[string]condemned // by name
	cold      map[digest.SHA256]map[compress.Method]objstore.Key
	deleting  map[int64]deleting
	dying     map[int]map[compress.Method]objstore.Key // files of nars that are deleting, by their numbers
	gone      map[int64]string
	nars      map[digest.SHA256]int // numbers of nars that are live or cold
	lastNar   int
	spent     map[objstore.Key]int // the last generation of a key that nobody gets again, by the first
	leases    map[int64]lease

	watched bool            // a moment was taken
	wanted  map[string]bool // what happened to live items since
	moved   bool            // roots have changed since
}

type condemned struct {
	nar digest.SHA256
	id  int64
}

type deleting struct {
	name string
	nar  int
}

type lease struct {
	catalog.Lease
	names map[string]bool
}

func newEnded() ended {
	return ended{condemned: map[string]condemned{}, cold: map[digest.SHA256]map[compress.Method]objstore.Key{}, deleting: map[int64]deleting{},
		dying: map[int]map[compress.Method]objstore.Key{}, gone: map[int64]string{}, nars: map[digest.SHA256]int{}, spent: map[objstore.Key]int{},
		leases: map[int64]lease{}, wanted: map[string]bool{}}
}

func (e ended) clone() ended {
	e.condemned, e.deleting, e.gone, e.nars = maps.Clone(e.condemned), maps.Clone(e.deleting), maps.Clone(e.gone), maps.Clone(e.nars)
	e.spent, e.leases, e.wanted, e.dying = maps.Clone(e.spent), maps.Clone(e.leases), maps.Clone(e.wanted), maps.Clone(e.dying)
	cold := maps.Clone(e.cold)
	for nar, files := range cold {
		cold[nar] = maps.Clone(files)
	}
	e.cold = cold
	return e
}

// spend remembers that a key was published and is not any more.
func (w *world) spend(k objstore.Key) {
	method, b, generation, err := catalog.ParseNarKey(k)
	if err != nil {
		panic(err)
	}
	first := catalog.NarKey(method, b, 1)
	w.spent[first] = max(w.spent[first], generation)
}

// isSpent reports whether a key may never be handed out again.
func (w *world) isSpent(k objstore.Key) bool {
	method, b, generation, err := catalog.ParseNarKey(k)
	return err == nil && generation <= w.spent[catalog.NarKey(method, b, 1)]
}

// kept reports whether a key is that of a nar that is condemned or deleting.
func (w *world) kept(k objstore.Key) bool {
	for _, of := range []([]map[compress.Method]objstore.Key){slices.Collect(maps.Values(w.cold)), slices.Collect(maps.Values(w.dying))} {
		for _, files := range of {
			for _, have := range files {
				if have == k {
					return true
				}
			}
		}
	}
	return false
}

// warm makes a condemned nar live, if there is one.
func (w *world) warm(nar digest.SHA256) {
	if files, ok := w.cold[nar]; ok {
		delete(w.cold, nar)
		w.files[nar] = files
	}
}

// revive brings back an item if it is condemned, after what it references.
func (w *world) revive(name string) {
	c, ok := w.condemned[name]
	if !ok {
		return
	}
	for _, ref := range references(number(name)) {
		if ref != name {
			w.revive(ref)
		}
	}
	delete(w.condemned, name)
	w.warm(c.nar)
	w.nar[name] = c.nar
	w.tell(catalog.ChangeRestored, name)
	w.wanted[name] = true
}

// reviveFor brings back what the publication of an item does.
func (w *world) reviveFor(p catalog.Publication) {
	w.revive(p.Path.Name())
	for _, r := range p.References {
		w.revive(r.Name())
	}
}

// referrers returns the live items that reference an item.
func (w *world) referrers(name string) (all []string) {
	for other := range w.nar {
		if other != name && slices.Contains(references(number(other)), name) {
			all = append(all, other)
		}
	}
	return all
}

// leased reports whether a lease names an item.
func (w *world) leased(name string) bool {
	for _, l := range w.leases {
		if l.names[name] {
			return true
		}
	}
	return false
}

// withdraw is the contract of Withdraw: the verdict for each name. since is whether it was decided at the moment that was taken last.
func (w *world) withdraw(names []string, since bool) ([]catalog.WithdrawVerdict, error) {
	if since && w.moved {
		return nil, catalog.ErrMoved
	}
	stays := map[string]catalog.WithdrawVerdict{}
	for _, name := range names {
		switch {
		case w.nar[name] == digest.SHA256{}:
			stays[name] = catalog.NotLive
		case w.leased(name):
			stays[name] = catalog.Leased
		case since && w.wanted[name]:
			stays[name] = catalog.Wanted
		}
	}
	for changed := true; changed; {
		changed = false
		for _, name := range names {
			if _, ok := stays[name]; ok {
				continue
			}
			for _, r := range w.referrers(name) {
				if _, stay := stays[r]; stay || !slices.Contains(names, r) {
					stays[name], changed = catalog.Referenced, true
				}
			}
		}
	}
	verdicts := make([]catalog.WithdrawVerdict, len(names))
	for i, name := range names {
		verdicts[i] = stays[name]
	}
	return verdicts, nil
}

// condemn takes an item with a number out of the live ones.
func (w *world) condemn(name string, id int64) {
	nar := w.nar[name]
	w.condemned[name] = condemned{nar, id}
	delete(w.nar, name)
	w.tell(catalog.ChangeWithdrawn, name)
	for _, other := range w.nar {
		if other == nar {
			return
		}
	}
	w.cold[nar] = w.files[nar]
	delete(w.files, nar)
	for _, k := range w.cold[nar] {
		w.spend(k)
	}
}

// beginDelete is the contract of BeginDelete, and does it.
func (w *world) beginDelete(ids []int64, old bool) []catalog.DeleteVerdict {
	names := map[int64]string{}
	for name, c := range w.condemned {
		names[c.id] = name
	}
	stays := map[string]catalog.DeleteVerdict{}
	set := map[string]bool{}
	for _, id := range ids {
		if set[names[id]] = true; !old {
			stays[names[id]] = catalog.TooYoung
		}
	}
	for changed := true; changed; {
		changed = false
		for name := range set {
			if _, ok := stays[name]; ok || name == "" {
				continue
			}
			for other := range w.condemned {
				if _, stay := stays[other]; other != name && (stay || !set[other]) && slices.Contains(references(number(other)), name) {
					stays[name], changed = catalog.Needed, true
				}
			}
		}
	}
	verdicts := make([]catalog.DeleteVerdict, len(ids))
	for i, id := range ids {
		name, ok := names[id]
		if !ok {
			if _, deleting := w.deleting[id]; !deleting {
				verdicts[i] = catalog.NotCondemned
			}
			continue
		}
		if verdicts[i] = stays[name]; verdicts[i] != catalog.Deletable {
			continue
		}
		w.deleting[id] = deleting{name, w.nars[w.condemned[name].nar]}
	}
	for i, id := range ids {
		name, ok := names[id]
		if !ok || verdicts[i] != catalog.Deletable {
			continue
		}
		c := w.condemned[name]
		delete(w.condemned, name)
		delete(names, id)
		w.tell(catalog.ChangeDeleted, name)
		files, cold := w.cold[c.nar]
		for _, other := range w.condemned {
			cold = cold && other.nar != c.nar
		}
		if cold {
			w.dying[w.nars[c.nar]] = files
			delete(w.cold, c.nar)
			delete(w.nars, c.nar)
		}
	}
	return verdicts
}

// keysOf returns the objects to delete with an item that is deleting.
func (w *world) keysOf(id int64) []objstore.Key {
	return slices.Sorted(maps.Values(w.dying[w.deleting[id].nar]))
}

// deleted is the contract of Deleted.
func (w *world) deleted(id int64) {
	d, ok := w.deleting[id]
	if !ok {
		return
	}
	delete(w.deleting, id)
	w.gone[id] = d.name
	for _, other := range w.deleting {
		if other.nar == d.nar {
			return
		}
	}
	delete(w.dying, d.nar)
}

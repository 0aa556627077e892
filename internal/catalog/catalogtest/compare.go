package catalogtest

import (
	"fmt"
	"maps"
	"narfold/internal/digest"
	"slices"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// How often what persists is compared, in steps: a catalogue that forgot it, or counted wrong, still does when it is looked at. What is there,
// and what a step has changed, is compared after each step.
const (
	listEvery = 50
	fullEvery = 500
)

// compare looks whether the catalogue says what the model does, and whether that is safe.
func (m *model) compare() {
	m.Helper()
	now := make(map[string]string, len(m.nar))
	var touched []string
	for name, nar := range m.nar {
		now[name] = m.show(nar)
		if now[name] != m.before[name] {
			touched = append(touched, name)
		}
	}
	m.before = now
	m.told = append(m.told, m.world.told...)
	version, err := m.c.Version(m.Context())
	if err != nil {
		m.Fatal(err)
	}
	if version != m.version || len(touched) > 0 || m.age%listEvery == 0 {
		m.compareThere()
		slices.Sort(touched)
		for _, name := range touched {
			it, err := m.c.Item(m.Context(), Base(name).HashPart())
			if err != nil {
				m.Error(err)
				continue
			}
			m.compareItem(it)
		}
	}
	if m.version = version; m.age%listEvery == 0 {
		m.compareChanges()
		m.compareCounts()
		m.compareUploads()
		m.compareWaiting()
		m.compareWithdrawn()
	}
	if m.age%fullEvery == 0 {
		m.compareAll()
	}
	for _, problem := range m.unsafe() {
		m.Error(problem)
	}
}

// show gives a nar with its files.
func (m *model) show(nar digest.SHA256) string {
	text := string(nar[:])
	for _, method := range methods {
		text += " " + string(m.files[nar][method])
	}
	return text
}

// unsafe says which invariants the world breaks, which is compared with the catalogue before: closed, and every file an object of its own.
func (m *model) unsafe() (problems []string) {
	for name, nar := range m.nar {
		for _, r := range references(number(name)) {
			if _, ok := m.nar[r]; !ok {
				problems = append(problems, fmt.Sprintf("%s is live without %s", name, r))
			}
		}
		for _, k := range m.files[nar] {
			if !m.objects.there[k] {
				problems = append(problems, fmt.Sprintf("%s is live and its object %s is deleted", name, k))
			}
			if first, ok := m.objects.nar[k]; ok && first != nar {
				problems = append(problems, fmt.Sprintf("%s is live with key %s, which had another nar", name, k))
			}
			m.objects.nar[k] = nar
		}
	}
	return problems
}

// compareChanges compares what changes are told, and looks whether who follows them, one by one, always has something closed.
func (m *model) compareChanges() {
	changes, err := m.c.Changes(m.Context(), m.change, 1000)
	if err != nil {
		m.Fatal(err)
	}
	var told []string
	for i, ch := range changes {
		if ch.Sequence != m.change+int64(i)+1 {
			m.Errorf("change %d has the number %d", m.change+int64(i)+1, ch.Sequence)
		}
		name := ch.Item.Path.Name()
		told = append(told, fmt.Sprintf("%d %s", ch.Kind, name))
		m.follow(ch.Kind, name)
		if ch.State == catalog.StateLive && ch.Item.NarHash != m.nar[name] {
			m.Errorf("change %d is of nar %s, want %s", ch.Sequence, ch.Item.NarHash, m.nar[name])
		}
	}
	m.change += int64(len(changes))
	slices.Sort(told)
	slices.Sort(m.told)
	if !slices.Equal(told, m.told) {
		m.Errorf("changes %v, want %v", told, m.told)
	}
	m.told = nil
}

// follow does what a change says to the items of somebody who follows the changes.
func (m *model) follow(kind catalog.ChangeKind, name string) {
	switch kind {
	case catalog.ChangePublished, catalog.ChangeRestored:
		for _, r := range references(number(name)) {
			if r != name && !m.followed[r] {
				m.Errorf("%s is told of before its reference %s", name, r)
			}
		}
		m.followed[name] = true
	case catalog.ChangeWithdrawn:
		delete(m.followed, name)
		for other := range m.followed {
			if slices.Contains(references(number(other)), name) {
				m.Errorf("%s is told to be withdrawn before %s, which references it", name, other)
			}
		}
	}
}

// compareThere compares what is there.
func (m *model) compareThere() {
	there := map[storepath.HashPart]bool{}
	if _, err := m.c.EachHashPart(m.Context(), 0, func(h [20]byte) { there[storepath.HashPartOf(h)] = true }); err != nil {
		m.Fatal(err)
	}
	for name := range m.nar {
		if h := Base(name).HashPart(); !there[h] {
			m.Errorf("%s is not there", name)
		}
	}
	if len(there) != len(m.nar) {
		m.Errorf("%d items are there, want %d", len(there), len(m.nar))
	}
}

func (m *model) compareCounts() {
	counts, err := m.c.Counts(m.Context())
	if err != nil {
		m.Fatal(err)
	}
	files := 0
	for _, of := range m.files {
		files += len(of)
	}
	if counts.Items != int64(len(m.nar)) || counts.Files != int64(files) || counts.Nars != int64(len(m.files)) || counts.Uploads != int64(len(m.uploads)) ||
		counts.Waiting != int64(len(m.waiting)) || len(m.nar) > 0 && counts.Dirs[storepath.Guix] != counts.Items {
		m.Errorf("counted %+v, want %d items, %d waiting, %d nars, %d files, %d uploads", counts, len(m.nar), len(m.waiting), len(m.files), files, len(m.uploads))
	}
}

func (m *model) compareItem(it catalog.Item) {
	name := it.Path.Name()
	if m.nar[name] != it.NarHash {
		m.Errorf("%s is published with %s, want %s", name, it.NarHash, m.nar[name])
	}
	have := map[compress.Method]objstore.Key{}
	for _, f := range it.Files {
		have[f.Compression] = f.Key
	}
	if !maps.Equal(have, m.files[it.NarHash]) {
		m.Errorf("%s has files %v, want %v", name, have, m.files[it.NarHash])
	}
	var refs []string
	for _, r := range it.References {
		refs = append(refs, r.Name())
	}
	if slices.Sort(refs); !slices.Equal(refs, references(number(name))) {
		m.Errorf("%s references %v, want %v", name, refs, references(number(name)))
	}
}

func (m *model) compareUploads() {
	uploads := map[objstore.Key]storepath.Base{}
	for _, u := range collect(m.T, m.c.Uploads(m.Context())) {
		uploads[u.Key] = u.For
	}
	want := map[objstore.Key]storepath.Base{}
	for k, u := range m.uploads {
		want[k] = u.item
	}
	if !maps.Equal(uploads, want) {
		m.Errorf("uploads %v, want %v", uploads, want)
	}
}

func (m *model) compareWaiting() {
	waiting := map[string]bool{}
	for _, w := range collect(m.T, m.c.WaitingItems(m.Context())) {
		waiting[w.Path.Name()] = true
		if len(w.Missing) == 0 || len(w.Missing) != len(m.waiting[w.Path.Name()].lacks) {
			m.Errorf("%s waits for %v, want %v", w.Path.Name(), w.Missing, m.waiting[w.Path.Name()].lacks)
		}
	}
	for name := range m.waiting {
		if !waiting[name] {
			m.Errorf("%s does not wait", name)
		}
	}
	if len(waiting) != len(m.waiting) {
		m.Errorf("%d items wait, want %d", len(waiting), len(m.waiting))
	}
}

// compareWithdrawn compares what is condemned or deleting.
func (m *model) compareWithdrawn() {
	var have, want []string
	show := func(name string, id int64, state catalog.State, keys []objstore.Key) string {
		return fmt.Sprintf("%s %d %s %v", name, id, state, keys)
	}
	for _, w := range collect(m.T, m.c.Withdrawn(m.Context(), 0)) {
		have = append(have, show(w.Path.Name(), w.Sequence, w.State, w.Keys))
	}
	for name, c := range m.condemned {
		want = append(want, show(name, c.id, catalog.StateCondemned, nil))
	}
	for id, d := range m.deleting {
		want = append(want, show(d.name, id, catalog.StateDeleting, m.keysOf(id)))
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		m.Errorf("withdrawn\n got %v\nwant %v", have, want)
	}
}

// compareAll compares what compare does not at each step.
func (m *model) compareAll() {
	published := map[string]bool{}
	for _, it := range collect(m.T, m.c.Items(m.Context(), 0)) {
		m.compareItem(it)
		for _, r := range it.References {
			if r != it.Path.Base && !published[r.Name()] {
				m.Errorf("%s is published before its reference %s", it.Path.Name(), r.Name())
			}
		}
		published[it.Path.Name()] = true
	}
	if len(published) != len(m.nar) {
		m.Errorf("%d items are published, want %d", len(published), len(m.nar))
	}
	keys := map[objstore.Key]bool{}
	for _, f := range collect(m.T, m.c.Keys(m.Context())) {
		keys[f.Key] = true
	}
	for _, files := range m.files {
		for _, k := range files {
			if !keys[k] {
				m.Errorf("%s is not the key of anything", k)
			}
			delete(keys, k)
		}
	}
	if len(keys) > 0 {
		m.Errorf("keys of nothing: %v", keys)
	}
	gone := map[int64]string{}
	for _, t := range collect(m.T, m.c.Tombstones(m.Context(), 0)) {
		gone[t.Sequence] = t.Path.Name()
	}
	if !maps.Equal(gone, m.gone) {
		m.Errorf("tombstones %v, want %v", gone, m.gone)
	}
	leases := map[int64]int64{}
	for _, l := range collect(m.T, m.c.Leases(m.Context())) {
		leases[l.ID] = l.Items
	}
	want := map[int64]int64{}
	for id, l := range m.leases {
		want[id] = int64(len(l.names))
	}
	if !maps.Equal(leases, want) {
		m.Errorf("leases %v, want %v", leases, want)
	}
}

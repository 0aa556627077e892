package catalogtest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Model holds a catalogue to a model of a few maps, through steps random operations of several publishers, a cleaner, and restarts. After
// each step both say the same of what is published, reserved and waiting, and everything published is closed.
func Model(t *testing.T, seed uint64, steps int, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	m := &model{T: t, r: rand.New(rand.NewPCG(seed, 0)), c: open(t), world: newWorld()}
	for step := range steps {
		if step > 0 && step%worldSteps == 0 {
			m.c, m.world = open(t), newWorld()
		}
		what := m.step(reopen)
		if m.compare(); t.Failed() {
			t.Fatalf("seed %d, step %d: after %s", seed, step, what)
		}
	}
	t.Logf("seed %d, %d steps: %v", seed, steps, m.seen)
	for _, verdict := range []catalog.Verdict{catalog.Published, catalog.Present, catalog.Waiting, catalog.Refused, catalog.Differs} {
		if m.seen[verdict.String()] == 0 {
			t.Errorf("seed %d: no step came to %q", seed, verdict)
		}
	}
	if m.seen["replaced"] == 0 {
		t.Errorf("seed %d: no file was replaced", seed)
	}
}

// items is how many items the model plays with; item i references some of those before it.
const items = 24

// worldSteps is how many steps are played with one catalogue: when all items are published nothing new happens.
const worldSteps = 100

var methods = []compress.Method{compress.Zstd, compress.Lzip}

// world is what the model says.
type world struct {
	order   []string // published names
	nar     map[string]digest.SHA256
	files   map[digest.SHA256]map[compress.Method]objstore.Key
	uploads map[objstore.Key]upload
	waiting map[string]catalog.Publication
	spent   map[objstore.Key]int // the last generation of a key that nobody gets again, by the first
}

type upload struct {
	abandoned bool
	item      storepath.Base
}

func newWorld() *world {
	return &world{nar: map[string]digest.SHA256{}, files: map[digest.SHA256]map[compress.Method]objstore.Key{}, uploads: map[objstore.Key]upload{}, waiting: map[string]catalog.Publication{}, spent: map[objstore.Key]int{}}
}

func (w *world) clone() *world {
	c := &world{order: slices.Clone(w.order), nar: maps.Clone(w.nar), uploads: maps.Clone(w.uploads), waiting: maps.Clone(w.waiting), spent: maps.Clone(w.spent), files: map[digest.SHA256]map[compress.Method]objstore.Key{}}
	for nar, files := range w.files {
		c.files[nar] = maps.Clone(files)
	}
	return c
}

type model struct {
	*testing.T
	r *rand.Rand
	c catalog.Catalogue
	*world
	seen map[string]int
}

func itemName(i int) string { return fmt.Sprintf("item-%02d", i) }

// references of item i are always the same, as those of a built item are.
func references(i int) (refs []string) {
	r := rand.New(rand.NewPCG(uint64(i), 7))
	for j := range i {
		if r.IntN(8) == 0 {
			refs = append(refs, itemName(j))
		}
	}
	if r.IntN(2) == 0 {
		refs = append(refs, itemName(i))
	}
	return refs
}

// publication makes item i with one of two contents, and files under keys that are reserved for it, or, rarely, under one that is not.
func (m *model) publication() catalog.Publication {
	i := m.r.IntN(items)
	p := Item(itemName(i), references(i)...)
	content := 0
	if m.r.IntN(8) == 0 {
		content = 1
	}
	shared := i / 3 // three items have the same nar
	p.NarHash = digest.Of(fmt.Appendf(nil, "nar %d %d", shared, content))
	p.NarSize = int64(1000 + shared)
	p.Wait = m.r.IntN(2) == 0
	render(&p)
	p.Files = nil
	for _, method := range methods {
		switch m.r.IntN(8) {
		case 0, 1:
			continue
		case 2:
			if m.r.IntN(6) == 0 {
				p.Files = append(p.Files, file(p.Path.Base, method, 9))
			}
			continue
		}
		for generation := 1; generation < 6; generation++ {
			f := file(p.Path.Base, method, generation)
			if u, ok := m.uploads[f.Key]; ok && !u.abandoned {
				p.Files = append(p.Files, f)
				break
			}
		}
	}
	return p
}

func file(b storepath.Base, m compress.Method, generation int) catalog.File {
	f := File("x", m)
	f.Key = catalog.NarKey(m, b, generation)
	return f
}

func (m *model) step(reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) string {
	if m.seen == nil {
		m.seen = map[string]int{}
	}
	switch n := m.r.IntN(42); {
	case n >= 40:
		return m.replace()
	case n < 20:
		return m.reserve()
	case n < 34:
		return m.publish()
	case n < 36:
		return m.abandon()
	case n < 38:
		return m.abandoned()
	default:
		m.c = reopen(m.T, m.c)
		return "a restart"
	}
}

func (m *model) reserve() string {
	want := catalog.Want{Base: Base(itemName(m.r.IntN(items))), Compression: methods[m.r.IntN(len(methods))]}
	if m.r.IntN(6) == 0 {
		want.After = catalog.NarKey(want.Compression, want.Base, 1)
	}
	got, err := m.c.Reserve(m.Context(), []catalog.Want{want})
	if err != nil {
		m.Fatal(err)
	}
	for generation := m.lastFile(want.Compression, want.Base) + 1; ; generation++ {
		k := catalog.NarKey(want.Compression, want.Base, generation)
		if generation == 1 && want.After != "" || m.uploads[k].abandoned {
			continue
		}
		if got[0] != k {
			m.Errorf("Reserve(%+v) = %s, want %s", want, got[0], k)
		}
		if _, ok := m.uploads[k]; !ok {
			m.uploads[k] = upload{}
		}
		return fmt.Sprintf("reserving %s", k)
	}
}

// lastFile returns the last generation of an item's keys that is or was published, or 0.
func (w *world) lastFile(method compress.Method, b storepath.Base) (last int) {
	last = w.spent[catalog.NarKey(method, b, 1)]
	for _, files := range w.files {
		for _, have := range files {
			if m, base, generation, err := catalog.ParseNarKey(have); err == nil && m == method && base == b {
				last = max(last, generation)
			}
		}
	}
	return last
}

// pick returns some upload, or "".
func (m *model) pick() objstore.Key {
	keys := slices.Sorted(maps.Keys(m.uploads))
	if len(keys) == 0 {
		return ""
	}
	return keys[m.r.IntN(len(keys))]
}

func (m *model) abandon() string {
	k := m.pick()
	got, err := m.c.Abandon(m.Context(), k, time.Now().Add(time.Hour))
	u, ok := m.uploads[k]
	if want := ok && u.item == ""; err != nil || got != want {
		m.Errorf("Abandon(%s) = %v, %v; want %v", k, got, err, want)
	}
	if got {
		m.uploads[k] = upload{abandoned: true}
	}
	return fmt.Sprintf("abandoning %s", k)
}

func (m *model) abandoned() string {
	k := m.pick()
	if err := m.c.Abandoned(m.Context(), k); err != nil {
		m.Error(err)
	}
	if m.uploads[k].abandoned {
		delete(m.uploads, k)
	}
	return fmt.Sprintf("forgetting %s", k)
}

// replace puts an upload in the place of a published file of the same item and compression.
func (m *model) replace() string {
	var olds []objstore.Key
	for _, files := range m.files {
		olds = append(olds, slices.Collect(maps.Values(files))...)
	}
	k := m.pick()
	old := k // one that is not published
	if slices.Sort(olds); len(olds) > 0 && m.r.IntN(8) > 0 {
		old = olds[m.r.IntN(len(olds))]
	}
	if old == "" || k == "" {
		return "replacing nothing"
	}
	method, _, _, err := catalog.ParseNarKey(old)
	if wants, _, _, badKey := catalog.ParseNarKey(k); err != nil || badKey != nil {
		m.Fatal(err, badKey)
	} else if wants != method {
		return "replacing nothing"
	}
	f := File("x", method)
	f.Key = k
	err = m.c.Replace(m.Context(), old, f)
	what := fmt.Sprintf("replacing %s by %s", old, k)
	u := m.uploads[k]
	var want error
	switch {
	case !slices.Contains(olds, old):
		want = catalog.ErrNotFound
	case u.abandoned, u.item != "":
		want = catalog.ErrNotReserved
	}
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		m.Errorf("Replace(%s, %s) = %v, want %v", old, k, err, want)
	}
	if err != nil {
		return what
	}
	m.seen["replaced"]++
	for _, files := range m.files {
		if files[method] == old {
			files[method] = k
		}
	}
	delete(m.uploads, k)
	m.uploads[old] = upload{abandoned: true}
	if _, ok := m.c.(catalog.Lifecycle); ok {
		m.spend(old)
	}
	return what
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

func (m *model) publish() string {
	var batch []catalog.Publication
	for range 1 + m.r.IntN(5) {
		p := m.publication()
		// Most that have no nar at all are made anew: they are an error, and end the batch.
		for tries := 0; tries < 8 && len(p.Files) == 0 && len(m.files[p.NarHash]) == 0; tries++ {
			p = m.publication()
		}
		batch = append(batch, p)
	}
	got, err := m.c.Publish(m.Context(), batch)
	after := m.clone()
	want, wantErr := after.publish(batch)
	what := "publishing"
	for _, p := range batch {
		what += fmt.Sprintf(" %s(wait %v, %d files)", p.Path.Name(), p.Wait, len(p.Files))
	}
	switch {
	case wantErr != nil && err == nil, wantErr == nil && err != nil, errors.Is(wantErr, catalog.ErrNotReserved) != errors.Is(err, catalog.ErrNotReserved):
		m.Errorf("Publish: %v, want %v", err, wantErr)
		return what
	case err != nil:
		m.seen["error"]++
		return what
	}
	m.world = after
	for i := range batch {
		m.seen[got[i].Verdict.String()]++
		m.seen["released"] += len(got[i].Released)
		slices.SortFunc(got[i].Released, func(a, b storepath.Path) int { return len(a.String()) - len(b.String()) })
		if got[i].Verdict != want[i].Verdict || len(got[i].Released) != len(want[i].Released) || !slices.Equal(got[i].Unused, want[i].Unused) ||
			(want[i].Verdict == catalog.Refused || want[i].Verdict == catalog.Waiting) && !slices.Equal(got[i].Missing, want[i].Missing) {
			m.Errorf("outcome of %s: %+v, want %+v", batch[i].Path.Name(), got[i], want[i])
		}
	}
	return what
}

func (m *model) compare() {
	published := map[string]bool{}
	for _, it := range collect(m.T, m.c.Items(m.Context(), 0)) {
		name := it.Path.Name()
		if m.nar[name] != it.NarHash {
			m.Errorf("%s is published with %s, want %s", name, it.NarHash, m.nar[name])
		}
		for _, r := range it.References {
			if r != it.Path.Base && !published[r.Name()] {
				m.Errorf("%s is published before its reference %s", name, r.Name())
			}
		}
		published[name] = true
		have := map[compress.Method]objstore.Key{}
		for _, f := range it.Files {
			have[f.Compression] = f.Key
		}
		if !maps.Equal(have, m.files[it.NarHash]) {
			m.Errorf("%s has files %v, want %v", name, have, m.files[it.NarHash])
		}
	}
	if len(published) != len(m.nar) {
		m.Errorf("%d items are published, want %d", len(published), len(m.nar))
	}
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
	waiting := map[string]bool{}
	for _, w := range collect(m.T, m.c.WaitingItems(m.Context())) {
		waiting[w.Path.Name()] = true
		if len(w.Missing) == 0 {
			m.Errorf("%s waits for nothing", w.Path.Name())
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

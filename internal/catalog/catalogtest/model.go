package catalogtest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Model holds a catalogue to a model of a few maps, through steps random operations of several publishers, cleaners, collectors and uploaders
// with leases, of which any may stop for good between two calls, and through restarts. After each step both say the same of what is there,
// everything published is closed and has its objects, and no key has come back that was let go.
func Model(t *testing.T, seed uint64, steps int, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	m := &model{T: t, r: rand.New(rand.NewPCG(seed, 0)), seen: map[string]int{}, open: open, reopen: reopen}
	step, what := 0, "at the beginning"
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, step %d: %s", seed, step, what)
		}
	}()
	for ; step < steps; step++ {
		if step == 0 || m.over() {
			m.begin()
		}
		m.age++
		m.world.told = nil
		what = "in the one that comes " + what // until it is known
		what = "after " + m.step()
		if m.compare(); t.Failed() {
			return
		}
	}
	t.Logf("seed %d, %d steps: %v", seed, steps, m.seen)
	want := []string{"published", "present", "waiting", "refused"}
	if steps >= manySteps {
		want = append(want, "differs", "replaced", "withdrawn", "leased", "wanted", "referenced", "moved", "restored", "gone", "deleting", "needed", "too young", "tombstones", "deleted late", "lease over")
	}
	for _, w := range want {
		if m.seen[w] == 0 {
			t.Errorf("seed %d: no step came to %q", seed, w)
		}
	}
}

// items is how many items the model plays with; item i references some of those before it.
const items = 24

// worldSteps is how many steps are played with one catalogue.
const worldSteps = 2000

// manySteps are enough for everything to happen that can.
const manySteps = 5000

// restartEvery is how many steps there are between restarts, as a mean.
const restartEvery = 500

var methods = []compress.Method{compress.Zstd, compress.Lzip}

// world is what the model says.
type world struct {
	ended
	told    []string // changes of this step
	nar     map[string]digest.SHA256
	files   map[digest.SHA256]map[compress.Method]objstore.Key
	uploads map[objstore.Key]upload
	waiting map[string]waiting
}

type waiting struct {
	catalog.Publication
	lacks []storepath.Base // when it began to wait, but for those that were published since
}

type upload struct {
	abandoned bool
	item      storepath.Base
}

func newWorld() *world {
	return &world{ended: newEnded(), nar: map[string]digest.SHA256{}, files: map[digest.SHA256]map[compress.Method]objstore.Key{}, uploads: map[objstore.Key]upload{}, waiting: map[string]waiting{}}
}

func (w *world) clone() *world {
	c := &world{ended: w.ended.clone(), told: slices.Clone(w.told), nar: maps.Clone(w.nar), uploads: maps.Clone(w.uploads), waiting: maps.Clone(w.waiting), files: map[digest.SHA256]map[compress.Method]objstore.Key{}}
	for nar, files := range w.files {
		c.files[nar] = maps.Clone(files)
	}
	return c
}

// tell notes a change.
func (w *world) tell(kind catalog.ChangeKind, name string) {
	w.told = append(w.told, fmt.Sprintf("%d %s", kind, name))
}

type model struct {
	*testing.T
	r      *rand.Rand
	open   func(t *testing.T) catalog.Catalogue
	reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue
	c      catalog.Catalogue
	*world
	seen map[string]int

	age      int               // steps of this world
	change   int64             // the last that was compared
	told     []string          // the changes since
	followed map[string]bool   // what somebody has who follows the changes
	version  int64             // of the catalogue, when it was compared
	before   map[string]string // how each live item was after the step before
	objects  objects
	crew     crew
}

func (m *model) begin() {
	m.c, m.world = m.open(m.T), newWorld()
	m.age, m.change, m.told, m.followed, m.before, m.objects, m.crew = 0, 0, nil, map[string]bool{}, map[string]string{}, newObjects(), crew{}
}

// over reports whether this world has been played with long enough.
func (m *model) over() bool { return m.age == worldSteps }

func itemName(i int) string { return fmt.Sprintf("item-%02d", i) }

func number(name string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "item-"))
	if err != nil {
		panic(err)
	}
	return n
}

// references of item i are always the same, as those of a built item are.
func references(i int) []string { return graph[i] }

var graph = func() (g [items][]string) {
	for i := range g {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		for j := range i {
			if r.IntN(8) == 0 {
				g[i] = append(g[i], itemName(j))
			}
		}
		if r.IntN(2) == 0 {
			g[i] = append(g[i], itemName(i))
		}
	}
	return g
}()

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
		spent := m.spent[catalog.NarKey(method, p.Path.Base, 1)]
		for generation := 1; generation < spent+6; generation++ {
			f := file(p.Path.Base, method, generation)
			// Sometimes somebody still has a key that was spent long ago.
			if u, ok := m.uploads[f.Key]; ok && !u.abandoned || generation <= spent && m.r.IntN(40) == 0 {
				p.Files = append(p.Files, f)
				break
			}
		}
	}
	for _, f := range p.Files {
		m.objects.put(f.Key)
	}
	return p
}

func file(b storepath.Base, m compress.Method, generation int) catalog.File {
	f := File("x", m)
	f.Key = catalog.NarKey(m, b, generation)
	return f
}

func (m *model) step() string {
	if m.r.IntN(restartEvery) == 0 {
		m.c = m.reopen(m.T, m.c)
		m.before = map[string]string{} // so that all items are looked at
		return "a restart"
	}
	if m.r.IntN(2) == 0 {
		return m.lifeStep()
	}
	switch n := m.r.IntN(80); {
	case n >= 76:
		return m.replace()
	case n < 44:
		return m.reserve()
	case n < 68:
		return m.publish()
	case n < 72:
		return m.abandon()
	default:
		return m.abandoned()
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
		m.objects.remove(k)
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
		m.objects.remove(k)
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
	m.objects.put(k)
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
	for nar, files := range m.files {
		if files[method] != old {
			continue
		}
		files[method] = k
		for name, of := range m.nar {
			if of == nar {
				m.tell(catalog.ChangeFileReplaced, name)
			}
		}
	}
	delete(m.uploads, k)
	m.uploads[old] = upload{abandoned: true}
	m.spend(old)
	return what
}

func (m *model) publish() string {
	var batch []catalog.Publication
	for range 1 + m.r.IntN(3) {
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

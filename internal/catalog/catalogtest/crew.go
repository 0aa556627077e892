package catalogtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// objects is the object store that a world's catalogue tells of.
type objects struct {
	there map[objstore.Key]bool
	nar   map[objstore.Key]digest.SHA256 // that a key was first live with
}

func newObjects() objects {
	return objects{there: map[objstore.Key]bool{}, nar: map[objstore.Key]digest.SHA256{}}
}

func (o objects) put(k objstore.Key)    { o.there[k] = true }
func (o objects) remove(k objstore.Key) { delete(o.there, k) }

// crew is those who do more than one call: collectors, and uploaders with leases. Collectors forget where they were, and some wake up when
// others have long finished what they were at.
type crew struct {
	jobs    []job
	zombies []job // what collectors were at when they fell asleep
	moment  catalog.Moment
	over    []catalog.Lease
}

// job is what a collector was told to delete.
type job struct {
	id   int64
	keys []objstore.Key // not deleted yet
}

func (m *model) lifeStep() string {
	switch n := m.r.IntN(40); {
	case n < 10:
		return m.withdrawSome()
	case n < 13:
		return m.restoreSome()
	case n < 18:
		return m.beginDeleteSome()
	case n < 29:
		return m.work(&m.crew.jobs, "")
	case n < 30:
		return m.work(&m.crew.zombies, "deleted late")
	case n < 31:
		return m.crash()
	case n < 33:
		return m.lease()
	case n < 38:
		return m.endLease()
	case n < 39:
		return m.takeMoment()
	default:
		if err := m.c.RootsChanged(m.Context()); err != nil {
			m.Fatal(err)
		}
		m.moved = true
		return "roots changing"
	}
}

// some returns a few names: mostly of those in from, and all that references them, so that something can go.
func (m *model) some(from []string) (names []string) {
	for range 1 + m.r.IntN(3) {
		name := itemName(m.r.IntN(items))
		if len(from) > 0 && m.r.IntN(4) > 0 {
			name = from[m.r.IntN(len(from))]
		}
		for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
			if slices.Contains(names, queue[0]) {
				continue
			}
			names = append(names, queue[0])
			if m.r.IntN(8) > 0 {
				queue = append(queue, slices.Sorted(slices.Values(m.referrers(queue[0])))...)
			}
		}
	}
	m.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func (m *model) withdrawSome() string {
	names := m.some(slices.Sorted(maps.Keys(m.nar)))
	since := m.watched && m.r.IntN(2) == 0
	w := catalog.Withdrawal{Items: parts(names...), By: "gc", Plan: "a plan"}
	if since {
		w.Since = m.crew.moment
	}
	what := fmt.Sprintf("withdrawing %v (decided before: %v)", names, since)
	want, wantErr := m.world.withdraw(names, since)
	got, err := m.c.Withdraw(m.Context(), w)
	if !errors.Is(err, wantErr) || (wantErr == nil) != (err == nil) {
		m.Fatalf("%s: %v, want %v", what, err, wantErr)
	}
	if err != nil {
		m.seen["moved"]++
		return what
	}
	for i, name := range names {
		m.seen[got[i].Verdict.String()]++
		if got[i].Verdict != want[i] {
			m.Errorf("outcome of %s: %s, want %s", name, got[i].Verdict, want[i])
		}
		if want[i] == catalog.Withdrawn {
			m.condemn(name, got[i].Sequence)
		}
	}
	for i, name := range names {
		if by := got[i].By; want[i] == catalog.Referenced && !slices.Contains(m.referrers(name), by.Name()) {
			m.Errorf("%s is kept by %s, which does not reference it", name, by)
		}
	}
	return what
}

func (m *model) restoreSome() string {
	names := m.some(slices.Sorted(maps.Keys(m.condemned)))[:1]
	got, err := m.c.Restore(m.Context(), parts(names...))
	if err != nil {
		m.Fatal(err)
	}
	for i, name := range names {
		want := catalog.NotRestored
		if _, live := m.nar[name]; live {
			want = catalog.StillLive
		} else if _, back := m.condemned[name]; back {
			want = catalog.Restored
		}
		m.seen[got[i].String()]++
		if m.revive(name); got[i] != want {
			m.Errorf("restoring %s: %s, want %s", name, got[i], want)
		}
	}
	return fmt.Sprintf("restoring %v", names)
}

func (m *model) beginDeleteSome() string {
	var ids []int64
	all := slices.Sorted(maps.Keys(m.condemned))
	for _, name := range all {
		if m.r.IntN(3) > 0 {
			ids = append(ids, m.condemned[name].id)
		}
	}
	for id := range m.deleting {
		ids = append(ids, id)
		break
	}
	for id := range m.gone {
		ids = append(ids, id)
		break
	}
	slices.Sort(ids)
	old, before := m.r.IntN(6) > 0, time.Now().Add(-time.Hour)
	if old {
		before = soon()
	}
	want := m.world.beginDelete(ids, old)
	got, err := m.c.BeginDelete(m.Context(), ids, before)
	if err != nil {
		m.Fatal(err)
	}
	for i, id := range ids {
		m.seen[got[i].Verdict.String()]++
		var keys []objstore.Key
		if want[i] == catalog.Deletable {
			keys = m.keysOf(id)
		}
		if got[i].Verdict != want[i] || !slices.Equal(got[i].Keys, keys) {
			m.Errorf("deleting %d: %+v, want %s %v", id, got[i], want[i], keys)
		}
		if got[i].Verdict == catalog.Deletable {
			m.crew.jobs = append(m.crew.jobs, job{id, got[i].Keys})
		}
	}
	return fmt.Sprintf("beginning to delete %v (old enough: %v)", ids, old)
}

// work deletes one object, or reports that all of an item's are deleted.
func (m *model) work(jobs *[]job, seen string) string {
	if len(*jobs) == 0 {
		return "nothing to delete"
	}
	i := m.r.IntN(len(*jobs))
	if m.seen[seen]++; seen == "" {
		delete(m.seen, "")
	}
	if j := &(*jobs)[i]; len(j.keys) > 0 {
		k := j.keys[0]
		j.keys = j.keys[1:]
		m.objects.remove(k)
		return fmt.Sprintf("deleting object %s", k)
	}
	id := (*jobs)[i].id
	*jobs = slices.Delete(*jobs, i, i+1)
	if err := m.c.Deleted(m.Context(), []int64{id}); err != nil {
		m.Fatal(err)
	}
	if _, ok := m.deleting[id]; ok {
		m.seen["tombstones"]++
	}
	m.deleted(id)
	return fmt.Sprintf("reporting %d deleted", id)
}

// crash lets a collector fall asleep, and another begin with what is listed.
func (m *model) crash() string {
	m.crew.zombies = append(m.crew.zombies, m.crew.jobs...)
	m.crew.jobs = nil
	for _, w := range collect(m.T, m.c.Withdrawn(m.Context(), 0)) {
		if w.State == catalog.StateDeleting {
			m.crew.jobs = append(m.crew.jobs, job{w.Sequence, w.Keys})
		}
	}
	return "a collector's crash"
}

func (m *model) takeMoment() string {
	var err error
	if m.crew.moment, err = m.c.Moment(m.Context()); err != nil {
		m.Fatal(err)
	}
	m.watched, m.moved = true, false
	clear(m.wanted)
	return "taking a moment"
}

func (m *model) lease() string {
	var names []string
	for range 1 + m.r.IntN(3) {
		names = append(names, itemName(m.r.IntN(items)))
	}
	l := catalog.Lease{Holder: "uploader", Expires: soon().UTC().Truncate(time.Millisecond)}
	if ids := slices.Sorted(maps.Keys(m.leases)); len(ids) > 0 && m.r.IntN(3) == 0 {
		l.ID = ids[m.r.IntN(len(ids))]
	}
	what := fmt.Sprintf("leasing %v by %d", names, l.ID)
	got, missing, err := m.c.Lease(m.Context(), l, parts(names...))
	if err != nil {
		m.Fatal(err)
	}
	held := m.leases[got.ID].names
	if held = maps.Clone(held); held == nil {
		held = map[string]bool{}
	}
	var want []storepath.HashPart
	for _, name := range names {
		m.revive(name)
		if _, live := m.nar[name]; !live {
			want = append(want, Base(name).HashPart())
			continue
		}
		held[name], m.wanted[name] = true, true
	}
	m.leases[got.ID] = lease{got, held}
	if !slices.Equal(missing, want) || l.ID != 0 && got.ID != l.ID || got.Items != int64(len(held)) {
		m.Errorf("%s: %+v, missing %v, want %v", what, got, missing, want)
	}
	return what
}

// endLease lets a lease expire, releases it, or tries to go on with one that is over.
func (m *model) endLease() string {
	if n := len(m.crew.over); n > 0 && m.r.IntN(4) == 0 {
		l := m.crew.over[m.r.IntN(n)]
		l.Expires = soon()
		if err := m.c.RenewLease(m.Context(), l); !errors.Is(err, catalog.ErrLeaseOver) {
			m.Errorf("RenewLease(%+v) = %v", l, err)
		}
		m.seen["lease over"]++
		return fmt.Sprintf("renewing lease %d, which is over", l.ID)
	}
	ids := slices.Sorted(maps.Keys(m.leases))
	if len(ids) == 0 {
		return "no lease to end"
	}
	l := m.leases[ids[m.r.IntN(len(ids))]].Lease
	end := m.c.ReleaseLease
	if m.r.IntN(2) == 0 {
		l.Expires = time.Now().Add(-time.Minute)
		end = m.c.RenewLease
	}
	if err := end(m.Context(), l); err != nil {
		m.Error(err)
	}
	delete(m.leases, l.ID)
	m.crew.over = append(m.crew.over, l)
	return fmt.Sprintf("ending lease %d", l.ID)
}

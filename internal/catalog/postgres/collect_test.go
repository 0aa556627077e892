package postgres

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// farm is a database with those who work on it at once: publishers, uploaders with leases, collectors, and somebody who cuts their connections.
type farm struct {
	*testing.T
	name string

	mu     sync.Mutex
	there  map[objstore.Key]bool // the object store
	buried map[objstore.Key]bool // what collectors have deleted, or may have
	told   map[storepath.Base]bool
	seen   map[string]int
}

// farmFamilies is so small a number that all are always about the same items.
const farmFamilies = 6

func (f *farm) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[what]++
}

// lost passes over what the loss of a connection does.
func (f *farm) lost(err error) bool {
	if err != nil {
		f.note("lost connection")
	}
	return err != nil
}

func (f *farm) put(k objstore.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buried[k] {
		f.Errorf("%s was handed out when its object had been deleted", k)
	}
	f.there[k] = true
}

func (f *farm) bury(keys []objstore.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		delete(f.there, k)
		f.buried[k] = true
	}
}

// publish puts the objects of a family and publishes it.
func (f *farm) publish(ctx context.Context, db *DB, r *rand.Rand) {
	ps := lineage(r.IntN(farmFamilies))
	wants := make([]catalog.Want, len(ps))
	for i := range ps {
		wants[i] = catalog.Want{Base: ps[i].Path.Base, Compression: compress.Zstd}
	}
	keys, err := db.Reserve(ctx, wants)
	if f.lost(err) {
		return
	}
	for i, k := range keys {
		f.put(k)
		file := catalogtest.File("x", compress.Zstd)
		file.Key = k
		ps[i].Files = []catalog.File{file}
	}
	out, err := db.Publish(ctx, ps)
	if errors.Is(err, catalog.ErrNotReserved) { // another has published with the key, and it is gone again
		f.note("not reserved")
		return
	}
	if f.lost(err) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, o := range out {
		if o.Verdict != catalog.Published && o.Verdict != catalog.Present {
			f.Errorf("%s is %s", ps[i].Path, o.Verdict)
		}
		f.seen[o.Verdict.String()]++
		f.told[ps[i].Path.Base] = true
	}
}

// lease asks for some items, and holds what it is told to what is there while the lease lasts.
func (f *farm) lease(ctx context.Context, db *DB, r *rand.Rand) {
	ps := lineage(r.IntN(farmFamilies))
	ps = ps[:1+r.IntN(len(ps))]
	hs := make([]storepath.HashPart, len(ps))
	for i := range ps {
		hs[i] = ps[i].Path.HashPart()
	}
	l, missing, err := db.Lease(ctx, catalog.Lease{Holder: "farm", Expires: time.Now().Add(time.Hour)}, hs)
	if f.lost(err) {
		return
	}
	f.note("leased")
	for i, h := range hs {
		if slices.Contains(missing, h) {
			continue
		}
		for _, b := range append(ps[i].References, ps[i].Path.Base) {
			it, err := db.Item(ctx, b.HashPart())
			if errors.Is(err, catalog.ErrNotFound) {
				f.Errorf("%s is not there while %s is leased", b, ps[i].Path)
			}
			if f.lost(err) {
				continue
			}
			f.mu.Lock()
			if !f.there[it.Files[0].Key] {
				f.Errorf("%s has lost its object while %s is leased", b, ps[i].Path)
			}
			f.mu.Unlock()
		}
	}
	for range 20 { // or the items stay for the rest of the test
		if !f.lost(db.ReleaseLease(ctx, l)) {
			return
		}
	}
}

// collect withdraws what belongs together, as all collectors do, and brings some of it back or goes on with whatever is there. late has what
// it will delete some time, however long others have done it.
func (f *farm) collect(ctx context.Context, db *DB, r *rand.Rand, late *[]objstore.Key) {
	since, err := db.Moment(ctx)
	if f.lost(err) {
		return
	}
	ps := lineage(farmFamilies - 1 - r.IntN(2))
	if r.IntN(2) == 0 {
		ps = nil
		for family := range farmFamilies {
			ps = append(ps, lineage(family)[:familySize]...)
		}
	}
	hs := make([]storepath.HashPart, len(ps))
	for i := range ps {
		hs[i] = ps[i].Path.HashPart()
	}
	out, err := db.Withdraw(ctx, catalog.Withdrawal{Items: hs, Since: since, By: "gc", Plan: "plan"})
	switch {
	case errors.Is(err, catalog.ErrMoved):
		f.note("moved")
		return
	case f.lost(err):
		return
	}
	for _, o := range out {
		f.note(o.Verdict.String())
	}
	if r.IntN(3) == 0 {
		back, err := db.Restore(ctx, hs[r.IntN(len(hs)):])
		if f.lost(err) {
			return
		}
		for _, v := range back {
			f.note("undone: " + v.String())
		}
	}
	var ids []int64
	for w, err := range db.Withdrawn(ctx, 0) {
		if f.lost(err) {
			return
		}
		ids = append(ids, w.Sequence)
	}
	begun, err := db.BeginDelete(ctx, ids, time.Now().Add(time.Hour))
	if f.lost(err) {
		return
	}
	var gone []int64
	for i, o := range begun {
		f.note("delete: " + o.Verdict.String())
		if o.Verdict == catalog.Deletable {
			f.bury(o.Keys)
			*late = append(*late, o.Keys...)
			gone = append(gone, ids[i])
		}
	}
	if r.IntN(4) > 0 && !f.lost(db.Deleted(ctx, gone)) {
		f.note("tombstones")
	}
	if len(*late) > 0 && r.IntN(3) == 0 {
		f.bury(*late)
		*late = nil
	}
}

func TestPublishersUploadersAndCollectorsWhoseConnectionsAreCutLeaveTheCatalogueClosed(t *testing.T) {
	const rounds = 60
	name := database(t)
	f := &farm{T: t, name: name, there: make(map[objstore.Key]bool), buried: make(map[objstore.Key]bool), told: make(map[storepath.Base]bool), seen: make(map[string]int)}
	var workers sync.WaitGroup
	for i := range 6 {
		db, r := open(t, name), rand.New(rand.NewPCG(uint64(i), 9))
		workers.Go(func() {
			var late []objstore.Key
			for range rounds {
				switch i % 3 {
				case 0:
					f.publish(t.Context(), db, r)
				case 1:
					f.lease(t.Context(), db, r)
				default:
					f.collect(t.Context(), db, r, &late)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	cuts, r := 0, rand.New(rand.NewPCG(1, 9))
	for working := true; working; {
		select {
		case <-done:
			working = false
		case <-time.After(time.Duration(r.IntN(60_000)) * time.Microsecond):
			// Of those who are in the middle of something one is cut off.
			admin(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"' AND application_name = 'narfold' AND state <> 'idle' ORDER BY random() LIMIT 1")
			cuts++
		}
	}
	db := open(t, name)
	t.Logf("%d cuts, %d deadlocks: %v", cuts, count(t, db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0], f.seen)
	for _, want := range []string{"lost connection", "published", "present", "leased", "withdrawn", "delete: deleting", "tombstones"} {
		if f.seen[want] == 0 {
			t.Errorf("it never came to %q", want)
		}
	}
	f.publish(t.Context(), db, r)
	f.check()
}

// check holds what is left to what everybody was told.
func (f *farm) check() {
	f.Helper()
	db := open(f.T, f.name)
	live := make(map[storepath.Base]int64)
	follow := follower{T: f.T, db: db, live: live, keys: make(map[objstore.Key]bool)}
	follow.follow()
	for b, id := range live {
		it, err := db.Item(f.Context(), b.HashPart())
		if err != nil {
			f.Fatal(err)
		}
		var want []int64
		for _, r := range it.References {
			if r != b {
				want = append(want, live[r])
			}
		}
		slices.Sort(want)
		if got := follow.references(id); !slices.Equal(got, slices.Compact(want)) {
			f.Errorf("references of %s are kept as %v, want %v", b, got, want)
		}
	}
	for k := range follow.keys {
		if !f.there[k] || f.buried[k] {
			f.Errorf("the object %s of a live item is deleted", k)
		}
	}
	for k := range f.buried {
		if s, err := db.Owner(f.Context(), k); err != nil || s != catalog.KeySpent && s != catalog.KeyCondemned {
			f.Errorf("a deleted key is %v, %v", s, err)
		}
	}
	// What was acknowledged is there, or has gone the way that everything goes.
	known := maps.Clone(live)
	for w, err := range db.Withdrawn(f.Context(), 0) {
		if err != nil {
			f.Fatal(err)
		}
		known[w.Path.Base] = w.Sequence
	}
	for w, err := range db.Tombstones(f.Context(), 0) {
		if err != nil {
			f.Fatal(err)
		}
		known[w.Path.Base] = w.Sequence
	}
	for b := range f.told {
		if known[b] == 0 {
			f.Errorf("%s was published and nobody knows of it", b)
		}
	}
	// Who follows the changes has the same items.
	told := make(map[storepath.Base]bool)
	for after := int64(0); after < follow.told; {
		changes, err := db.Changes(f.Context(), after, 1000)
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range changes {
			b := c.Item.Path.Base
			switch c.Kind {
			case catalog.ChangePublished, catalog.ChangeRestored:
				if told[b] {
					f.Errorf("change %d: %s becomes live, which it is", c.Sequence, b)
				}
				told[b] = true
			case catalog.ChangeWithdrawn:
				if !told[b] {
					f.Errorf("change %d: %s is withdrawn, which is not live", c.Sequence, b)
				}
				delete(told, b)
			}
		}
		after += int64(len(changes))
	}
	if len(told) != len(live) {
		f.Errorf("%d items are live and %d by the changes", len(live), len(told))
	}
	if c, err := db.Counts(f.Context()); err != nil || c.Items != int64(len(live)) || c.Files != int64(len(follow.keys)) {
		f.Errorf("counted %+v, %v; there are %d items with %d files", c, err, len(live), len(follow.keys))
	}
	f.Logf("%d live items, %d deleted objects", len(live), len(f.buried))
}

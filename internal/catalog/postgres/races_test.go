package postgres

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

func partsOf(names ...string) (hs []storepath.HashPart) {
	for _, n := range names {
		hs = append(hs, catalogtest.Base(n).HashPart())
	}
	return hs
}

// inOrder has first begin and stop in the middle of its transaction, where it needs the row of the catalogue, then second begin and wait, and
// then both go on.
func inOrder(t *testing.T, name string, first, second func()) {
	t.Helper()
	conn, letGo := hold(t, name)
	var wg sync.WaitGroup
	wg.Go(first)
	untilWaiting(t, conn, name, 1)
	wg.Go(second)
	untilWaiting(t, conn, name, 2)
	letGo()
	wg.Wait()
}

// stopBefore makes whoever writes to a table stop before it until it is told to go on.
func stopBefore(t *testing.T, name, table string) (conn *pgx.Conn, goOn func()) {
	t.Helper()
	admin(t, name, "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END $$",
		"CREATE TRIGGER stop BEFORE INSERT ON "+table+" FOR EACH STATEMENT EXECUTE FUNCTION stop()")
	conn, err := pgx.Connect(t.Context(), address(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
			t.Fatal(err)
		}
	}
}

// pair is two herders of one catalogue with what two of them do at once.
type pair struct {
	*testing.T
	name string
	a, b *DB
}

func newPair(t *testing.T, ps ...catalog.Publication) *pair {
	t.Helper()
	name := database(t)
	p := &pair{T: t, name: name, a: open(t, name), b: open(t, name)}
	publish(t, p.a, ps...)
	return p
}

func (p *pair) withdraw(db *DB, w catalog.Withdrawal) catalog.WithdrawOutcome {
	out, err := db.Withdraw(p.Context(), w)
	if err != nil {
		p.Error(err)
		return catalog.WithdrawOutcome{Verdict: -1}
	}
	return out[0]
}

// live holds the catalogue to which items are live; whatever is has its references before it.
func (p *pair) live(want ...string) {
	p.Helper()
	f := follower{T: p.T, db: p.a, live: make(map[storepath.Base]int64), keys: make(map[objstore.Key]bool)}
	f.follow()
	var have []string
	for b := range f.live {
		have = append(have, b.Name())
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		p.Errorf("%v are live, want %v", have, want)
	}
}

func TestAnItemIsPublishedWhileItsReferenceIsWithdrawn(t *testing.T) {
	for _, publishedFirst := range []bool{true, false} {
		p := newPair(t, catalogtest.Item("low"))
		top := catalogtest.Item("top", "low")
		catalogtest.Reserve(t, p.a, top)
		var withdrawn catalog.WithdrawOutcome
		withdraw := func() { withdrawn = p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("low")}) }
		published := func() {
			if out, err := p.a.Publish(t.Context(), []catalog.Publication{top}); err != nil || out[0].Verdict != catalog.Published {
				t.Errorf("%+v, %v", out, err)
			}
		}
		want := catalog.Referenced
		if publishedFirst {
			inOrder(t, p.name, published, withdraw)
		} else {
			inOrder(t, p.name, withdraw, published)
			want = catalog.Withdrawn
		}
		if withdrawn.Verdict != want || want == catalog.Referenced && withdrawn.By != top.Path.Base {
			t.Errorf("published first: %v; withdrawing: %+v, want %s", publishedFirst, withdrawn, want)
		}
		p.live("low", "top")
	}
}

func TestALeaseIsGivenWhileTheItemIsWithdrawn(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	lease := func(p *pair) {
		if _, missing, err := p.a.Lease(t.Context(), catalog.Lease{Holder: "farm", Expires: hour}, partsOf("top")); err != nil || len(missing) != 0 {
			t.Errorf("missing %v, %v", missing, err)
		}
	}
	t.Run("leased first", func(t *testing.T) {
		p := newPair(t, catalogtest.Item("low"), catalogtest.Item("top", "low"))
		conn, goOn := stopBefore(t, p.name, "leased")
		var wg sync.WaitGroup
		wg.Go(func() { lease(p) })
		untilWaiting(t, conn, p.name, 1)
		var top catalog.WithdrawOutcome
		wg.Go(func() { top = p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("top", "low")}) })
		untilWaiting(t, conn, p.name, 2)
		goOn()
		wg.Wait()
		if top.Verdict != catalog.Leased {
			t.Errorf("withdrawing: %+v", top)
		}
		p.live("low", "top")
	})
	t.Run("withdrawn first", func(t *testing.T) {
		p := newPair(t, catalogtest.Item("low"), catalogtest.Item("top", "low"))
		var top catalog.WithdrawOutcome
		inOrder(t, p.name, func() { top = p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("top", "low")}) }, func() { lease(p) })
		if top.Verdict != catalog.Withdrawn {
			t.Errorf("withdrawing: %+v", top)
		}
		p.live("low", "top")
		if top := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("top")}); top.Verdict != catalog.Leased {
			t.Errorf("withdrawing again: %+v", top)
		}
	})
}

func TestWhatIsLiveIsPromisedWhileOthersPublish(t *testing.T) {
	p := newPair(t, catalogtest.Item("low"), catalogtest.Item("gone"))
	if out := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("gone")}); out.Verdict != catalog.Withdrawn {
		t.Fatalf("%+v", out)
	}
	conn, letGo := hold(t, p.name)
	top := catalogtest.Item("top", "low")
	catalogtest.Reserve(t, p.a, top)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := p.a.Publish(t.Context(), []catalog.Publication{top}); err != nil {
			t.Error(err)
		}
	})
	untilWaiting(t, conn, p.name, 1)
	if _, missing, err := p.b.Lease(t.Context(), catalog.Lease{Holder: "farm", Expires: time.Now().Add(time.Hour)}, partsOf("low", "top")); err != nil || len(missing) != 1 {
		t.Errorf("missing %v, %v", missing, err)
	}
	letGo()
	wg.Wait()
}

func TestADeletionIsUndoneBeforeItBeginsOrNotAtAll(t *testing.T) {
	for _, undoneFirst := range []bool{true, false} {
		p := newPair(t, catalogtest.Item("low"), catalogtest.Item("top", "low"))
		condemned := p.withdraw(p.a, catalog.Withdrawal{Items: partsOf("top")})
		var (
			undone []catalog.RestoreVerdict
			begun  []catalog.DeleteOutcome
			errs   [2]error
		)
		undo := func() { undone, errs[0] = p.a.Restore(t.Context(), partsOf("top")) }
		begin := func() {
			begun, errs[1] = p.b.BeginDelete(t.Context(), []int64{condemned.Sequence}, time.Now().Add(time.Hour))
		}
		if undoneFirst {
			inOrder(t, p.name, undo, begin)
		} else {
			inOrder(t, p.name, begin, undo)
		}
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		switch {
		case undoneFirst && (undone[0] != catalog.Restored || begun[0].Verdict != catalog.NotCondemned):
			t.Errorf("undone first: %s, %+v", undone[0], begun[0])
		case !undoneFirst && (undone[0] != catalog.NotRestored || begun[0].Verdict != catalog.Deletable || len(begun[0].Keys) != 1):
			t.Errorf("begun first: %s, %+v", undone[0], begun[0])
		case undoneFirst:
			p.live("low", "top")
		default:
			p.live("low")
		}
	}
}

func TestWhatIsWithdrawnAfterRootsHaveChangedWasDecidedAfterIt(t *testing.T) {
	p := newPair(t, catalogtest.Item("one"), catalogtest.Item("two"))
	since, err := p.a.Moment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, goOn := stopBefore(t, p.name, "condemned")
	var wg sync.WaitGroup
	wg.Go(func() {
		if out := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("one"), Since: since}); out.Verdict != catalog.Withdrawn {
			t.Errorf("%+v", out)
		}
	})
	untilWaiting(t, conn, p.name, 1)
	wg.Go(func() {
		if err := p.a.RootsChanged(t.Context()); err != nil {
			t.Error(err)
		}
		p.live("two") // what was withdrawn is, before anybody relies on its root
	})
	untilWaiting(t, conn, p.name, 2)
	goOn()
	wg.Wait()
	if _, err := p.b.Withdraw(t.Context(), catalog.Withdrawal{Items: partsOf("two"), Since: since}); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("error is %v", err)
	}
}

func TestMoreWishesThanAreRememberedRefuseTheDecision(t *testing.T) {
	p := newPair(t, catalogtest.Item("one"), catalogtest.Item("two"))
	since, err := p.a.Moment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	admin(t, p.name, "UPDATE moment SET wished = 99999")
	ask := func(name string) {
		t.Helper()
		l, _, err := p.a.Lease(t.Context(), catalog.Lease{Holder: "farm", Expires: time.Now().Add(time.Hour)}, partsOf(name))
		if err == nil {
			err = p.a.ReleaseLease(t.Context(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ask("one")
	if out := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("one"), Since: since}); out.Verdict != catalog.Wanted {
		t.Errorf("%+v", out)
	}
	ask("one")
	if _, err := p.b.Withdraw(t.Context(), catalog.Withdrawal{Items: partsOf("two"), Since: since}); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("error is %v", err)
	}
	if since, err = p.a.Moment(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask("two")
	if out := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("two"), Since: since}); out.Verdict != catalog.Wanted {
		t.Errorf("%+v", out)
	}
	if out := p.withdraw(p.b, catalog.Withdrawal{Items: partsOf("one"), Since: since}); out.Verdict != catalog.Withdrawn {
		t.Errorf("%+v", out)
	}
}

func TestAKeyWhoseObjectIsDeletedIsNotHandedOutByWhoLookedBefore(t *testing.T) {
	p := newPair(t, catalogtest.Item("x"))
	x := catalogtest.Item("x")
	condemned := p.withdraw(p.a, catalog.Withdrawal{Items: partsOf("x")})
	// Whoever hands out keys stops between looking and taking, and the row vanishes only afterwards.
	conn, goOn := stopBefore(t, p.name, "objects")
	var (
		wg        sync.WaitGroup
		got       []objstore.Key
		err, berr error
	)
	wg.Go(func() {
		got, err = p.a.Reserve(t.Context(), []catalog.Want{{Base: x.Path.Base, Compression: x.Files[0].Compression}})
	})
	untilWaiting(t, conn, p.name, 1)
	if out, err := p.b.BeginDelete(t.Context(), []int64{condemned.Sequence}, time.Now().Add(time.Hour)); err != nil || len(out[0].Keys) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	wg.Go(func() { berr = p.b.Deleted(t.Context(), []int64{condemned.Sequence}) })
	untilWaiting(t, conn, p.name, 2)
	goOn()
	wg.Wait()
	if err := errors.Join(err, berr); err != nil {
		t.Fatal(err)
	}
	if want := catalog.NarKey(x.Files[0].Compression, x.Path.Base, 2); got[0] != want {
		t.Errorf("%s was handed out, want %s", got[0], want)
	}
	if s, err := p.b.Owner(t.Context(), x.Files[0].Key); s != catalog.KeySpent || err != nil {
		t.Errorf("owner of the deleted key: %v, %v", s, err)
	}
}

func TestOfTwoCollectorsWithOnePlanOneWithdrawsAndBothMayDelete(t *testing.T) {
	p := newPair(t, catalogtest.Item("low"), catalogtest.Item("top", "low"))
	dbs := []*DB{p.a, p.b}
	var (
		withdrawn [2][]catalog.WithdrawOutcome
		begun     [2][]catalog.DeleteOutcome
		errs      [2]error
		ids       []int64
	)
	both := func(do func(i int) error) {
		t.Helper()
		inOrder(t, p.name, func() { errs[0] = do(0) }, func() { errs[1] = do(1) })
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
	}
	both(func(i int) (err error) {
		withdrawn[i], err = dbs[i].Withdraw(t.Context(), catalog.Withdrawal{Items: partsOf("low", "top"), By: "gc", Plan: "one plan"})
		return err
	})
	for i := range 2 {
		if withdrawn[0][i].Verdict != catalog.Withdrawn || withdrawn[1][i].Verdict != catalog.NotLive {
			t.Errorf("%+v and %+v", withdrawn[0][i], withdrawn[1][i])
		}
		ids = append(ids, withdrawn[0][i].Sequence)
	}
	both(func(i int) (err error) {
		begun[i], err = dbs[i].BeginDelete(t.Context(), ids, time.Now().Add(time.Hour))
		return err
	})
	for i := range 2 {
		if one, two := begun[0][i], begun[1][i]; one.Verdict != catalog.Deletable || two.Verdict != catalog.Deletable || len(one.Keys) != 1 || !slices.Equal(one.Keys, two.Keys) {
			t.Errorf("%+v and %+v", one, two)
		}
	}
	both(func(i int) error { return dbs[i].Deleted(t.Context(), ids) })
	n := 0
	for _, err := range p.a.Tombstones(t.Context(), 0) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("%d tombstones", n)
	}
	if changes, err := p.a.Changes(t.Context(), 0, 100); err != nil || len(changes) != 6 {
		t.Errorf("%d changes, %v", len(changes), err)
	}
}

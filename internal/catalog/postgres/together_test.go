package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

func publish(t testing.TB, db *DB, ps ...catalog.Publication) []catalog.Outcome {
	t.Helper()
	catalogtest.Reserve(t, db, ps...)
	out, err := db.Publish(t.Context(), ps)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAProcessSeesWhatAnotherPublishes(t *testing.T) {
	name := database(t)
	a, b := open(t, name), open(t, name)
	before, err := b.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := catalogtest.Item("x")
	publish(t, a, p)
	if after, err := b.Version(t.Context()); after == before || err != nil {
		t.Errorf("the version did not change: %v", err)
	}
	if _, err := b.Item(t.Context(), p.Path.HashPart()); err != nil {
		t.Error(err)
	}
}

func TestProcessesThatPublishAtOnceKeepTheOrder(t *testing.T) {
	name := database(t)
	f := follower{T: t, db: open(t, name), live: make(map[storepath.Base]int64), keys: make(map[objstore.Key]bool)}
	var (
		wg        sync.WaitGroup
		published atomic.Int64
	)
	const some = 40 // families, the same for all
	for i := range 4 {
		db := open(t, name)
		wg.Go(func() {
			for _, family := range rand.New(rand.NewPCG(uint64(i), 3)).Perm(some) {
				ps := lineage(family)
				wants := make([]catalog.Want, len(ps))
				for j := range ps {
					ps[j].Files = []catalog.File{catalogtest.File(ps[j].Path.Name(), compress.Zstd)}
					wants[j] = catalog.Want{Base: ps[j].Path.Base, Compression: compress.Zstd}
				}
				if _, err := db.Reserve(t.Context(), wants); err != nil {
					t.Error(err)
				}
				// If another has published with these keys meanwhile they are of files of this nar, and not asked for.
				out, err := db.Publish(t.Context(), ps)
				if err != nil {
					t.Error(err)
				}
				for j, o := range out {
					switch o.Verdict {
					case catalog.Published:
						published.Add(1)
					case catalog.Present:
					default:
						t.Errorf("%s is %s", ps[j].Path, o.Verdict)
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for working := true; working; {
		select {
		case <-done:
			working = false
		default:
		}
		f.follow()
	}
	f.all()
	if want := int64(some * familySize); published.Load() != want || len(f.live) != int(want) {
		t.Errorf("%d verdicts of published and %d items, want %d", published.Load(), len(f.live), want)
	}
}

func TestAnUploadIsPublishedOrAbandonedButNotBoth(t *testing.T) {
	name := database(t)
	a, b := open(t, name), open(t, name)
	won := 0
	for i := range 100 {
		p := catalogtest.Item(fmt.Sprint("item-", i))
		catalogtest.Reserve(t, a, p)
		var (
			wg        sync.WaitGroup
			err, berr error
			abandoned bool
		)
		wg.Go(func() { _, err = a.Publish(t.Context(), []catalog.Publication{p}) })
		wg.Go(func() { abandoned, berr = b.Abandon(t.Context(), p.Files[0].Key, time.Now().Add(time.Hour)) })
		wg.Wait()
		switch {
		case berr != nil:
			t.Fatal(berr)
		case abandoned && !errors.Is(err, catalog.ErrNotReserved), !abandoned && err != nil:
			t.Fatalf("abandoned %v, and publication says %v", abandoned, err)
		case abandoned:
			won++
		}
	}
	t.Logf("%d of 100 were abandoned", won)
}

func TestConcurrentReservationsOfManyKeysAgree(t *testing.T) {
	name := database(t)
	var wants []catalog.Want
	for i := range 300 {
		wants = append(wants, catalog.Want{Base: catalogtest.Base(fmt.Sprint("item-", i)), Compression: compress.Zstd})
	}
	var (
		wg   sync.WaitGroup
		keys [4][]objstore.Key
		errs [4]error
	)
	for i := range keys {
		db := open(t, name)
		mine := append([]catalog.Want(nil), wants...)
		order := rand.New(rand.NewPCG(uint64(i), 4)).Perm(len(wants))
		for from, to := range order {
			mine[to] = wants[from]
		}
		wg.Go(func() {
			got, err := db.Reserve(t.Context(), mine)
			if errs[i] = err; err != nil {
				return
			}
			keys[i] = make([]objstore.Key, len(got))
			for from, to := range order {
				keys[i][from] = got[to]
			}
		})
	}
	wg.Wait()
	for i := range keys {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		for j, k := range keys[i] {
			if want := catalog.NarKey(compress.Zstd, wants[j].Base, 1); k != want {
				t.Errorf("key %s, want %s", k, want)
			}
		}
	}
}

func TestAKeyThatReplaceTookOutOfServiceIsNotHandedOutByWhoLookedBefore(t *testing.T) {
	name := database(t)
	a, b := open(t, name), open(t, name)
	p := catalogtest.Item("x")
	first := p.Files[0].Key
	want := []catalog.Want{{Base: p.Path.Base, Compression: compress.Zstd, After: first}}
	catalogtest.Reserve(t, b, p)
	keys, err := b.Reserve(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	second := p.Files[0]
	second.Key = keys[0]

	// Whoever hands out keys stops between looking and taking.
	admin(t, name, "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END $$",
		"CREATE TRIGGER stop BEFORE INSERT ON objects FOR EACH STATEMENT EXECUTE FUNCTION stop()")
	conn, err := pgx.Connect(t.Context(), address(name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	want[0].After = ""
	var (
		wg        sync.WaitGroup
		got       []objstore.Key
		gotErr    error
		forgetErr error
	)
	wg.Go(func() { got, gotErr = a.Reserve(t.Context(), want) })
	untilWaiting(t, conn, name, 1)
	if _, err := b.Publish(t.Context(), []catalog.Publication{p}); err != nil {
		t.Fatal(err)
	}
	if err := b.Replace(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.Abandon(t.Context(), first, time.Now().Add(time.Hour)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	wg.Go(func() { forgetErr = b.Abandoned(t.Context(), first) })
	untilWaiting(t, conn, name, 2)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if gotErr != nil || forgetErr != nil {
		t.Fatal(gotErr, forgetErr)
	}
	if third := catalog.NarKey(compress.Zstd, p.Path.Base, 3); got[0] != third {
		t.Errorf("%s was handed out, want %s", got[0], third)
	}
	if s, err := b.Owner(t.Context(), first); s != catalog.KeySpent || err != nil {
		t.Errorf("owner of the forgotten key: %v, %v", s, err)
	}
}

// hold takes the row of a catalogue that every publication needs, until it is told to let go.
func hold(t *testing.T, database string) (conn *pgx.Conn, letGo func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "BEGIN; SELECT * FROM narfold_catalogue FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
}

// untilWaiting returns when want processes of a catalogue wait for a lock.
func untilWaiting(t *testing.T, conn *pgx.Conn, database string, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for waiting := -1; waiting != want; {
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity, (SELECT pg_stat_clear_snapshot()) AS fresh
			WHERE datname = $1 AND application_name = 'narfold' AND wait_event_type = 'Lock'`, database).Scan(&waiting)
		if err != nil {
			t.Fatalf("%d wait, want %d: %v", waiting, want, err)
		}
	}
}

func TestWhoWaitsForHisTurnMayGiveUp(t *testing.T) {
	name := database(t)
	a, b := open(t, name), open(t, name)
	p := catalogtest.Item("x")
	catalogtest.Reserve(t, a, p)
	conn, letGo := hold(t, name)
	ctx, cancel := context.WithCancelCause(t.Context())
	var (
		wg   sync.WaitGroup
		errs [3]error
	)
	// The first of a waits for the row and the one of b for the first; the second of a does so without a connection.
	for i, db := range []*DB{a, b, a} {
		wg.Go(func() { _, errs[i] = db.Publish(ctx, []catalog.Publication{p}) })
	}
	untilWaiting(t, conn, name, 2)
	if _, err := a.Reserve(t.Context(), []catalog.Want{{Base: p.Path.Base, Compression: compress.Zstd}}); err != nil {
		t.Errorf("keys are not handed out meanwhile: %v", err)
	}
	if _, err := a.Version(t.Context()); err != nil {
		t.Error(err)
	}
	cancel(errors.New("the operator went home"))
	wg.Wait()
	for _, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "the operator went home") {
			t.Errorf("error is %v", err)
		}
	}
	untilWaiting(t, conn, name, 0) // nothing is left of them at the server
	letGo()
	if out := publish(t, b, p); out[0].Verdict != catalog.Published {
		t.Errorf("%+v", out)
	}
}

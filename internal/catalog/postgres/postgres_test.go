package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
	for waiting := -1; waiting != want; {
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity, (SELECT pg_stat_clear_snapshot()) AS fresh
			WHERE datname = $1 AND application_name = 'narfold' AND wait_event_type = 'Lock'`, database).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
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

func TestALostConnectionIsAnErrorAndTheNextCallWorks(t *testing.T) {
	name := database(t)
	db := open(t, name)
	p := catalogtest.Item("x")
	catalogtest.Reserve(t, db, p)

	holder, letGo := hold(t, name) // so that the publication waits in the middle
	published := make(chan error, 1)
	go func() {
		_, err := db.Publish(t.Context(), []catalog.Publication{p})
		published <- err
	}()
	untilWaiting(t, holder, name, 1)
	if _, err := holder.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'narfold' AND wait_event_type = 'Lock'", name); err != nil {
		t.Fatal(err)
	}
	if err := <-published; err == nil {
		t.Error("published without a connection")
	}
	letGo()
	if _, err := db.Item(t.Context(), p.Path.HashPart()); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	if out, err := db.Publish(t.Context(), []catalog.Publication{p}); err != nil || out[0].Verdict != catalog.Published {
		t.Errorf("%+v, %v", out, err)
	}

	// A restart of the server ends connections that nobody uses; no caller is told.
	for _, use := range []func() error{
		func() error { _, err := db.Item(t.Context(), p.Path.HashPart()); return err },
		func() error { _, err := db.Publish(t.Context(), []catalog.Publication{p}); return err },
		func() error { _, err := db.Counts(t.Context()); return err },
		func() error { _, err := db.Version(t.Context()); return err },
	} {
		var conns []*pgxpool.Conn // more than one is idle then
		for range 3 {
			conn, err := db.pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			conn.Release()
		}
		admin(t, "postgres", "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '"+name+"' AND application_name = 'narfold'")
		if err := use(); err != nil {
			t.Error(err)
		}
	}
}

func TestACommitWhoseAnswerIsLostIsAnErrorAndMayBeDone(t *testing.T) {
	name := database(t)
	cut := cutter(t)
	db, err := Open(t.Context(), strings.Replace(address(name), "host="+strings.ReplaceAll(server.folder, "/", "%2F"), "host="+strings.ReplaceAll(cut.folder, "/", "%2F"), 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	low, top := catalogtest.Item("low"), catalogtest.Item("top", "low")
	top.Wait = true
	publish(t, db, top)
	catalogtest.Reserve(t, db, low)
	cut.armed.Store(true)
	if _, err := db.Publish(t.Context(), []catalog.Publication{low}); err == nil || !strings.Contains(err.Error(), "may be done") {
		t.Fatalf("error is %v", err)
	}
	out, err := db.Publish(t.Context(), []catalog.Publication{low, top})
	if err != nil || out[0].Verdict != catalog.Present || out[1].Verdict != catalog.Present || len(out[0].Unused)+len(out[1].Unused) != 0 {
		t.Errorf("asked again: %+v, %v", out, err)
	}
	old := low.Files[0]
	f := old
	keys, err := db.Reserve(t.Context(), []catalog.Want{{Base: low.Path.Base, Compression: compress.Zstd}})
	if err != nil {
		t.Fatal(err)
	}
	f.Key = keys[0]
	cut.armed.Store(true)
	if err := db.Replace(t.Context(), old.Key, f); err == nil || !strings.Contains(err.Error(), "may be done") {
		t.Errorf("error is %v", err)
	}
	if err := db.Replace(t.Context(), old.Key, f); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("asked again: %v", err)
	}
	if s, err := db.Owner(t.Context(), f.Key); s != catalog.KeyLive || err != nil {
		t.Errorf("Owner = %v, %v", s, err)
	}
}

// cutting is a way to the server that loses the answer to the next commit when it is armed.
type cutting struct {
	folder string
	armed  atomic.Bool
}

func cutter(t *testing.T) *cutting {
	t.Helper()
	const socket = ".s.PGSQL.5432"
	folder, err := os.MkdirTemp(server.folder, "cut")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutting{folder: folder}
	l, err := net.Listen("unix", filepath.Join(c.folder, socket))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(server.folder, socket))
			if err != nil {
				t.Error(err)
				client.Close()
				return
			}
			var drop atomic.Bool
			wg.Go(func() {
				defer server.Close()
				for buf := make([]byte, 1<<16); ; {
					n, err := client.Read(buf)
					if bytes.Contains(buf[:n], []byte("commit\x00")) && c.armed.CompareAndSwap(true, false) {
						drop.Store(true)
					}
					if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			})
			wg.Go(func() {
				defer client.Close()
				for buf := make([]byte, 1<<16); ; {
					n, err := server.Read(buf)
					if err != nil || drop.Load() {
						return
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return c
}

func TestATransactionThatTheServerEndedForAnotherIsTriedAgain(t *testing.T) {
	for state, name := range map[string]string{"40001": "serialization failure", "40P01": "deadlock"} {
		t.Run(name, func(t *testing.T) {
			name := database(t)
			db := open(t, name)
			// Sequences are outside of transactions, so this one counts also what comes to nothing.
			admin(t, name, "CREATE SEQUENCE tried", `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('tried') < 4 THEN RAISE EXCEPTION 'another was first' USING ERRCODE = '`+state+`'; END IF; RETURN NEW; END $$`,
				"CREATE TRIGGER fail BEFORE INSERT ON refs FOR EACH STATEMENT EXECUTE FUNCTION fail()")
			low, top := catalogtest.Item("low"), catalogtest.Item("top", "low")
			top.Wait = true
			publish(t, db, top)
			out := publish(t, db, low)
			if out[0].Verdict != catalog.Published || len(out[0].Released) != 1 {
				t.Errorf("%+v", out)
			}
			if c, err := db.Counts(t.Context()); c.Items != 2 || c.Waiting != 0 || err != nil {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

func TestAFullDiskIsSaidAndNothingChanges(t *testing.T) {
	name := database(t)
	db := open(t, name)
	admin(t, name, "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
		"CREATE TRIGGER fail BEFORE INSERT ON refs FOR EACH STATEMENT EXECUTE FUNCTION fail()")
	p := catalogtest.Item("x")
	catalogtest.Reserve(t, db, p)
	before, err := db.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Publish(t.Context(), []catalog.Publication{p}); !errors.Is(err, catalog.ErrFull) {
		t.Errorf("error is %v", err)
	}
	if after, err := db.Counts(t.Context()); fmt.Sprint(after) != fmt.Sprint(before) || err != nil {
		t.Errorf("%+v, %v", after, err)
	}
	admin(t, name, "DROP TRIGGER fail ON refs")
	publish(t, db, p)
}

func TestCloseWaitsForWhatIsUnderWay(t *testing.T) {
	db, err := Open(t.Context(), address(database(t)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ps []catalog.Publication
	for i := range 50 {
		ps = append(ps, catalogtest.Item(fmt.Sprint("item-", i)))
	}
	publish(t, db, ps...)
	closed := make(chan error)
	seen := 0
	if _, err := db.EachHashPart(t.Context(), 0, func([20]byte) {
		if seen++; seen == 1 {
			go func() { closed <- db.Close() }()
		}
		select {
		case err := <-closed:
			t.Errorf("closed while a walk is under way: %v", err)
		default:
		}
	}); err != nil || seen != len(ps) {
		t.Errorf("%d hash parts, %v", seen, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := db.Publish(t.Context(), ps[:1]); err == nil {
		t.Error("published in a closed catalogue")
	}
	if _, err := db.Version(t.Context()); err == nil {
		t.Error("read a closed catalogue")
	}
}

func TestThePasswordIsReadFromItsFileForEachConnection(t *testing.T) {
	name := database(t)
	admin(t, name, "CREATE ROLE secretive LOGIN PASSWORD 'first'", "GRANT ALL ON SCHEMA public TO secretive")
	t.Cleanup(func() {
		admin(t, name, "DROP OWNED BY secretive", "DROP ROLE secretive")
	})
	url := strings.Replace(address(name), "postgres@", "secretive@", 1)
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	if db, err := Open(t.Context(), url, Options{PasswordFile: file}); err == nil {
		db.Close()
		t.Fatal("opened with a wrong password")
	} else if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the error tells the password: %v", err)
	}
	write("first")
	db, err := Open(t.Context(), url, Options{PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	publish(t, db, catalogtest.Item("x"))
	admin(t, name, "ALTER ROLE secretive PASSWORD 'second'")
	write("second")
	db.pool.Reset()
	if c, err := db.Counts(t.Context()); c.Items != 1 || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	db.pool.Reset()
	if _, err := db.Counts(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestCommitsAreOnTheDiskWhateverTheServersDefault(t *testing.T) {
	for set, want := range map[string]string{"off": "on", "on": "on", "remote_apply": "remote_apply"} {
		name := database(t)
		admin(t, "postgres", "ALTER DATABASE "+name+" SET synchronous_commit = "+set)
		got, err := rows(t.Context(), open(t, name), pgx.RowTo[string], "SHOW synchronous_commit")
		if err != nil || got[0] != want {
			t.Errorf("with the default %s it is %v, %v", set, got, err)
		}
	}
}

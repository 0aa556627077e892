package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
)

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
	db, err := Open(t.Context(), strings.Replace(address(name), "host="+strings.ReplaceAll(server.Folder(), "/", "%2F"), "host="+strings.ReplaceAll(cut.folder, "/", "%2F"), 1), Options{})
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
	folder, err := os.MkdirTemp(server.Folder(), "cut")
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
			server, err := net.Dial("unix", filepath.Join(server.Folder(), socket))
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

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
)

// server is the PostgreSQL of this test binary, in a folder of its own, reached by a socket there.
var server struct {
	folder    string
	databases atomic.Int64
}

func TestMain(m *testing.M) {
	if url := os.Getenv(herderURL); url != "" {
		herd(url, os.Getenv(herderSeed))
	}
	os.Exit(withServer(m.Run))
}

// withServer starts a server, runs f, and stops the server.
func withServer(f func() int) int {
	fail := func(doing string, err error) int {
		fmt.Fprintf(os.Stderr, "%s: %v\n", doing, err)
		return 1
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return fail("look for PostgreSQL", errors.New("there is no /usr/lib/postgresql/*/bin/postgres; install the Debian package postgresql"))
	}
	bin := filepath.Dir(slices.Max(found))
	// The path of a socket has at most 107 bytes.
	folder, err := os.MkdirTemp("", "pg")
	if err == nil && len(folder) > 80 {
		os.Remove(folder)
		folder, err = os.MkdirTemp("/tmp", "pg")
	}
	if err != nil {
		return fail("make a folder", err)
	}
	defer os.RemoveAll(folder)
	server.folder = folder
	as, err := unprivileged(folder)
	if err != nil {
		return fail("choose a user for PostgreSQL, which root may not run", err)
	}
	data := filepath.Join(folder, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
	initdb.SysProcAttr, initdb.Dir = &syscall.SysProcAttr{Credential: as}, folder
	if out, err := initdb.CombinedOutput(); err != nil {
		return fail("run initdb", fmt.Errorf("%w: %s", err, out))
	}
	// Not on the command line, which could not be overruled.
	for name, text := range map[string]string{
		"pg_hba.conf":     "local all secretive scram-sha-256\nlocal all all trust\n",
		"postgresql.conf": "listen_addresses = ''\nunix_socket_directories = '" + folder + "'\nfsync = off\nmax_connections = 200\n",
	} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return fail("write "+name, err)
		}
	}
	var log bytes.Buffer
	postgres := exec.Command(filepath.Join(bin, "postgres"), "-D", data)
	// Should this process be killed, the server goes too.
	postgres.SysProcAttr, postgres.Dir = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}, folder
	postgres.Stdout, postgres.Stderr = &log, &log
	if err := postgres.Start(); err != nil {
		return fail("start postgres", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- postgres.Wait() }()
	defer func() {
		postgres.Process.Signal(os.Interrupt) // a fast shutdown
		<-ended
	}()
	for ready := false; !ready; {
		select {
		case err := <-ended:
			ended <- err
			return fail("start postgres", fmt.Errorf("%w: %s", err, log.Bytes()))
		case <-time.After(20 * time.Millisecond):
			conn, err := pgx.Connect(context.Background(), address("postgres"))
			if ready = err == nil; ready {
				conn.Close(context.Background())
			}
		}
	}
	return f()
}

// unprivileged gives folder to a user who may run PostgreSQL, and returns him, or nil if it is this process's.
func unprivileged(folder string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		if who, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(who.Gid)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(folder, uid, gid)
}

func address(database string) string {
	return "postgres://postgres@/" + database + "?" + url.Values{"host": {server.folder}}.Encode()
}

// admin runs statements in a database, each by itself.
func admin(t testing.TB, database string, statements ...string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also for what is done at the end of a test
	conn, err := pgx.Connect(ctx, address(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// database makes an empty database, and returns its name.
func database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", server.databases.Add(1))
	admin(t, "postgres", "CREATE DATABASE "+name)
	return name
}

// open opens the catalogue in a database for the time of the test.
func open(t testing.TB, database string) *DB {
	t.Helper()
	db, err := Open(t.Context(), address(database), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// catalogues opens catalogues in databases of their own, and opens them again.
func catalogues() (fresh func(t *testing.T) catalog.Catalogue, again func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	in := make(map[catalog.Catalogue]string)
	return func(t *testing.T) catalog.Catalogue {
			name := database(t)
			db := open(t, name)
			in[db] = name
			return db
		}, func(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			db := open(t, in[c])
			in[db] = in[c]
			return db
		}
}

func TestContract(t *testing.T) {
	fresh, again := catalogues()
	catalogtest.Run(t, fresh, again)
}

func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		fresh, again := catalogues()
		catalogtest.Model(t, seed, 600, fresh, again)
	}
}

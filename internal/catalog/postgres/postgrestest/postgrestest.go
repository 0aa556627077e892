// Package postgrestest starts a PostgreSQL server of a test's own: the real one, in a folder of its own, reached by a socket there, with
// a database for whoever asks. Nothing of it is flushed to the disk, and nothing is left of it.
package postgrestest

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
)

// Server is a running server.
type Server struct {
	folder    string
	databases atomic.Int64
}

// Folder is where the server's socket is.
func (s *Server) Folder() string { return s.folder }

// For starts a server for one test.
func For(t testing.TB) *Server {
	t.Helper()
	s, stop, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s
}

// Start starts a server, which runs until stop or until this process ends.
func Start() (s *Server, stop func(), err error) {
	fail := func(doing string, err error) error { return fmt.Errorf("%s: %w", doing, err) }
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, nil, fail("look for PostgreSQL", errors.New("there is no /usr/lib/postgresql/*/bin/postgres; install the Debian package postgresql"))
	}
	bin := filepath.Dir(slices.Max(found))
	// The path of a socket has at most 107 bytes.
	folder, err := os.MkdirTemp("", "pg")
	if err == nil && len(folder) > 80 {
		os.Remove(folder)
		folder, err = os.MkdirTemp("/tmp", "pg")
	}
	if err != nil {
		return nil, nil, fail("make a folder", err)
	}
	s = &Server{folder: folder}
	defer func() {
		if err != nil {
			os.RemoveAll(folder)
		}
	}()
	as, err := unprivileged(folder)
	if err != nil {
		return nil, nil, fail("choose a user for PostgreSQL, which root may not run", err)
	}
	data := filepath.Join(folder, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
	initdb.SysProcAttr, initdb.Dir = &syscall.SysProcAttr{Credential: as}, folder
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, nil, fail("run initdb", fmt.Errorf("%w: %s", err, out))
	}
	// Not on the command line, which could not be overruled.
	for name, text := range map[string]string{
		"pg_hba.conf":     "local all secretive scram-sha-256\nlocal all all trust\n",
		"postgresql.conf": "listen_addresses = ''\nunix_socket_directories = '" + folder + "'\nfsync = off\nfull_page_writes = off\nwal_level = minimal\nmax_wal_senders = 0\nmax_connections = 200\n",
	} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return nil, nil, fail("write "+name, err)
		}
	}
	var log bytes.Buffer
	postgres := exec.Command(filepath.Join(bin, "postgres"), "-D", data)
	// Should this process be killed, the server goes too.
	postgres.SysProcAttr, postgres.Dir = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}, folder
	postgres.Stdout, postgres.Stderr = &log, &log
	if err := postgres.Start(); err != nil {
		return nil, nil, fail("start postgres", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- postgres.Wait() }()
	stop = func() {
		postgres.Process.Signal(os.Interrupt) // a fast shutdown
		<-ended
		os.RemoveAll(folder)
	}
	for ready := false; !ready; {
		select {
		case err := <-ended:
			return nil, nil, fail("start postgres", fmt.Errorf("%w: %s", err, log.Bytes()))
		case <-time.After(20 * time.Millisecond):
			conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
			if ready = err == nil; ready {
				conn.Close(context.Background())
			}
		}
	}
	return s, stop, nil
}

// URL is where a database of the server is.
func (s *Server) URL(database string) string {
	return "postgres://postgres@/" + database + "?" + url.Values{"host": {s.folder}}.Encode()
}

// Database makes an empty database, and returns its name.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	s.Admin(t, "postgres", "CREATE DATABASE "+name)
	return name
}

// Admin runs statements in a database, each by itself.
func (s *Server) Admin(t testing.TB, database string, statements ...string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also for what is done at the end of a test
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
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

package nixdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/digest"
	"narfold/internal/storepath"
)

const (
	guixColumns = "id integer primary key autoincrement not null, path text unique not null, hash text not null, registrationTime integer not null, " +
		"deriver text, narSize integer"
	nixColumns = guixColumns + ", ultimate integer, sigs text, ca text"
	refsTable  = "create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference))"
)

// base makes a base name that begins with c.
func base(c, name string) string { return strings.Repeat(c, 32) + "-" + name }

// made makes a database with the given columns and rows, in write-ahead mode and still open for its writer.
func made(t *testing.T, columns string, statements ...string) (path string, writer *sqlite.Conn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db.sqlite")
	writer, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writer.Close() })
	run(t, writer, append([]string{"create table ValidPaths (" + columns + ")", refsTable}, statements...)...)
	return path, writer
}

func run(t *testing.T, conn *sqlite.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if err := sqlitex.ExecuteTransient(conn, s, nil); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func opened(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

var (
	one = "insert into ValidPaths (path, hash, registrationTime, deriver, narSize) values ('/gnu/store/" + base("1", "a") + "', 'sha256:" +
		strings.Repeat("ab", 32) + "', 1700000000, '/gnu/store/" + base("2", "a.drv") + "', 120)"
	two = "insert into ValidPaths (path, hash, registrationTime) values ('/gnu/store/" + base("3", "b.drv") + "', 'sha256:" + strings.Repeat("cd", 32) + "', 0)"
)

func TestTheSchemasOfGuixAndNixAreBothRead(t *testing.T) {
	hash := func(s string) (d digest.SHA256) {
		d, err := digest.Parse("sha256:" + strings.Repeat(s, 32))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a := Item{ID: 1, Path: storepath.Path{Dir: storepath.Guix, Base: storepath.Base(base("1", "a"))}, NarHash: hash("ab"), NarSize: 120,
		References: []storepath.Base{storepath.Base(base("1", "a")), storepath.Base(base("3", "b.drv"))},
		Deriver:    storepath.Base(base("2", "a.drv")), Registered: time.Unix(1700000000, 0).UTC(), Sigs: []string{}}
	b := Item{ID: 2, Path: storepath.Path{Dir: storepath.Guix, Base: storepath.Base(base("3", "b.drv"))}, NarHash: hash("cd"), Registered: time.Unix(0, 0).UTC(), Sigs: []string{}}
	refs := "insert into Refs values (1, 1), (1, 2)"

	path, _ := made(t, guixColumns, one, two, refs)
	same(t, opened(t, path), a, b)

	path, _ = made(t, nixColumns, one, two, refs, "update ValidPaths set ultimate = 1, sigs = 'k:AA== l:BB==', ca = 'text:sha256:0' where id = 1")
	a.Ultimate, a.Sigs, a.CA = true, []string{"k:AA==", "l:BB=="}, "text:sha256:0"
	same(t, opened(t, path), a, b)
}

func same(t *testing.T, db *DB, want ...Item) {
	t.Helper()
	for _, w := range want {
		id, err := db.Find(t.Context(), w.Path)
		if err != nil || id != w.ID {
			t.Errorf("%s has the ID %d, %v", w.Path, id, err)
		}
		p, err := db.FindHashPart(t.Context(), w.Path.Dir, w.Path.HashPart())
		if err != nil || p != w.Path {
			t.Errorf("%s is %s, %v", w.Path.HashPart(), p, err)
		}
		got, err := db.Item(t.Context(), id)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("item\n     %+v, %v\nwant %+v", got, err, w)
		}
	}
	if refs := edgesOf(t, db, 1); !slices.Equal(refs, []int64{1, 2}) {
		t.Errorf("references %v", refs)
	}
	var nodes []Node
	var edges []string
	err := db.Snapshot(t.Context(), func(n Node) error { nodes = append(nodes, n); return nil },
		func(from, to int64) error { edges = append(edges, fmt.Sprint(from, to)); return nil })
	if err != nil || !slices.Equal(nodes, []Node{{1, 120, false}, {2, 0, true}}) || !slices.Equal(edges, []string{"1 1", "1 2"}) {
		t.Errorf("snapshot %v %v, %v", nodes, edges, err)
	}
	if dir, err := db.Dir(t.Context()); dir != storepath.Guix || err != nil {
		t.Errorf("dir %q, %v", dir, err)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	path, _ := made(t, guixColumns, one)
	db := opened(t, path)
	absent := storepath.Path{Dir: storepath.Guix, Base: storepath.Base(base("9", "x"))}
	if _, err := db.Find(t.Context(), absent); !errors.Is(err, ErrNotFound) {
		t.Errorf("find: %v", err)
	}
	if _, err := db.FindHashPart(t.Context(), absent.Dir, absent.HashPart()); !errors.Is(err, ErrNotFound) {
		t.Errorf("find by hash part: %v", err)
	}
	if _, err := db.Item(t.Context(), 9); !errors.Is(err, ErrNotFound) {
		t.Errorf("item: %v", err)
	}
	empty, _ := made(t, nixColumns)
	if dir, err := opened(t, empty).Dir(t.Context()); dir != "" || err != nil {
		t.Errorf("an empty store is in %q, %v", dir, err)
	}
}

func TestASnapshotIsOfOneMomentWhileAWriterGoesOn(t *testing.T) {
	path, writer := made(t, guixColumns, one)
	db := opened(t, path)
	nodes, edges := 0, 0
	err := db.Snapshot(t.Context(), func(Node) error {
		if nodes++; nodes == 1 {
			run(t, writer, two, "insert into Refs values (1, 2)")
		}
		return nil
	}, func(int64, int64) error { edges++; return nil })
	if err != nil || nodes != 1 || edges != 0 {
		t.Errorf("%d nodes and %d edges, %v", nodes, edges, err)
	}
	if refs := edgesOf(t, db, 1); len(refs) != 1 {
		t.Errorf("afterwards %v", refs)
	}
}

func TestARowThatIsNotAnItemIsAnErrorOfThatRow(t *testing.T) {
	for name, damage := range map[string]string{
		"path":      "update ValidPaths set path = 'here' where id = 1",
		"hash":      "update ValidPaths set hash = 'md5:00' where id = 1",
		"deriver":   "update ValidPaths set deriver = 'x.drv' where id = 1",
		"reference": "update ValidPaths set path = '/gnu/store/x' where id = 2",
		"store":     "update ValidPaths set path = '/nix/store/" + base("3", "b.drv") + "' where id = 2",
	} {
		path, _ := made(t, guixColumns, one, two, "insert into Refs values (1, 2)", damage)
		if it, err := opened(t, path).Item(t.Context(), 1); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %+v, %v", name, it, err)
		}
	}
}

func TestWhatIsNoDatabaseOfAStoreIsRefused(t *testing.T) {
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "db.sqlite")); !errors.Is(err, ErrNoDatabase) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	text := filepath.Join(t.TempDir(), "db.sqlite")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), text); !errors.Is(err, ErrSchema) {
		t.Errorf("a text: %v", err)
	}
	if _, err := Open(t.Context(), t.TempDir()); !errors.Is(err, ErrSchema) {
		t.Errorf("a directory: %v", err)
	}
	other, _ := made(t, "id integer, path text")
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "column hash") {
		t.Errorf("another database: %v", err)
	}
}

func TestACancelledReadEnds(t *testing.T) {
	path, _ := made(t, guixColumns, one)
	db := opened(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	err := db.Snapshot(ctx, func(Node) error { cancel(); return nil }, func(int64, int64) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := db.Item(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("item: %v", err)
	}
	if _, err := db.Item(t.Context(), 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// asNobody names a database to the copy of this test that runs as a user without rights.
const asNobody = "NIXDB_TEST_AS_NOBODY"

// A user who may not write beside the database reads it while the daemon has it open, and is told what to do when not.
func TestReadingWithoutTheRightToWrite(t *testing.T) {
	if path := os.Getenv(asNobody); path != "" {
		db, err := Open(t.Context(), path)
		if err == nil {
			_, err = db.Item(t.Context(), 1)
			db.Close()
		}
		fmt.Printf("result: %v %v\n", errors.Is(err, ErrAccess), err)
		return
	}
	path, writer := made(t, guixColumns, one)
	dir := filepath.Dir(path)
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o755) })
	}
	copied := filepath.Join(dir, "test")
	exe, err := os.ReadFile(os.Args[0])
	if err == nil && os.Getuid() == 0 {
		err = os.WriteFile(copied, exe, 0o755)
	} else {
		copied = os.Args[0]
	}
	if err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		cmd := exec.Command(copied, "-test.run=^TestReadingWithoutTheRightToWrite$")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), asNobody+"="+path)
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if got := read(); !strings.Contains(got, "result: false <nil>") {
		t.Errorf("while the daemon is there: %s", got)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		os.Chmod(dir, 0o555)
	}
	if got := read(); !strings.Contains(got, "result: true") || !strings.Contains(got, "db.sqlite-shm") {
		t.Errorf("when the daemon is gone: %s", got)
	}
}

func TestADatabaseIsFoundByTheStoreDirectory(t *testing.T) {
	for _, c := range [][3]string{
		{"/nix/store", "", "/nix/var/nix/db/db.sqlite"},
		{"/gnu/store", "", "/var/guix/db/db.sqlite"},
		{"/srv/root/gnu/store", "", "/srv/root/var/guix/db/db.sqlite"},
		{"/srv/root/nix/store/", "", "/srv/root/nix/var/nix/db/db.sqlite"},
		{"/home/me/store", "", "/home/me/var/nix/db/db.sqlite"},
		{"/home/me/store", "/home/me/state", "/home/me/state/db/db.sqlite"},
		{"/gnu/store", "/var/guix", "/var/guix/db/db.sqlite"},
	} {
		if got := PathOf(c[0], c[1]); got != c[2] {
			t.Errorf("%s with state %q: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

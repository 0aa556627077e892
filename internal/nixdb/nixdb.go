// Package nixdb reads what a store knows of its own items: the SQLite database in which nix-daemon and guix-daemon keep the hash,
// the references and the deriver of every valid path. It only reads, and it may do so while the daemon writes.
//
// The tables are those that both projects share, in every version since they began to use SQLite: ValidPaths with id, path, hash,
// registrationTime, deriver and narSize, and Refs with referrer and reference. Nix has since added ultimate, sigs and ca to
// ValidPaths; Guix has not. (Source: the database that Nix 2.8 makes, and the schema.sql of guix-daemon.)
package nixdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Errors on which callers decide.
var (
	// ErrNotFound says that the database has no such valid path: it was never there, or has been collected.
	ErrNotFound = errors.New("not a valid path of the store")
	// ErrNoDatabase says that there is no file at all. It is fs.ErrNotExist too.
	ErrNoDatabase = fmt.Errorf("no store database: %w", fs.ErrNotExist)
	// ErrAccess says that the database is there and cannot be read by this user.
	ErrAccess = errors.New("store database cannot be read")
	// ErrSchema says that the file is no database of a store.
	ErrSchema = errors.New("not the database of a Nix or Guix store")
)

// Item is what the database says of one valid path.
type Item struct {
	ID         int64 // of the row; grows with registration, and is never used twice
	Path       storepath.Path
	NarHash    digest.SHA256
	NarSize    int64            // bytes; 0 if not recorded
	References []storepath.Base // ascending; a reference to itself included
	Deriver    storepath.Base   // "" if not known
	Registered time.Time
	Ultimate   bool     // Nix: built here, and not substituted
	Sigs       []string // Nix: values of Sig lines
	CA         string   // Nix: the content address
}

// DB is an open database. Its methods may be called concurrently, and wait for each other.
type DB struct {
	path string
	mu   sync.Mutex
	conn *sqlite.Conn
	has  map[string]bool // columns of ValidPaths
}

// busyTimeout is how long a read waits while the daemon holds the database for itself, which it does when it recovers after a crash
// and for the moment in which the last of its processes leaves.
const busyTimeout = 30 * time.Second

// Open opens the database file at path for reading. It fails with ErrNoDatabase, ErrAccess or ErrSchema.
//
// The daemons keep their database in write-ahead mode, where a reader takes part in the file db.sqlite-shm. While the daemon has the
// database open that file is there, and being able to read it is enough. Otherwise SQLite must make it: a user who may not write to
// the directory gets ErrAccess. Then read as the store's owner, or give a copy (sqlite3 db.sqlite ".backup copy.sqlite").
func Open(ctx context.Context, path string) (*DB, error) {
	if info, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open %s: %w", path, ErrNoDatabase)
		}
		return nil, fmt.Errorf("open store database: %w: %w", ErrAccess, err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: %w: not a regular file", path, ErrSchema)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, explain(path, err))
	}
	db := &DB{path: path, conn: conn, has: map[string]bool{}}
	conn.SetBusyTimeout(busyTimeout)
	if err := db.columns(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// Close closes the database.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.conn.Close()
}

// read runs f alone on the connection, until ctx ends.
func (db *DB) read(ctx context.Context, f func(*sqlite.Conn) error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	db.conn.SetInterrupt(ctx.Done())
	defer db.conn.SetInterrupt(nil)
	err := f(db.conn)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case sqlite.ErrCode(err) != sqlite.ResultError:
		return explain(db.path, err)
	}
	return err
}

// explain tells a person what to do about an error of SQLite.
func explain(path string, err error) error {
	if errors.Is(err, ErrAccess) || errors.Is(err, ErrSchema) {
		return err // it was told already
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultCantOpen, sqlite.ResultReadOnly:
		return fmt.Errorf("%w: reading it needs %s-shm, which this user cannot make in %s; read as the owner of the store, or give a copy of the database: %w",
			ErrAccess, filepath.Base(path), filepath.Dir(path), err)
	case sqlite.ResultPerm, sqlite.ResultAuth, sqlite.ResultIOErr:
		return fmt.Errorf("%w: %w", ErrAccess, err)
	case sqlite.ResultNotADB, sqlite.ResultCorrupt:
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return err
}

func (db *DB) columns(ctx context.Context) error {
	err := db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.ExecuteTransient(conn, `SELECT 'p.' || name FROM pragma_table_info('ValidPaths') UNION ALL
			SELECT 'r.' || name FROM pragma_table_info('Refs')`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				db.has[stmt.ColumnText(0)] = true
				return nil
			}})
	})
	if err != nil {
		return err
	}
	for _, need := range []string{"p.id", "p.path", "p.hash", "p.registrationTime", "p.deriver", "p.narSize", "r.referrer", "r.reference"} {
		if !db.has[need] {
			table := "ValidPaths"
			if need[0] == 'r' {
				table = "Refs"
			}
			return fmt.Errorf("%w: table %s has no column %s", ErrSchema, table, need[2:])
		}
	}
	return nil
}

// column names a column that only newer schemas have, or what stands for it.
func (db *DB) column(name string) string {
	if db.has["p."+name] {
		return name
	}
	return "NULL"
}

// Dir returns the store directory of the paths that are recorded, or "" if none is. A store has one.
func (db *DB) Dir(ctx context.Context) (dir storepath.Dir, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT path FROM ValidPaths ORDER BY id LIMIT 1", &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				p, err := storepath.Parse(stmt.ColumnText(0))
				dir = p.Dir
				return err
			}})
	})
	if err != nil {
		return "", fmt.Errorf("read store directory from %s: %w", db.path, err)
	}
	return dir, nil
}

// Find returns the ID of a valid path, or ErrNotFound.
func (db *DB) Find(ctx context.Context, p storepath.Path) (id int64, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT id FROM ValidPaths WHERE path = ?1", &sqlitex.ExecOptions{
			Args: []any{p.String()},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				id = stmt.ColumnInt64(0)
				return nil
			}})
	})
	if err == nil && id == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("look up %s in %s: %w", p, db.path, err)
	}
	return id, nil
}

// FindHashPart returns the valid path of dir with the given hash part, or ErrNotFound.
func (db *DB) FindHashPart(ctx context.Context, dir storepath.Dir, h storepath.HashPart) (p storepath.Path, err error) {
	begin := string(dir) + "/" + string(h)
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT path FROM ValidPaths WHERE path >= ?1 || '-' AND path < ?1 || '.' LIMIT 1", &sqlitex.ExecOptions{
			Args: []any{begin},
			ResultFunc: func(stmt *sqlite.Stmt) (err error) {
				p, err = storepath.Parse(stmt.ColumnText(0))
				return err
			}})
	})
	if err == nil && p.Base == "" {
		err = ErrNotFound
	}
	if err != nil {
		return storepath.Path{}, fmt.Errorf("look up %s in %s: %w", begin, db.path, err)
	}
	return p, nil
}

// Node is a valid path in a Snapshot.
type Node struct {
	ID         int64
	NarSize    int64 // bytes; 0 if not recorded
	Derivation bool
}

// Snapshot calls node for every valid path, ascending by ID, and then edge for every reference, ascending by the ID of the referrer,
// all as of one moment. They must not call methods of db. The daemon may write meanwhile; its log cannot be shortened until
// Snapshot returns, so that what takes long belongs after it.
func (db *DB) Snapshot(ctx context.Context, node func(Node) error, edge func(referrer, reference int64) error) error {
	err := db.read(ctx, func(conn *sqlite.Conn) (err error) {
		defer sqlitex.Transaction(conn)(&err)
		err = sqlitex.Execute(conn, "SELECT id, narSize, substr(path, -4) = '.drv' FROM ValidPaths ORDER BY id", &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				return node(Node{ID: stmt.ColumnInt64(0), NarSize: max(0, stmt.ColumnInt64(1)), Derivation: stmt.ColumnInt64(2) != 0})
			}})
		if err != nil {
			return err
		}
		return sqlitex.Execute(conn, "SELECT referrer, reference FROM Refs ORDER BY referrer, reference", &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error { return edge(stmt.ColumnInt64(0), stmt.ColumnInt64(1)) }})
	})
	if err != nil {
		return fmt.Errorf("list valid paths of %s: %w", db.path, err)
	}
	return nil
}

// PathOf returns where the database of a store is, by the store's directory. For /gnu/store it is /var/guix/db/db.sqlite, and for
// <prefix>/gnu/store, as in a container's root, below that prefix. For /nix/store and any other <prefix>/store it is
// <prefix>/var/nix/db/db.sqlite. If state is given, the state directory that NIX_STATE_DIR names, it is <state>/db/db.sqlite.
func PathOf(store, state string) string {
	if state != "" {
		return filepath.Join(state, "db/db.sqlite")
	}
	if prefix, guix := strings.CutSuffix(filepath.Clean(store), string(storepath.Guix)); guix {
		return filepath.Join("/", prefix, "var/guix/db/db.sqlite")
	}
	return filepath.Join(filepath.Dir(filepath.Clean(store)), "var/nix/db/db.sqlite")
}

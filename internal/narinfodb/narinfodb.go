// Package narinfodb reads narinfos out of an SQLite database that keeps the text of each whole in a column of some table, as
// nar-herder's does. It only reads, and it may do so while somebody else writes.
//
// Which table and which column that is, it finds out by looking: nothing else of such a database is needed, since a narinfo tells its
// references, hashes and files itself. So it depends on no version of anybody's schema.
package narinfodb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/narinfo"
)

// Errors on which callers decide.
var (
	// ErrNotFound says that there is no such row, or none any more.
	ErrNotFound = fmt.Errorf("no such row: %w", fs.ErrNotExist)
	// ErrAccess says that the database is there and cannot be read by this user.
	ErrAccess = errors.New("database cannot be read")
	// ErrDamaged says that the file is no database, or a damaged one.
	ErrDamaged = errors.New("not an SQLite database that can be read")
	// ErrNoNarinfos says that no column of the database holds narinfos.
	ErrNoNarinfos = errors.New("database has no column of narinfos")
)

const (
	// Magic is how every SQLite database file begins. (Source: the file format that SQLite documents, section 1.3.)
	Magic = "SQLite format 3\x00"
	// busyTimeout is how long a read waits for somebody who holds the database for himself.
	busyTimeout = 30 * time.Second
	// sampled is how many rows of a column are looked at to tell what it holds.
	sampled = 16
	// batch is how many rows are read in one go. Between two, writers may shorten their log.
	batch = 1000
)

// Is tells whether the file called name begins as an SQLite database does.
func Is(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(Magic))
	n, _ := f.Read(head)
	return string(head[:n]) == Magic
}

// DB is an open database. Its methods may be called concurrently, and wait for each other.
type DB struct {
	path          string
	table, column string

	mu   sync.Mutex
	conn *sqlite.Conn
}

// Open opens the database file at path for reading, and finds its column of narinfos. It fails with fs.ErrNotExist, ErrAccess,
// ErrDamaged or ErrNoNarinfos. Of several columns of narinfos it takes the one with most rows.
func Open(ctx context.Context, path string) (_ *DB, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open database: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("open %s: %w: not a regular file", path, ErrDamaged)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, explain(path, err))
	}
	db := &DB{path: path, conn: conn}
	conn.SetBusyTimeout(busyTimeout)
	if err := db.find(ctx); err != nil {
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

// Column tells where the narinfos are, as table.column.
func (db *DB) Column() string { return db.table + "." + db.column }

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
	}
	return explain(db.path, err)
}

// explain tells a person what to do about an error of SQLite.
func explain(path string, err error) error {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultCantOpen, sqlite.ResultReadOnly:
		return fmt.Errorf("%w: reading it needs %s-shm, which this user cannot make in %s; read as its owner, or give a copy (sqlite3 %s \".backup copy.db\"): %w",
			ErrAccess, filepath.Base(path), filepath.Dir(path), filepath.Base(path), err)
	case sqlite.ResultPerm, sqlite.ResultAuth, sqlite.ResultIOErr:
		return fmt.Errorf("%w: %w", ErrAccess, err)
	case sqlite.ResultNotADB, sqlite.ResultCorrupt:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// find looks for the column.
func (db *DB) find(ctx context.Context) error {
	type place struct {
		table, column string
		rows          int64
	}
	var candidates, found []place
	err := db.read(ctx, func(conn *sqlite.Conn) error {
		// Tables without a rowid, and virtual ones, are not what anybody keeps narinfos in; they fail below, and are passed over.
		return sqlitex.ExecuteTransient(conn, `SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
			WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY t.name, c.cid`, &sqlitex.ExecOptions{
			ResultFunc: func(stmt *sqlite.Stmt) error {
				candidates = append(candidates, place{table: stmt.ColumnText(0), column: stmt.ColumnText(1)})
				return nil
			}})
	})
	if err != nil {
		return err
	}
	for _, c := range candidates {
		holds, err := db.holds(ctx, c.table, c.column)
		if err != nil {
			return err
		}
		if holds {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return ErrNoNarinfos
	}
	for i := range found {
		if len(found) == 1 {
			break
		}
		err := db.read(ctx, func(conn *sqlite.Conn) (err error) {
			found[i].rows, err = sqlitex.ResultInt64(conn.Prep(`SELECT count(*) FROM ` + quoted(found[i].table)))
			return err
		})
		if err != nil {
			return err
		}
	}
	best := slices.MaxFunc(found, func(a, b place) int { return cmp.Compare(a.rows, b.rows) })
	db.table, db.column = best.table, best.column
	return nil
}

// holds tells whether the first rows of a column are narinfos, all of them.
func (db *DB) holds(ctx context.Context, table, column string) (bool, error) {
	narinfos, others := 0, 0
	err := db.read(ctx, func(conn *sqlite.Conn) error {
		stmt, _, err := conn.PrepareTransient(fmt.Sprintf("SELECT rowid, substr(CAST(%s AS BLOB), 1, 32) FROM %s LIMIT %d", quoted(column), quoted(table), sampled))
		if err != nil {
			return nil // has no rowid
		}
		defer stmt.Finalize()
		for {
			row, err := stmt.Step()
			if err != nil || !row {
				return err
			}
			head := make([]byte, stmt.ColumnLen(1))
			stmt.ColumnBytes(1, head)
			if begins(head) {
				narinfos++
			} else {
				others++
			}
		}
	})
	return narinfos > 0 && others == 0, err
}

// begins tells whether text is the beginning of a narinfo: a line with a name of a field that comes first in those of Guix and Nix.
func begins(text []byte) bool { return bytes.HasPrefix(text, []byte("StorePath: /")) }

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Row is a narinfo's text with its place.
type Row struct {
	ID   int64
	Text []byte
}

// Rows yields all narinfos in the order in which they lie, which reads the file from its beginning to its end. Of a text that is longer
// than a narinfo may be it gives the beginning. It yields at most one error, last. Rows that are added meanwhile come too.
func (db *DB) Rows(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for last, more := int64(-1<<63), true; more; {
			var rows []Row
			err := db.read(ctx, func(conn *sqlite.Conn) error {
				return sqlitex.Execute(conn, fmt.Sprintf("SELECT rowid, substr(CAST(%s AS BLOB), 1, %d) FROM %s WHERE rowid > ?1 ORDER BY rowid LIMIT %d",
					quoted(db.column), narinfo.MaxSize+1, quoted(db.table), batch), &sqlitex.ExecOptions{
					Args: []any{last},
					ResultFunc: func(stmt *sqlite.Stmt) error {
						rows = append(rows, Row{stmt.ColumnInt64(0), column(stmt, 1)})
						return nil
					}})
			})
			if err != nil {
				yield(Row{}, fmt.Errorf("read narinfos from %s: %w", db.path, err))
				return
			}
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
				last = r.ID
			}
			more = len(rows) == batch
		}
	}
}

// At returns the narinfo in a row, or ErrNotFound.
func (db *DB) At(ctx context.Context, id int64) (text []byte, err error) {
	found := false
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, fmt.Sprintf("SELECT substr(CAST(%s AS BLOB), 1, %d) FROM %s WHERE rowid = ?1", quoted(db.column), narinfo.MaxSize+1, quoted(db.table)),
			&sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(stmt *sqlite.Stmt) error {
				text, found = column(stmt, 0), true
				return nil
			}})
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read narinfo in row %d of %s: %w", id, db.path, err)
	}
	return text, nil
}

func column(stmt *sqlite.Stmt, i int) []byte {
	b := make([]byte, stmt.ColumnLen(i))
	stmt.ColumnBytes(i, b)
	return b
}

package sqlite

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog/directory"
	"narfold/internal/storepath"
)

// remembered is a directory in memory of the published items, for a process that answers many questions. Items that are withdrawn stay
// in it: what it finds is asked of the file, so that it is never wrong, and at most not fast.
type remembered struct {
	directory.Directory

	filling sync.Mutex
	last    int64        // id of the last item in it; belongs to whoever fills it
	version atomic.Int64 // of the catalogue, asked before the directory was brought up to date with it
	filled  atomic.Bool
}

// rememberPage is how many items are read at a time. A snapshot that is open for long keeps the log from being shortened.
const rememberPage = 20_000

// Remember reads a directory of all items into memory, some 35 bytes for each, from which Absent and most of what Item needs is answered
// from then on. Without it both answer from the file. Ten million items take some fifteen seconds, and others are answered meanwhile.
func (db *DB) Remember(ctx context.Context) error {
	if err := db.remember(ctx); err != nil {
		return fmt.Errorf("remember what is published: %w", err)
	}
	db.items.filled.Store(true)
	return nil
}

// remember adds what was published since the last time.
func (db *DB) remember(ctx context.Context) error {
	m := &db.items
	m.filling.Lock()
	defer m.filling.Unlock()
	version, err := db.Version(ctx)
	if err != nil {
		return err
	}
	if m.filled.Load() && version == m.version.Load() {
		return nil // another has done it
	}
	if m.last == 0 {
		counts, err := db.Counts(ctx)
		if err != nil {
			return err
		}
		m.Expect(counts.Items)
	}
	add := m.Add
	if !m.filled.Load() {
		add = m.AddFirst // one that comes back meanwhile is found by the number that it had, and then by its hash part
	}
	for more := true; more; {
		err := db.read(ctx, func(conn *sqlite.Conn) error {
			rows := 0
			var name [256]byte // of at most 211 bytes
			err := sqlitex.Execute(conn, "SELECT id, hash, name FROM items WHERE id > ? ORDER BY id LIMIT ?", &sqlitex.ExecOptions{
				Args: []any{m.last, rememberPage},
				ResultFunc: func(s *sqlite.Stmt) error {
					rows++
					m.last = s.ColumnInt64(0)
					var hash [20]byte
					s.ColumnBytes(1, hash[:])
					add(m.last, hashPart(hash[:]), name[:s.ColumnBytes(2, name[:])])
					return nil
				}})
			more = rows == rememberPage
			return err
		})
		if err != nil {
			return err // what was added stays right
		}
	}
	m.version.Store(version)
	return nil
}

// Absent reports whether h is certainly not published. False says nothing.
func (db *DB) Absent(ctx context.Context, h storepath.HashPart) (bool, error) {
	m := &db.items
	if !m.filled.Load() {
		return false, nil
	}
	hash := h.Bytes()
	version, err := db.Version(ctx)
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", h, err)
	}
	current := m.version.Load() == version // before it is asked
	if _, there := m.Find(hash); there || current {
		return !there, nil
	}
	if err := db.remember(ctx); err != nil {
		return false, fmt.Errorf("look up %s: %w", h, err)
	}
	_, there := m.Find(hash)
	return !there, nil
}

// base returns the base name of an item that is referenced.
func (db *DB) base(conn *sqlite.Conn, id int64) (storepath.Base, error) {
	if b, ok := db.items.Base(id); ok {
		return b, nil
	}
	if conn == db.writer { // it may be new, and its id another's if this transaction comes to nothing
		return baseOf(conn, id)
	}
	return db.names.of(conn, id)
}

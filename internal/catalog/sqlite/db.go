// Package sqlite is the catalogue in one SQLite file: the embedded default, for one host and any number of processes on it.
//
// One connection writes, several read; write-ahead logging lets both go on at once. A commit is durable (synchronous=FULL), so the
// cost of a change is one flush, and batches share it.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// DB is an open catalogue. It is safe for concurrent use.
type DB struct {
	path    string
	use     *os.File // locked as long as the catalogue is open; see lockFolder
	readers *sqlitex.Pool

	writing chan struct{} // holds the writer's only permit, so that waiting for it obeys a context
	writer  *sqlite.Conn

	texts texts
	names names
	items remembered

	watching sync.Mutex
	watcher  *sqlite.Conn // only ever asks for the data version, so that every commit, also our own, is another's
	index    *logIndex
}

var _ catalog.Catalogue = (*DB)(nil)

// Open opens the catalogue at path, creating and migrating it as needed. The folder must exist. While another process restores a
// catalogue there it fails with catalog.ErrInUse.
func Open(ctx context.Context, path string) (_ *DB, err error) {
	use, err := lockFolder(path, false)
	if err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			use.Close()
		}
	}()
	keepPages()
	db := &DB{path: path, use: use, writing: make(chan struct{}, 1)}
	open := func() (*sqlite.Conn, error) {
		conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenWAL)
		if err != nil {
			return nil, fmt.Errorf("open catalogue %s: %w", path, mapError(err))
		}
		if err := configure(conn, pragmas...); err != nil {
			conn.Close()
			return nil, fmt.Errorf("open catalogue %s: %w", path, err)
		}
		return conn, nil
	}
	if db.writer, err = open(); err != nil {
		return nil, err
	}
	if err = migrate(db.writer); err != nil {
		db.writer.Close()
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	if db.watcher, err = open(); err != nil {
		db.writer.Close()
		return nil, err
	}
	if err = configure(db.watcher, readerCache); err != nil {
		err = errors.Join(err, db.watcher.Close(), db.writer.Close())
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	db.readers, err = sqlitex.NewPool(path, sqlitex.PoolOptions{
		Flags:    sqlite.OpenReadWrite | sqlite.OpenWAL,
		PoolSize: 2 * runtime.GOMAXPROCS(0),
		PrepareConn: func(conn *sqlite.Conn) error {
			return configure(conn, append(slices.Clone(pragmas), "query_only = ON", readerCache)...)
		},
	})
	if err != nil {
		db.writer.Close()
		db.watcher.Close()
		return nil, fmt.Errorf("open catalogue %s: %w", path, mapError(err))
	}
	if db.index, err = mapIndex(path); err != nil {
		err = errors.Join(err, db.readers.Close(), db.watcher.Close(), db.writer.Close())
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	db.writing <- struct{}{}
	return db, nil
}

// Close waits for what is under way and closes the file.
func (db *DB) Close() error {
	<-db.writing
	db.watching.Lock()
	defer db.watching.Unlock()
	err := errors.Join(db.readers.Close(), db.watcher.Close(), db.writer.Close())
	db.index.release() // after the connections, whose locks are on the same file
	return errors.Join(err, db.use.Close())
}

// ObjectsAt implements catalog.Catalogue.
func (db *DB) ObjectsAt(ctx context.Context, where string) (recorded string, err error) {
	err = db.write(ctx, func(conn *sqlite.Conn) error {
		if where != "" {
			if err := sqlitex.Execute(conn, "INSERT OR IGNORE INTO home(only, objects) VALUES(1, ?)", &sqlitex.ExecOptions{Args: []any{where}}); err != nil {
				return err
			}
		}
		return sqlitex.Execute(conn, "SELECT objects FROM home", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			recorded = s.ColumnText(0)
			return nil
		}})
	})
	return recorded, err
}

// read runs f on a connection of its own, within one snapshot.
func (db *DB) read(ctx context.Context, f func(*sqlite.Conn) error) (err error) {
	conn, err := db.readers.Take(ctx)
	if err != nil {
		return fmt.Errorf("read catalogue: %w", context.Cause(ctx))
	}
	defer db.readers.Put(conn)
	defer sqlitex.Transaction(conn)(&err)
	if err := f(conn); err != nil {
		return interrupted(ctx, err)
	}
	return nil
}

// write runs f in a transaction that is durable when write returns nil, and changes nothing otherwise.
func (db *DB) write(ctx context.Context, f func(*sqlite.Conn) error) (err error) {
	select {
	case <-db.writing:
		defer func() { db.writing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("write catalogue: %w", context.Cause(ctx))
	}
	db.writer.SetInterrupt(ctx.Done())
	defer db.writer.SetInterrupt(nil)
	end, err := sqlitex.ImmediateTransaction(db.writer)
	if err != nil {
		return interrupted(ctx, fmt.Errorf("lock catalogue: %w", mapError(err)))
	}
	defer func() {
		end(&err)
		if err != nil {
			err = interrupted(ctx, mapError(err))
		}
	}()
	return f(db.writer)
}

// interrupted gives the context's reason where SQLite only says that it was stopped.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && sqlite.ErrCode(err).ToPrimary() == sqlite.ResultInterrupt {
		return fmt.Errorf("use catalogue: %w", context.Cause(ctx))
	}
	return err
}

// mapError marks a full disk, on which callers decide.
func mapError(err error) error {
	if err != nil && sqlite.ErrCode(err).ToPrimary() == sqlite.ResultFull && !errors.Is(err, catalog.ErrFull) {
		return fmt.Errorf("%w: %w", catalog.ErrFull, err)
	}
	return err
}

package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	narfold "narfold/internal/catalog/sqlite"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// rows is the peer: what one gets who writes down narinfos in tables of text, a row for each reference, as the nar-herder does
// by what is known of it. It has the engine, the durability and the cache of Narfold's catalogue, and only differs in the schema.
type rows struct {
	writer  *sqlite.Conn
	readers *sqlitex.Pool
}

const rowsSchema = `
CREATE TABLE IF NOT EXISTS narinfos(id INTEGER PRIMARY KEY, store_path TEXT NOT NULL UNIQUE, nar_hash TEXT NOT NULL, nar_size INTEGER NOT NULL,
	deriver TEXT, system TEXT, contents TEXT NOT NULL, added_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS narinfo_files(narinfo_id INTEGER NOT NULL, size INTEGER NOT NULL, compression TEXT NOT NULL, hash TEXT, url TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS narinfo_files_narinfo ON narinfo_files(narinfo_id);
CREATE TABLE IF NOT EXISTS narinfo_references(narinfo_id INTEGER NOT NULL, store_path TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS narinfo_references_narinfo ON narinfo_references(narinfo_id);
CREATE INDEX IF NOT EXISTS narinfo_references_path ON narinfo_references(store_path);
`

// rowsPragmas are those of Narfold's catalogue.
var rowsPragmas = []string{"busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL", "cache_size = -65536", "journal_size_limit = 67108864", "temp_store = MEMORY"}

func openRows(ctx context.Context, where string) (_ *rows, err error) {
	if err := tuneAllocator(ctx); err != nil {
		return nil, err
	}
	path := filepath.Join(where, "rows.db")
	prepare := func(conn *sqlite.Conn) error {
		for _, p := range rowsPragmas {
			if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+p, nil); err != nil {
				return fmt.Errorf("set %s: %w", p, err)
			}
		}
		return nil
	}
	writer, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenWAL)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			writer.Close()
		}
	}()
	if err = prepare(writer); err != nil {
		return nil, err
	}
	if err = sqlitex.ExecuteScript(writer, rowsSchema, nil); err != nil {
		return nil, err
	}
	readers, err := sqlitex.NewPool(path, sqlitex.PoolOptions{Flags: sqlite.OpenReadWrite | sqlite.OpenWAL, PoolSize: 2 * runtime.GOMAXPROCS(0), PrepareConn: prepare})
	if err != nil {
		return nil, err
	}
	return &rows{writer, readers}, nil
}

// tuneAllocator opens a catalogue of Narfold, which tunes the allocator that both have: the peer is not to lack it.
func tuneAllocator(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "catalogbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	db, err := narfold.Open(ctx, filepath.Join(folder, "catalogue.db"))
	if err != nil {
		return err
	}
	return db.Close()
}

func (r *rows) Close() error {
	if err := r.readers.Close(); err != nil {
		return err
	}
	return r.writer.Close()
}

func (r *rows) load(ctx context.Context, items iter.Seq2[catalog.Publication, error], batch int) error {
	return inBatches(items, batch, func(ps []catalog.Publication) (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		end, err := sqlitex.ImmediateTransaction(r.writer)
		if err != nil {
			return err
		}
		defer end(&err)
		for i := range ps {
			if err := r.insert(&ps[i]); err != nil {
				return fmt.Errorf("insert %s: %w", ps[i].Path, err)
			}
		}
		return nil
	})
}

func (r *rows) insert(p *catalog.Publication) error {
	n, err := narinfo.Parse(p.Narinfo)
	if err != nil {
		return err
	}
	execute := func(query string, args ...any) error {
		return sqlitex.Execute(r.writer, query, &sqlitex.ExecOptions{Args: args})
	}
	err = execute("INSERT INTO narinfos(store_path, nar_hash, nar_size, deriver, system, contents, added_at) VALUES(?, ?, ?, ?, ?, ?, ?)",
		n.StorePath.String(), n.NarHash.String(), n.NarSize, string(n.Deriver), n.System, string(p.Narinfo), "2026-11-01 12:00:00")
	if err != nil {
		return err
	}
	id := r.writer.LastInsertRowID()
	for i, f := range n.Files {
		err := execute("INSERT INTO narinfo_files(narinfo_id, size, compression, hash, url) VALUES(?, ?, ?, ?, ?)", id, f.FileSize, string(f.Compression), p.Files[i].SHA256.String(), f.URL)
		if err != nil {
			return err
		}
	}
	for _, ref := range n.References {
		if err := execute("INSERT INTO narinfo_references(narinfo_id, store_path) VALUES(?, ?)", id, string(ref)); err != nil {
			return err
		}
	}
	return nil
}

// read runs f on a connection of its own, in a transaction, as Narfold's catalogue does.
func (r *rows) read(ctx context.Context, f func(*sqlite.Conn) error) (err error) {
	conn, err := r.readers.Take(ctx)
	if err != nil {
		return err
	}
	defer r.readers.Put(conn)
	defer sqlitex.Transaction(conn)(&err)
	return f(conn)
}

func (r *rows) find(ctx context.Context, h storepath.HashPart) (bool, error) {
	id, size := int64(0), 0
	err := r.read(ctx, func(conn *sqlite.Conn) error {
		from := string(storepath.Guix) + "/" + string(h)
		err := sqlitex.Execute(conn, "SELECT id, contents FROM narinfos WHERE store_path >= ? AND store_path < ?", &sqlitex.ExecOptions{Args: []any{from + "-", from + "."},
			ResultFunc: func(s *sqlite.Stmt) error {
				id, size = s.ColumnInt64(0), len(s.ColumnText(1))
				return nil
			}})
		if err != nil || id == 0 {
			return err
		}
		files := 0
		err = sqlitex.Execute(conn, "SELECT size, compression, hash, url FROM narinfo_files WHERE narinfo_id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
			_, _, _ = s.ColumnText(1), s.ColumnText(2), s.ColumnText(3)
			files++
			return nil
		}})
		if err == nil && (size == 0 || files == 0) {
			return fmt.Errorf("look up %s: %d bytes and %d files", h, size, files)
		}
		return err
	})
	return id != 0, err
}

func (r *rows) remember(context.Context) (own bool, err error) { return false, nil }

func (r *rows) eachHashPart(ctx context.Context, f func([20]byte)) error {
	return r.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT store_path FROM narinfos", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			p, err := storepath.Parse(s.ColumnText(0))
			if err != nil {
				return err
			}
			f(p.HashPart().Bytes())
			return nil
		}})
	})
}

// scan reads the three tables side by side, each in the order of the items.
func (r *rows) scan(ctx context.Context) (items, references int, err error) {
	err = r.read(ctx, func(conn *sqlite.Conn) error {
		const page = 1000
		for last, n := int64(0), page; n == page; last += page {
			n = 0
			between := &sqlitex.ExecOptions{Args: []any{last, last + page}}
			between.ResultFunc = func(s *sqlite.Stmt) error {
				n++
				_, _, _ = s.ColumnText(1), s.ColumnText(2), s.ColumnText(3)
				return nil
			}
			if err := sqlitex.Execute(conn, "SELECT id, store_path, nar_hash, contents FROM narinfos WHERE id > ? AND id <= ? ORDER BY id", between); err != nil {
				return err
			}
			between.ResultFunc = func(s *sqlite.Stmt) error {
				_, _ = s.ColumnText(1), s.ColumnText(2)
				return nil
			}
			if err := sqlitex.Execute(conn, "SELECT narinfo_id, url, hash FROM narinfo_files WHERE narinfo_id > ? AND narinfo_id <= ? ORDER BY narinfo_id", between); err != nil {
				return err
			}
			between.ResultFunc = func(s *sqlite.Stmt) error {
				_ = s.ColumnText(1)
				references++
				return nil
			}
			if err := sqlitex.Execute(conn, "SELECT narinfo_id, store_path FROM narinfo_references WHERE narinfo_id > ? AND narinfo_id <= ? ORDER BY narinfo_id", between); err != nil {
				return err
			}
			items += n
		}
		return nil
	})
	return items, references, err
}

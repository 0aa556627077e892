package sqlite

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Item implements catalog.Reader.
func (db *DB) Item(ctx context.Context, h storepath.HashPart) (it catalog.Item, err error) {
	found := false
	id, _ := db.items.Find(h.Bytes())
	err = db.read(ctx, func(conn *sqlite.Conn) (err error) {
		if id != 0 { // which saves a search, and may have been withdrawn since, and have come back under another
			if it, found, err = db.one(conn, "WHERE items.id = ?", id); err != nil || found {
				return err
			}
		}
		it, found, err = db.one(conn, "WHERE items.hash = ?", order(h))
		return err
	})
	switch {
	case err != nil:
		return catalog.Item{}, fmt.Errorf("look up %s: %w", h, err)
	case !found:
		return catalog.Item{}, fmt.Errorf("look up %s: %w", h, catalog.ErrNotFound)
	}
	return it, nil
}

// Missing implements catalog.Reader.
func (db *DB) Missing(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		for _, h := range hs {
			n, err := scalar(conn, "SELECT count(*) FROM items WHERE hash = ?", order(h))
			if err != nil {
				return err
			}
			if n == 0 {
				missing = append(missing, h)
			}
		}
		return nil
	})
	return missing, err
}

// Files implements catalog.Reader.
func (db *DB) Files(ctx context.Context, narHashes []digest.SHA256) (all [][]catalog.File, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		all = make([][]catalog.File, len(narHashes))
		for i := range narHashes {
			nar, err := scalar(conn, "SELECT id FROM nars WHERE hash = ?", narHashes[i][:])
			if err != nil {
				return err
			}
			if nar == 0 {
				continue
			}
			if all[i], err = files(conn, nar); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// page is how many rows a walk reads at a time, so that a slow consumer does not hold a snapshot, and with it the log, open.
const page = 1000

// walk yields what read gives, page after page, until a page is empty.
func walk[T any](ctx context.Context, db *DB, what string, read func(conn *sqlite.Conn, last *T) ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var last *T
		for {
			var rows []T
			err := db.read(ctx, func(conn *sqlite.Conn) (err error) {
				rows, err = read(conn, last)
				return err
			})
			if err != nil {
				var zero T
				yield(zero, fmt.Errorf("walk %s: %w", what, err))
				return
			}
			for i := range rows {
				if !yield(rows[i], nil) {
					return
				}
			}
			if len(rows) < page {
				return
			}
			last = &rows[len(rows)-1]
		}
	}
}

// Items implements catalog.Reader.
func (db *DB) Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error] {
	return walk(ctx, db, "items", func(conn *sqlite.Conn, last *catalog.Item) (items []catalog.Item, err error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		var rows []itemRow
		err = sqlitex.Execute(conn, selectItem+"WHERE items.id > ? ORDER BY items.id LIMIT ?", &sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
			rows = append(rows, scanItem(s))
			return nil
		}})
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			it, err := db.complete(conn, r, db.texts.of)
			if err != nil {
				return nil, err
			}
			items = append(items, it)
		}
		return items, nil
	})
}

// EachHashPart implements catalog.Reader.
func (db *DB) EachHashPart(ctx context.Context, after int64, f func([20]byte)) (last int64, err error) {
	// For all of them the index is read, which has nothing else in it; the rows are fifty times as wide.
	query := "SELECT hash FROM items INDEXED BY items_by_hash WHERE hash >= x'' AND ? = 0"
	if after != 0 {
		query = "SELECT hash FROM items WHERE id > ?"
	}
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		if last, err = scalar(conn, "SELECT coalesce(max(id), 0) FROM items"); err != nil {
			return err
		}
		return sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: []any{after}, ResultFunc: func(s *sqlite.Stmt) error {
			var hash [20]byte
			s.ColumnBytes(0, hash[:])
			f(hashPart(hash[:]))
			return nil
		}})
	})
	if err != nil {
		return 0, fmt.Errorf("walk hash parts: %w", err)
	}
	return max(last, after), nil
}

// Counts implements catalog.Reader.
func (db *DB) Counts(ctx context.Context) (c catalog.Counts, err error) {
	c.Dirs = make(map[storepath.Dir]int64)
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, `SELECT (SELECT coalesce(sum(items), 0) FROM sums), (SELECT count(*) FROM waiting), nars, nar_bytes, files, bytes,
			(SELECT count(*) FROM uploads) FROM narsums`, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			c.Items, c.Waiting, c.Nars, c.NarBytes = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)
			c.Files, c.Bytes, c.Uploads = s.ColumnInt64(4), s.ColumnInt64(5), s.ColumnInt64(6)
			return nil
		}})
		if err != nil {
			return err
		}
		return sqlitex.Execute(conn, "SELECT texts.text, items FROM sums JOIN texts ON texts.id = dir", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			c.Dirs[storepath.Dir(s.ColumnText(0))] = s.ColumnInt64(1)
			return nil
		}})
	})
	if err != nil {
		return catalog.Counts{}, fmt.Errorf("count the catalogue: %w", err)
	}
	return c, nil
}

package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Keys implements catalog.Accounts.
func (db *DB) Keys(ctx context.Context) iter.Seq2[catalog.File, error] {
	return walk(ctx, db, "files", func(conn *sqlite.Conn, last *catalog.File) ([]catalog.File, error) {
		from := objstore.Key("")
		if last != nil {
			from = last.Key
		}
		return keysAfter(conn, from, page)
	})
}

// Owner implements catalog.Accounts.
func (db *DB) Owner(ctx context.Context, k objstore.Key) (state catalog.KeyState, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		_, live, err := fileRow(conn, k)
		if err != nil {
			return err
		}
		if live {
			state = catalog.KeyLive
			return nil
		}
		for _, q := range []struct {
			query string
			state catalog.KeyState
		}{
			{"SELECT count(*) FROM uploads WHERE key = ?", catalog.KeyUpload},
			{"SELECT count(*) FROM logs WHERE key = ?", catalog.KeyLog},
			{"SELECT count(*) FROM condemned_files WHERE key = ?", catalog.KeyCondemned},
		} {
			n, err := scalar(conn, q.query, string(k))
			if err != nil {
				return err
			}
			if n > 0 {
				state = q.state
				return nil
			}
		}
		spent, err := isSpent(conn, k)
		if err != nil {
			return err
		}
		if spent {
			state = catalog.KeySpent
			return nil
		}
		return fmt.Errorf("look up key %s: %w", k, catalog.ErrNotFound)
	})
	return state, err
}

// Uploads implements catalog.Accounts.
func (db *DB) Uploads(ctx context.Context) iter.Seq2[catalog.Upload, error] {
	return walk(ctx, db, "uploads", func(conn *sqlite.Conn, last *catalog.Upload) (us []catalog.Upload, err error) {
		from := ""
		if last != nil {
			from = string(last.Key)
		}
		err = sqlitex.Execute(conn, "SELECT key, since, item FROM uploads WHERE key > ? ORDER BY key LIMIT ?",
			&sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
				us = append(us, catalog.Upload{Key: objstore.Key(s.ColumnText(0)), Since: fromMillis(s.ColumnInt64(1)), For: storepath.Base(s.ColumnText(2))})
				return nil
			}})
		return us, err
	})
}

// Abandon implements catalog.Accounts.
func (db *DB) Abandon(ctx context.Context, k objstore.Key, before time.Time) (ok bool, err error) {
	err = db.write(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, "UPDATE uploads SET state = 1 WHERE key = ? AND item = '' AND (state = 1 OR since < ?)",
			&sqlitex.ExecOptions{Args: []any{string(k), millis(before)}})
		ok = conn.Changes() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("abandon upload %s: %w", k, err)
	}
	return ok, nil
}

// Abandoned implements catalog.Accounts.
func (db *DB) Abandoned(ctx context.Context, k objstore.Key) error {
	return db.write(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "DELETE FROM uploads WHERE key = ? AND state = 1", &sqlitex.ExecOptions{Args: []any{string(k)}})
	})
}

// WaitingItems implements catalog.Accounts.
func (db *DB) WaitingItems(ctx context.Context) iter.Seq2[catalog.WaitingItem, error] {
	return walk(ctx, db, "waiting items", func(conn *sqlite.Conn, last *catalog.WaitingItem) (ws []catalog.WaitingItem, err error) {
		from := []byte{}
		if last != nil {
			b := last.Path.HashPart().Bytes()
			from = b[:]
		}
		err = sqlitex.Execute(conn, "SELECT hash, since, publication FROM waiting WHERE hash > ? ORDER BY hash LIMIT ?", &sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
			var p catalog.Publication
			if err := json.Unmarshal(columnBytes(s, 2), &p); err != nil {
				return fmt.Errorf("read waiting item: %w", err)
			}
			w := catalog.WaitingItem{Path: p.Path, Since: fromMillis(s.ColumnInt64(1))}
			hash := p.Path.HashPart().Bytes()
			err := sqlitex.Execute(conn, "SELECT missing FROM waiting_for WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{hash[:]}, ResultFunc: func(s *sqlite.Stmt) error {
				w.Missing = append(w.Missing, storepath.HashPartOf([20]byte(columnBytes(s, 0))))
				return nil
			}})
			ws = append(ws, w)
			return err
		}})
		return ws, err
	})
}

// Differences implements catalog.Accounts.
func (db *DB) Differences(ctx context.Context) iter.Seq2[catalog.Difference, error] {
	return func(yield func(catalog.Difference, error) bool) {
		var all []catalog.Difference
		err := db.read(ctx, func(conn *sqlite.Conn) error {
			return sqlitex.Execute(conn, "SELECT path, live, other, by, seen FROM differences ORDER BY seen, path", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
				p, err := storepath.Parse(s.ColumnText(0))
				d := catalog.Difference{Path: p, By: s.ColumnText(3), Seen: fromMillis(s.ColumnInt64(4))}
				copy(d.Live[:], columnBytes(s, 1))
				copy(d.Other[:], columnBytes(s, 2))
				all = append(all, d)
				return err
			}})
		})
		if err != nil {
			yield(catalog.Difference{}, fmt.Errorf("walk differences: %w", err))
			return
		}
		for _, d := range all {
			if !yield(d, nil) {
				return
			}
		}
	}
}

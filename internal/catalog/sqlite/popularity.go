package sqlite

import (
	"context"
	"fmt"
	"iter"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// popularity has rows for items that were asked for, by hash part, since an item that comes back has another id.
const popularity = `
-- How often nars were asked for. day is the last one, counted from 1970.
CREATE TABLE served(hash BLOB NOT NULL PRIMARY KEY, times INTEGER NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID;
`

var _ catalog.Popularity = (*DB)(nil)

const secondsOfDay = 24 * 60 * 60

// RecordServed implements catalog.Popularity.
func (db *DB) RecordServed(ctx context.Context, served []catalog.Served) error {
	if len(served) == 0 {
		return nil
	}
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		for _, s := range served {
			err := sqlitex.Execute(conn, `INSERT INTO served(hash, times, day) SELECT hash, ?, ? FROM items WHERE hash = ?
				ON CONFLICT(hash) DO UPDATE SET times = times + excluded.times, day = max(day, excluded.day)`,
				&sqlitex.ExecOptions{Args: []any{s.Times, s.Last.Unix() / secondsOfDay, order(s.Hash)}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record what was served: %w", err)
	}
	return nil
}

// EachServed implements catalog.Popularity.
func (db *DB) EachServed(ctx context.Context) iter.Seq2[catalog.Served, error] {
	return walk(ctx, db, "what was served", func(conn *sqlite.Conn, last *catalog.Served) (all []catalog.Served, err error) {
		after := []byte{}
		if last != nil {
			after = order(last.Hash)
		}
		err = sqlitex.Execute(conn, "SELECT served.hash, times, day FROM served JOIN items ON items.hash = served.hash WHERE served.hash > ? ORDER BY served.hash LIMIT ?",
			&sqlitex.ExecOptions{Args: []any{after, page}, ResultFunc: func(s *sqlite.Stmt) error {
				var hash [20]byte
				s.ColumnBytes(0, hash[:])
				all = append(all, catalog.Served{Hash: storepath.HashPartOf(hashPart(hash[:])), Times: s.ColumnInt64(1), Last: time.Unix(s.ColumnInt64(2)*secondsOfDay, 0).UTC()})
				return nil
			}})
		return all, err
	})
}

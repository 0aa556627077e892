package postgres

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// popularity has rows for items that were asked for, by hash part, since an item that comes back has another id.
const popularity = `
-- How often nars were asked for. day is the last one, counted from 1970.
CREATE TABLE served(hash bytea PRIMARY KEY CHECK (octet_length(hash) = 20), times bigint NOT NULL, day integer NOT NULL);
`

var _ catalog.Popularity = (*DB)(nil)

const secondsOfDay = 24 * 60 * 60

// RecordServed implements catalog.Popularity.
func (db *DB) RecordServed(ctx context.Context, served []catalog.Served) error {
	if len(served) == 0 {
		return nil
	}
	hashes, times, days := make([][]byte, len(served)), make([]int64, len(served)), make([]int32, len(served))
	for i, s := range served {
		h := s.Hash.Bytes()
		hashes[i], times[i], days[i] = h[:], s.Times, int32(s.Last.Unix()/secondsOfDay)
	}
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		// In one order, so that two herders wait for each other at most once.
		_, err := tx.Exec(ctx, `INSERT INTO served SELECT s.* FROM unnest($1::bytea[], $2::bigint[], $3::integer[]) s(hash, times, day)
			WHERE EXISTS (SELECT 1 FROM items WHERE items.hash = s.hash) ORDER BY s.hash
			ON CONFLICT(hash) DO UPDATE SET times = served.times + excluded.times, day = greatest(served.day, excluded.day)`, hashes, times, days)
		return err
	})
	if err != nil {
		return fmt.Errorf("record what was served: %w", err)
	}
	return nil
}

// EachServed implements catalog.Popularity.
func (db *DB) EachServed(ctx context.Context) iter.Seq2[catalog.Served, error] {
	return walk("what was served", func(last *catalog.Served) ([]catalog.Served, error) {
		after := []byte{}
		if last != nil {
			h := last.Hash.Bytes()
			after = h[:]
		}
		return rows(ctx, db, func(row pgx.CollectableRow) (s catalog.Served, err error) {
			var hash []byte
			var day int64
			if err = row.Scan(&hash, &s.Times, &day); err != nil {
				return s, err
			}
			s.Hash, s.Last = storepath.HashPartOf([20]byte(hash)), time.Unix(day*secondsOfDay, 0).UTC()
			return s, nil
		}, "SELECT served.hash, times, day FROM served JOIN items USING (hash) WHERE served.hash > $1 ORDER BY served.hash LIMIT $2", after, page)
	})
}

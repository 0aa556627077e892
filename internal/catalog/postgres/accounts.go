package postgres

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Keys implements catalog.Accounts.
func (db *DB) Keys(ctx context.Context) iter.Seq2[catalog.File, error] {
	return walk("files", func(last *catalog.File) ([]catalog.File, error) {
		from := ""
		if last != nil {
			from = string(last.Key)
		}
		return rows(ctx, db, scanFile, "SELECT "+fileColumns+" FROM objects o WHERE key > $1 AND state = 2 ORDER BY key LIMIT $2", from, page)
	})
}

// Owner implements catalog.Accounts.
func (db *DB) Owner(ctx context.Context, k objstore.Key) (catalog.KeyState, error) {
	first, generation := string(k), 0
	if m, b, n, err := catalog.ParseNarKey(k); err == nil {
		first, generation = string(catalog.NarKey(m, b, 1)), n
	}
	states, err := rows(ctx, db, pgx.RowTo[int64], `SELECT coalesce((SELECT CASE state WHEN 2 THEN $2::bigint WHEN 3 THEN $3 ELSE $4 END FROM objects WHERE key = $1),
		(SELECT $5::bigint FROM logs WHERE key = $1 LIMIT 1), (SELECT $6::bigint FROM spent WHERE key = $7 AND generation >= $8), 0)`,
		string(k), int64(catalog.KeyLive), int64(catalog.KeyCondemned), int64(catalog.KeyUpload), int64(catalog.KeyLog), int64(catalog.KeySpent), first, generation)
	switch {
	case err != nil:
		return 0, fmt.Errorf("look up key %s: %w", k, err)
	case states[0] == 0:
		return 0, fmt.Errorf("look up key %s: %w", k, catalog.ErrNotFound)
	}
	return catalog.KeyState(states[0]), nil
}

// Uploads implements catalog.Accounts.
func (db *DB) Uploads(ctx context.Context) iter.Seq2[catalog.Upload, error] {
	return walk("uploads", func(last *catalog.Upload) ([]catalog.Upload, error) {
		from := ""
		if last != nil {
			from = string(last.Key)
		}
		return rows(ctx, db, func(r pgx.CollectableRow) (catalog.Upload, error) {
			var (
				key, item string
				since     int64
			)
			err := r.Scan(&key, &since, &item)
			return catalog.Upload{Key: objstore.Key(key), Since: fromMillis(since), For: storepath.Base(item)}, err
		}, "SELECT key, since, item FROM objects WHERE key > $1 AND state < 2 ORDER BY key LIMIT $2", from, page)
	})
}

// Abandon implements catalog.Accounts. The time before which keys were handed out is compared with the server's clock.
func (db *DB) Abandon(ctx context.Context, k objstore.Key, before time.Time) (ok bool, err error) {
	err = db.write(ctx, begin, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE objects SET state = 1 WHERE key = $1 AND item = '' AND (state = 1 OR state = 0 AND since < $2)", string(k), millis(before))
		ok = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("abandon upload %s: %w", k, err)
	}
	return ok, nil
}

// Abandoned implements catalog.Accounts.
func (db *DB) Abandoned(ctx context.Context, k objstore.Key) error {
	// Alone, because somebody who hands out keys may have looked before Replace put this one out of service, and would take it for
	// one that never was.
	err := db.write(ctx, beginForgetting, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM objects WHERE key = $1 AND state = 1", string(k))
		return err
	})
	if err != nil {
		return fmt.Errorf("forget upload %s: %w", k, err)
	}
	return nil
}

// WaitingItems implements catalog.Accounts.
func (db *DB) WaitingItems(ctx context.Context) iter.Seq2[catalog.WaitingItem, error] {
	return walk("waiting items", func(last *catalog.WaitingItem) ([]catalog.WaitingItem, error) {
		from := []byte{}
		if last != nil {
			b := last.Path.HashPart().Bytes()
			from = b[:]
		}
		return rows(ctx, db, func(r pgx.CollectableRow) (w catalog.WaitingItem, err error) {
			var (
				path    string
				since   int64
				missing [][]byte
			)
			if err := r.Scan(&path, &since, &missing); err != nil {
				return w, err
			}
			w.Since = fromMillis(since)
			for _, m := range missing {
				w.Missing = append(w.Missing, storepath.HashPartOf([20]byte(m)))
			}
			w.Path, err = storepath.Parse(path)
			return w, err
		}, `SELECT w.path, w.since, ARRAY(SELECT f.missing FROM waiting_for f WHERE f.hash = w.hash ORDER BY f.missing)
			FROM waiting w WHERE w.hash > $1 ORDER BY w.hash LIMIT $2`, from, page)
	})
}

// Differences implements catalog.Accounts.
func (db *DB) Differences(ctx context.Context) iter.Seq2[catalog.Difference, error] {
	return func(yield func(catalog.Difference, error) bool) {
		all, err := rows(ctx, db, func(r pgx.CollectableRow) (d catalog.Difference, err error) {
			var (
				path        string
				live, other []byte
				seen        int64
			)
			if err := r.Scan(&path, &live, &other, &d.By, &seen); err != nil {
				return d, err
			}
			d.Live, d.Other, d.Seen = digest.SHA256(live), digest.SHA256(other), fromMillis(seen)
			d.Path, err = storepath.Parse(path)
			return d, err
		}, `SELECT path, live, other, by, seen FROM differences ORDER BY seen, path COLLATE "C", other`)
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

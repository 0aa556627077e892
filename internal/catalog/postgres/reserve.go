package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// Reserve implements catalog.Publisher. It waits for nobody who publishes, except for the rows of the keys themselves.
func (db *DB) Reserve(ctx context.Context, wants []catalog.Want) ([]objstore.Key, error) {
	if len(wants) == 0 {
		return nil, nil
	}
	var keys []objstore.Key
	err := db.write(ctx, beginReserving, func(tx pgx.Tx) (err error) {
		keys, err = reserve(ctx, tx, wants)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reserve %d keys: %w", len(wants), err)
	}
	return keys, nil
}

// reserve looks at all keys that the wanted items have, chooses, and asks again for those that another transaction took meanwhile.
func reserve(ctx context.Context, tx pgx.Tx, wants []catalog.Want) ([]objstore.Key, error) {
	ones := make([]string, len(wants))
	for i, w := range wants {
		ones[i] = string(catalog.NarKey(w.Compression, w.Base, 1))
	}
	answer, err := tx.Query(ctx, `SELECT w.i, o.key, o.state FROM unnest($1::text[]) WITH ORDINALITY AS w(one, i) CROSS JOIN LATERAL
		(SELECT key, state FROM objects WHERE key = w.one UNION ALL SELECT key, state FROM objects WHERE key > w.one || ';' AND key < w.one || '<'
			UNION ALL SELECT CASE generation WHEN 1 THEN key ELSE key || ';' || generation END, 3 FROM spent WHERE key = w.one) AS o`, ones)
	if err != nil {
		return nil, err
	}
	var (
		i     int
		key   string
		state int16
		taken = make([]map[int]bool, len(wants)) // generations that are being cleaned up, or were when we asked
		next  = make([]int, len(wants))
	)
	// Before the last generation that is or was published no key is handed out: somebody may still hold its URL, or be about to delete its
	// object.
	_, err = pgx.ForEachRow(answer, []any{&i, &key, &state}, func() error {
		_, _, generation, err := catalog.ParseNarKey(objstore.Key(key))
		switch {
		case err != nil:
			return err
		case state == stateFile, state == stateCondemned:
			next[i-1] = max(next[i-1], generation)
		case state == stateAbandoned:
			if taken[i-1] == nil {
				taken[i-1] = make(map[int]bool)
			}
			taken[i-1][generation] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, w := range wants {
		if w.After != "" {
			_, _, last, err := catalog.ParseNarKey(w.After)
			if err != nil {
				return nil, err
			}
			next[i] = max(next[i], last)
		}
		next[i]++
	}

	keys := make([]objstore.Key, len(wants))
	for {
		var ask []string
		for i, w := range wants {
			if keys[i] != "" {
				continue
			}
			for taken[i][next[i]] {
				next[i]++
			}
			ask = append(ask, string(catalog.NarKey(w.Compression, w.Base, next[i])))
		}
		if len(ask) == 0 {
			return keys, nil
		}
		got, err := take(ctx, tx, ask)
		if err != nil {
			return nil, err
		}
		for i, w := range wants {
			if keys[i] != "" {
				continue
			}
			if k := catalog.NarKey(w.Compression, w.Base, next[i]); got[string(k)] {
				keys[i] = k
			} else {
				next[i]++
			}
		}
	}
}

// take records keys as uploads, and returns those for which that was possible. All take their keys in ascending order, so that none
// waits for another in a circle.
func take(ctx context.Context, tx pgx.Tx, keys []string) (map[string]bool, error) {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	answer, err := tx.Query(ctx, `INSERT INTO objects(key, state, since) SELECT key, 0, `+serverTime+` FROM unnest($1::text[]) WITH ORDINALITY AS w(key, i) ORDER BY i
		ON CONFLICT (key) DO UPDATE SET since = excluded.since WHERE objects.state = 0 RETURNING key`, slices.Compact(keys))
	if err != nil {
		return nil, err
	}
	var (
		key string
		got = make(map[string]bool, len(keys))
	)
	_, err = pgx.ForEachRow(answer, []any{&key}, func() error {
		got[key] = true
		return nil
	})
	return got, err
}

// RecordVerified implements catalog.Publisher.
func (db *DB) RecordVerified(ctx context.Context, keys []objstore.Key, at time.Time) error {
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE objects SET verified = $1 WHERE key = ANY($2) AND state = 2", millis(at), texts(keys))
		return err
	})
	if err != nil {
		return fmt.Errorf("record the verification of %d files: %w", len(keys), err)
	}
	return nil
}

// texts returns names as the driver takes them.
func texts[S ~string](names []S) []string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = string(n)
	}
	return all
}

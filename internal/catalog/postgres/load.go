package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// load reads what the publication of entries, or the return of condemned items, depends on: in one round trip, and when anything waits for one
// of them, or is condemned that they name, in some more.
func load(ctx context.Context, tx pgx.Tx, entries []entry, back [][]byte) (*publishing, error) {
	t := &publishing{
		ids: make(map[hashPart]int64), base: make(map[hashPart]storepath.Base), content: make(map[hashPart]digest.SHA256), byHash: make(map[digest.SHA256]*nar), states: make(map[objstore.Key]int16),
		dirs: make(map[storepath.Dir]int32), waiters: make(map[hashPart]*waiter), waitersFor: make(map[hashPart][]hashPart),
		kept: make(map[hashPart]*entry), held: make(map[objstore.Key]storepath.Base), condemned: make(map[hashPart]*condemned),
	}
	b := &pgx.Batch{}
	// With the row locked, a newer version that migrates waits too, should it not know of the advisory lock.
	b.Queue("SELECT version, item, nar, change, " + serverTime + ", EXISTS (SELECT 1 FROM waiting), EXISTS (SELECT 1 FROM condemned WHERE deleting = 0), (SELECT coalesce(max(id), 0) FROM templates) FROM narfold_catalogue FOR UPDATE").QueryRow(func(r pgx.Row) error {
		var version int
		if err := r.Scan(&version, &t.items, &t.nars, &t.changes, &t.now, &t.anyWaits, &t.anyCondemned, &t.templates); err != nil {
			return err
		}
		return known(version, len(migrations))
	})
	b.Queue("SELECT id, dir FROM dirs").Query(func(r pgx.Rows) error {
		var (
			id  int32
			dir string
		)
		_, err := pgx.ForEachRow(r, []any{&id, &dir}, func() error {
			t.dirs[storepath.Dir(dir)] = id
			return nil
		})
		return err
	})
	named := t.queue(b, entries, back)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("look up %d items: %w", len(entries)+len(back), err)
	}
	if t.anyWaits && len(entries) > 0 {
		waiting, err := t.loadWaiters(ctx, tx, entries)
		if err != nil {
			return nil, err
		}
		if len(waiting) > 0 {
			b = &pgx.Batch{}
			named = append(named, t.queue(b, waiting, nil)...)
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return nil, fmt.Errorf("look up %d items that wait: %w", len(waiting), err)
			}
		}
	}
	if t.anyCondemned {
		if err := t.loadCondemned(ctx, tx, named); err != nil {
			return nil, fmt.Errorf("look up what is condemned: %w", err)
		}
	}
	return t, nil
}

// queue has the rows read that publications name, and returns the hash parts of all items among them.
func (t *publishing) queue(b *pgx.Batch, entries []entry, back [][]byte) (all [][]byte) {
	var (
		own, nars [][]byte
		keys      []string
		seen      = make(map[hashPart]bool)
	)
	for _, h := range back {
		if !seen[hashPart(h)] {
			seen[hashPart(h)] = true
			all = append(all, h)
		}
	}
	for i := range entries {
		e := &entries[i]
		own = append(own, e.hash[:])
		if !seen[e.hash] {
			seen[e.hash] = true
			all = append(all, e.hash[:])
		}
		for j := range e.refs {
			if r := &e.refs[j]; !seen[*r] {
				seen[*r] = true
				all = append(all, r[:])
			}
		}
		if t.byHash[e.NarHash] == nil {
			t.byHash[e.NarHash] = newNarFiles()
			nars = append(nars, e.NarHash[:])
		}
		for _, f := range e.Files {
			keys = append(keys, string(f.Key))
		}
	}
	b.Queue("SELECT hash, id, name FROM items WHERE hash = ANY($1)", all).Query(func(r pgx.Rows) error {
		var (
			hash []byte
			id   int64
			name string
		)
		_, err := pgx.ForEachRow(r, []any{&hash, &id, &name}, func() error {
			t.ids[hashPart(hash)], t.base[hashPart(hash)] = id, baseOf(hash, name)
			return nil
		})
		return err
	})
	if len(entries) == 0 {
		return all
	}
	b.Queue("SELECT i.hash, n.hash FROM items i JOIN nars n ON n.id = i.nar WHERE i.hash = ANY($1)", own).Query(func(r pgx.Rows) error {
		var hash, content []byte
		_, err := pgx.ForEachRow(r, []any{&hash, &content}, func() error {
			t.content[hashPart(hash)] = digest.SHA256(content)
			return nil
		})
		return err
	})
	t.queueNars(b, nars)
	// Locked, so that nobody begins to clean up what becomes a file now.
	b.Queue("SELECT key, state FROM objects WHERE key = ANY($1) ORDER BY key FOR UPDATE", keys).Query(func(r pgx.Rows) error {
		var (
			key   string
			state int16
		)
		_, err := pgx.ForEachRow(r, []any{&key, &state}, func() error {
			t.states[objstore.Key(key)] = state
			return nil
		})
		return err
	})
	return all
}

// queueNars has nars read that t.byHash has places for.
func (t *publishing) queueNars(b *pgx.Batch, hashes [][]byte) {
	b.Queue("SELECT n.id, n.hash, n.size, n.state, o.compression, o.key, o.size, o.sha256 FROM nars n LEFT JOIN objects o ON o.nar = n.id WHERE n.hash = ANY($1) AND n.state < 2", hashes).Query(func(r pgx.Rows) error {
		var (
			id, size         int64
			state            int16
			hash, sum        []byte
			compression, key *string
			length           *int64
		)
		_, err := pgx.ForEachRow(r, []any{&id, &hash, &size, &state, &compression, &key, &length, &sum}, func() error {
			n := t.byHash[digest.SHA256(hash)]
			n.id, n.size, n.condemned = id, size, state == narCondemned
			if key != nil {
				m := compress.Method(*compression)
				n.files[m] = catalog.File{Compression: m, Key: objstore.Key(*key), Size: *length, SHA256: digest.SHA256(sum)}
			}
			return nil
		})
		return err
	})
}

// loadWaiters reads the items that wait for nothing but what entries and such items may publish: step by step, so that of all
// that waits for something only those are read that can be released.
func (t *publishing) loadWaiters(ctx context.Context, tx pgx.Tx, entries []entry) (found []entry, err error) {
	var fresh, all [][]byte // hash parts that may be published in this transaction
	for i := range entries {
		if h := &entries[i].hash; t.ids[*h] == 0 {
			fresh = append(fresh, h[:])
		}
	}
	known := [][]byte{}
	for len(fresh) > 0 {
		all = append(all, fresh...)
		answer, err := tx.Query(ctx, `SELECT w.publication, ARRAY(SELECT missing FROM waiting_for f WHERE f.hash = w.hash) FROM waiting w
			WHERE w.hash = ANY(ARRAY(SELECT DISTINCT hash FROM waiting_for WHERE missing = ANY($1) AND hash <> ALL($2)))
			AND NOT EXISTS (SELECT 1 FROM waiting_for f WHERE f.hash = w.hash AND f.missing <> ALL($3))`, fresh, known, all)
		if err != nil {
			return nil, fmt.Errorf("look up what waits: %w", err)
		}
		var blob []byte
		var missing [][]byte
		fresh = nil
		_, err = pgx.ForEachRow(answer, []any{&blob, &missing}, func() error {
			p := new(catalog.Publication)
			if err := json.Unmarshal(blob, p); err != nil {
				return fmt.Errorf("read waiting item: %w", err)
			}
			w := &waiter{entry: newEntry(p), missing: len(missing)}
			for _, m := range missing {
				t.waitersFor[hashPart(m)] = append(t.waitersFor[hashPart(m)], w.hash)
			}
			t.waiters[w.hash] = w
			found = append(found, w.entry)
			fresh, known = append(fresh, w.hash[:]), append(known, w.hash[:])
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look up what waits: %w", err)
		}
	}
	for _, by := range t.waitersFor {
		slices.SortFunc(by, compareHashParts)
	}
	return found, nil
}

package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// condemned is a condemned item that can be brought back.
type condemned struct {
	id   int64
	hash hashPart
	nar  digest.SHA256
	refs []hashPart
}

// revived is an item that is brought back.
type revived struct {
	was, now int64
	refs     []byte
}

// loadCondemned reads those of hashes that are condemned and can be brought back, and those that these reference: step by step, since who is
// referenced is told by the packed references alone.
func (t *publishing) loadCondemned(ctx context.Context, tx pgx.Tx, hashes [][]byte) error {
	var ask [][]byte
	for _, h := range hashes {
		if t.ids[hashPart(h)] == 0 {
			ask = append(ask, h)
		}
	}
	var nars [][]byte
	for len(ask) > 0 {
		var (
			id              int64
			name            string
			hash, nar, refs []byte
			found           []*condemned
			ids             = make(map[*condemned][]int64)
			wanted          = make(map[int64]hashPart) // which item has, or had, the id
		)
		answer, err := tx.Query(ctx, `SELECT c.id, c.hash, c.name, n.hash, r.refs FROM condemned c JOIN condemned_refs r ON r.id = c.id JOIN nars n ON n.id = c.nar
			WHERE c.hash = ANY($1) AND c.deleting = 0`, ask)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(answer, []any{&id, &hash, &name, &nar, &refs}, func() error {
			c := &condemned{id: id, hash: hashPart(hash), nar: digest.SHA256(nar)}
			t.condemned[c.hash], t.base[c.hash] = c, baseOf(hash, name)
			found = append(found, c)
			if t.byHash[c.nar] == nil {
				t.byHash[c.nar] = newNarFiles()
				nars = append(nars, c.nar[:])
			}
			return eachReference(id, refs, func(ref int64) {
				ids[c] = append(ids[c], ref)
				wanted[ref] = hashPart{}
			})
		})
		if err != nil {
			return err
		}
		ask = nil
		if err := t.resolve(ctx, tx, wanted); err != nil {
			return err
		}
		seen := make(map[hashPart]bool)
		for _, c := range found {
			for _, ref := range ids[c] {
				h := wanted[ref]
				if h == (hashPart{}) {
					return fmt.Errorf("%w: %s is condemned, and its reference %d is not there", catalog.ErrDamaged, storepath.HashPartOf(c.hash), ref)
				}
				c.refs = append(c.refs, h)
				if !t.canBe(h) && !seen[h] {
					seen[h] = true
					ask = append(ask, h[:])
				}
			}
		}
	}
	if len(nars) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	t.queueNars(b, nars)
	return tx.SendBatch(ctx, b).Close()
}

func newNarFiles() *nar { return &nar{files: make(map[compress.Method]catalog.File)} }

// resolve finds out which items the ids are or were of, and the ids of those that are live.
func (t *publishing) resolve(ctx context.Context, tx pgx.Tx, wanted map[int64]hashPart) error {
	if len(wanted) == 0 {
		return nil
	}
	ids := make([]int64, 0, len(wanted))
	for id := range wanted {
		ids = append(ids, id)
	}
	answer, err := tx.Query(ctx, `SELECT u.id, i.hash, i.name, i.id FROM unnest($1::bigint[]) AS u(id) LEFT JOIN former f ON f.id = u.id JOIN items i ON i.id = coalesce(f.now, u.id)
		UNION ALL SELECT u.id, c.hash, c.name, 0 FROM unnest($1::bigint[]) AS u(id) LEFT JOIN former f ON f.id = u.id JOIN condemned c ON c.id = coalesce(f.now, u.id) AND c.deleting = 0`, ids)
	if err != nil {
		return err
	}
	var (
		id, live int64
		hash     []byte
		name     string
	)
	_, err = pgx.ForEachRow(answer, []any{&id, &hash, &name, &live}, func() error {
		h := hashPart(hash)
		wanted[id] = h
		if live != 0 {
			t.ids[h], t.base[h] = live, baseOf(hash, name)
		}
		return nil
	})
	return err
}

// canBe reports whether an item is live, or can be brought back.
func (t *publishing) canBe(h hashPart) bool { return t.ids[h] != 0 || t.condemned[h] != nil }

// reviveFor brings back an item that is to be published, if it is condemned, and those of its references that are.
func (t *publishing) reviveFor(e *entry) error {
	if len(t.condemned) == 0 {
		return nil
	}
	if err := t.revive(e.hash); err != nil {
		return err
	}
	for _, r := range e.refs {
		if err := t.revive(r); err != nil {
			return err
		}
	}
	return nil
}

// revive makes a condemned item live again, after everything that it references. Others it passes over.
func (t *publishing) revive(h hashPart) error {
	c := t.condemned[h]
	if c == nil || t.ids[h] != 0 {
		return nil
	}
	for _, r := range c.refs {
		if err := t.revive(r); err != nil {
			return err
		}
		if t.ids[r] == 0 {
			return fmt.Errorf("%w: %s is condemned, and its reference %s is not there", catalog.ErrDamaged, storepath.HashPartOf(h), storepath.HashPartOf(r))
		}
	}
	n := t.byHash[c.nar]
	if n.id == 0 {
		return fmt.Errorf("%w: %s is condemned, and its nar is not there", catalog.ErrDamaged, storepath.HashPartOf(h))
	}
	t.reviveNar(n)
	t.items++
	t.revived = append(t.revived, revived{c.id, t.items, t.distances(c.refs, t.items)})
	t.ids[h], t.content[h] = t.items, c.nar
	delete(t.condemned, h)
	t.change(catalog.ChangeRestored, t.items)
	return nil
}

// reviveNar makes a nar live of which a live item is being made.
func (t *publishing) reviveNar(n *nar) {
	if n.condemned {
		n.condemned = false
		t.revivedNars = append(t.revivedNars, n.id)
	}
}

// publishReleased publishes an item that had waited, or lets it wait for what has been deleted meanwhile.
func (t *publishing) publishReleased(e *entry) (catalog.Outcome, error) {
	w := &waiter{entry: *e}
	for _, r := range e.refs {
		if !t.canBe(r) {
			w.missing++
		}
	}
	if w.missing > 0 {
		if err := t.keepWaiting(e); err != nil {
			return catalog.Outcome{}, err
		}
		// What it waits for may come in this transaction.
		t.waiters[w.hash] = w
		for _, r := range e.refs {
			if !t.canBe(r) {
				t.waitersFor[r] = append(t.waitersFor[r], w.hash)
				slices.SortFunc(t.waitersFor[r], compareHashParts)
			}
		}
		return catalog.Outcome{Verdict: catalog.Waiting}, nil
	}
	if err := t.reviveFor(e); err != nil {
		return catalog.Outcome{}, err
	}
	return t.publishOne(e)
}

// queueRevivedNars has nars made live with their files, before others are added to them.
func (t *publishing) queueRevivedNars(b *pgx.Batch) {
	if len(t.revivedNars) == 0 {
		return
	}
	b.Queue("UPDATE nars SET state = 0 WHERE id = ANY($1)", t.revivedNars)
	b.Queue(`WITH o AS MATERIALIZED (SELECT key FROM objects WHERE nar = ANY($1) ORDER BY key FOR UPDATE)
		UPDATE objects SET state = 2 WHERE key = ANY(ARRAY(SELECT key FROM o))`, t.revivedNars)
}

// queueRevived has items recorded that are brought back.
func (t *publishing) queueRevived(b *pgx.Batch) {
	if len(t.revived) == 0 {
		return
	}
	was := column(t.revived, func(r *revived) int64 { return r.was })
	now := column(t.revived, func(r *revived) int64 { return r.now })
	b.Queue(`INSERT INTO items(id, hash, dir, name, nar, published, by, narinfo, template) SELECT u.now, c.hash, c.dir, c.name, c.nar, c.published, c.by, c.narinfo, c.template
		FROM unnest($1::bigint[], $2::bigint[]) AS u(was, now) JOIN condemned c ON c.id = u.was`, was, now)
	b.Queue("INSERT INTO refs(id, refs) SELECT * FROM unnest($1::bigint[], $2::bytea[])", now, column(t.revived, func(r *revived) []byte { return r.refs }))
	b.Queue("DELETE FROM condemned_refs WHERE id = ANY($1)", was)
	b.Queue("DELETE FROM condemned WHERE id = ANY($1)", was)
	b.Queue("UPDATE former f SET now = u.now FROM unnest($1::bigint[], $2::bigint[]) AS u(was, now) WHERE f.now = u.was", was, now)
	b.Queue("INSERT INTO former(id, now) SELECT * FROM unnest($1::bigint[], $2::bigint[])", was, now)
}

// Restore implements catalog.Collector.
func (db *DB) Restore(ctx context.Context, hs []storepath.HashPart) ([]catalog.RestoreVerdict, error) {
	hashes := bytesOf(hs)
	var verdicts []catalog.RestoreVerdict
	err := db.publish(ctx, func(tx pgx.Tx) error {
		t, err := load(ctx, tx, nil, hashes)
		if err != nil {
			return err
		}
		verdicts = make([]catalog.RestoreVerdict, len(hs))
		for i := range hashes {
			h := hashPart(hashes[i])
			switch {
			case t.ids[h] != 0:
				verdicts[i] = catalog.StillLive
			case t.condemned[h] == nil:
				verdicts[i] = catalog.NotRestored
			default:
				if err := t.revive(h); err != nil {
					return err
				}
			}
		}
		return t.record(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("restore %d items: %w", len(hs), err)
	}
	return verdicts, nil
}

// bytesOf returns hash parts as the driver takes them.
func bytesOf(hs []storepath.HashPart) [][]byte {
	return column(hs, func(h *storepath.HashPart) []byte { b := h.Bytes(); return b[:] })
}

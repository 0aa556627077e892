package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// BeginDelete implements catalog.Collector. As in Withdraw, references are read before the transaction, which then reads those of what was
// withdrawn since. The time before which items were withdrawn is compared with the server's clock.
func (db *DB) BeginDelete(ctx context.Context, sequences []int64, before time.Time) (outcomes []catalog.DeleteOutcome, err error) {
	for reading := 1; ; reading++ {
		outcomes, err = db.beginDelete(ctx, sequences, before)
		if !errors.Is(err, errStale) || reading == readings {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("begin to delete %d items: %w", len(sequences), err)
	}
	return outcomes, nil
}

func (db *DB) beginDelete(ctx context.Context, sequences []int64, before time.Time) (outcomes []catalog.DeleteOutcome, err error) {
	t := &deletion{ids: sequences, before: millis(before)}
	err = db.read(ctx, func(tx pgx.Tx) error {
		t.known = newWeb()
		set := make(map[int64]int64, len(sequences)) // the ids of the items, also those that they had before, and which they are
		for _, id := range sequences {
			set[id] = id
		}
		b := &pgx.Batch{}
		b.Queue("SELECT change FROM narfold_catalogue").QueryRow(func(r pgx.Row) error { return r.Scan(&t.read) })
		b.Queue("SELECT id, now FROM former WHERE now = ANY($1)", sequences).Query(func(r pgx.Rows) error {
			var id, now int64
			_, err := pgx.ForEachRow(r, []any{&id, &now}, func() error {
				set[id] = now
				return nil
			})
			return err
		})
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		t.set = newIDSet(set)
		return t.known.add(ctx, tx, t.set, "SELECT id, refs FROM condemned_refs WHERE id > $1", wholeTable, t.set.first)
	})
	if err != nil {
		return nil, err
	}
	err = db.publish(ctx, func(tx pgx.Tx) error {
		outcomes, err = t.run(ctx, tx)
		return err
	})
	return outcomes, err
}

// deletion is one transaction of BeginDelete.
type deletion struct {
	ids    []int64
	before int64 // milliseconds since 1970
	set    idSet
	known  *web
	read   int64 // the references of what was withdrawn up to this change are in known

	now     int64
	changes int64
	rows    map[int64]condemnedRow
}

// condemnedRow is what a deletion needs of a row of condemned.
type condemnedRow struct {
	nar, withdrawn int64
	deleting       bool
}

func (t *deletion) run(ctx context.Context, tx pgx.Tx) ([]catalog.DeleteOutcome, error) {
	names, err := t.load(ctx, tx)
	if err != nil {
		return nil, err
	}
	outcomes, keepers, going, err := t.decide(names)
	if err != nil {
		return nil, err
	}
	if err := name(ctx, tx, "condemned", names, keepers); err != nil {
		return nil, err
	}
	for i, by := range keepers {
		outcomes[i].By = names[by]
	}
	return outcomes, t.record(ctx, tx, outcomes, going)
}

func (t *deletion) load(ctx context.Context, tx pgx.Tx) (names map[int64]storepath.Base, err error) {
	t.rows = make(map[int64]condemnedRow)
	b := &pgx.Batch{}
	queueCatalogue(b, &t.now, &t.changes)
	b.Queue("SELECT id, nar, withdrawn, deleting > 0 FROM condemned WHERE id = ANY($1)", t.ids).Query(func(r pgx.Rows) error {
		var (
			id  int64
			row condemnedRow
		)
		_, err := pgx.ForEachRow(r, []any{&id, &row.nar, &row.withdrawn, &row.deleting}, func() error {
			t.rows[id] = row
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if t.changes > t.read {
		err := t.known.add(ctx, tx, t.set, "SELECT r.id, r.refs FROM changes c JOIN condemned_refs r ON r.id = c.item WHERE c.seq > $1 AND c.op = $2", t.read, int16(catalog.ChangeWithdrawn))
		if err != nil {
			return nil, err
		}
	}
	names = make(map[int64]storepath.Base)
	answer, err := tx.Query(ctx, "SELECT id, hash, name FROM condemned WHERE id = ANY($1) AND deleting = 0", t.known.others())
	if err != nil {
		return nil, err
	}
	return names, scanNames(names)(answer)
}

// decide returns the outcomes, without keys, the items that keep those that are needed, or 0, and those that begin to be deleted.
func (t *deletion) decide(names map[int64]storepath.Base) (outcomes []catalog.DeleteOutcome, keepers, going []int64, err error) {
	outcomes, keepers = make([]catalog.DeleteOutcome, len(t.ids)), make([]int64, len(t.ids))
	var kept []int64
	outside := make(map[int64]int64)
	for i, id := range t.ids {
		row, there := t.rows[id]
		switch {
		case !there:
			outcomes[i].Verdict = catalog.NotCondemned
			continue
		case row.deleting:
			continue
		case row.withdrawn >= t.before:
			outcomes[i].Verdict = catalog.TooYoung
		default:
			if outside[id], err = t.known.keeper(id, names); err != nil {
				return nil, nil, nil, err
			}
			if outside[id] == 0 {
				continue
			}
		}
		kept = append(kept, id)
	}
	stay := t.known.stay(kept)
	begun := make(map[int64]bool)
	for i, id := range t.ids {
		keeper, stays := stay[id]
		switch {
		case outcomes[i].Verdict != catalog.Deletable || t.rows[id].deleting:
		case stays:
			outcomes[i].Verdict = catalog.Needed
			if keepers[i] = keeper; keeper == id {
				keepers[i] = outside[id]
			}
		case !begun[id]:
			begun[id] = true
			going = append(going, id)
		}
	}
	return outcomes, keepers, going, nil
}

// record makes the end of items certain, and of nars that nothing else can come back with, and gives the outcomes their keys.
func (t *deletion) record(ctx context.Context, tx pgx.Tx, outcomes []catalog.DeleteOutcome, going []int64) error {
	var nars []int64
	for i, id := range t.ids {
		if outcomes[i].Verdict == catalog.Deletable {
			nars = append(nars, t.rows[id].nar)
		}
	}
	if len(nars) == 0 {
		return nil
	}
	slices.Sort(nars)
	nars = slices.Compact(nars)
	b := &pgx.Batch{}
	if len(going) > 0 {
		b.Queue("DELETE FROM condemned_refs WHERE id = ANY($1)", going)
		b.Queue("UPDATE condemned SET deleting = $2 WHERE id = ANY($1)", going, t.now)
		b.Queue("UPDATE nars SET state = 2 WHERE id = ANY($1) AND state = 1 AND NOT EXISTS (SELECT 1 FROM condemned WHERE condemned.nar = nars.id AND deleting = 0)", nars)
		queueChanges(b, t.changes, catalog.ChangeDeleted, t.now, going)
	}
	keys := make(map[int64][]objstore.Key)
	b.Queue("SELECT n.id, o.key FROM nars n JOIN objects o ON o.nar = n.id WHERE n.id = ANY($1) AND n.state = 2 ORDER BY o.key", nars).Query(func(r pgx.Rows) error {
		var (
			nar int64
			key string
		)
		_, err := pgx.ForEachRow(r, []any{&nar, &key}, func() error {
			keys[nar] = append(keys[nar], objstore.Key(key))
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	for i, id := range t.ids {
		if outcomes[i].Verdict == catalog.Deletable {
			outcomes[i].Keys = keys[t.rows[id].nar]
		}
	}
	return nil
}

// Deleted implements catalog.Collector.
func (db *DB) Deleted(ctx context.Context, sequences []int64) error {
	// While nobody hands out keys: who has looked already would take one that vanishes for one that never was.
	err := db.inTurn(ctx, beginBurying, func(tx pgx.Tx) error {
		var (
			now, changes int64
			nars         []int64
		)
		b := &pgx.Batch{}
		queueCatalogue(b, &now, &changes)
		b.Queue(`INSERT INTO tombstones(id, hash, dir, name, nar_hash, nar_size, withdrawn, withdrawn_by, plan, deleted)
			SELECT c.id, c.hash, c.dir, c.name, n.hash, n.size, c.withdrawn, c.withdrawn_by, c.plan, `+serverTime+` FROM condemned c JOIN nars n ON n.id = c.nar
			WHERE c.id = ANY($1) AND c.deleting > 0`, sequences)
		b.Queue("DELETE FROM condemned WHERE id = ANY($1) AND deleting > 0 RETURNING nar", sequences).Query(func(r pgx.Rows) (err error) {
			nars, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
		if err := tx.SendBatch(ctx, b).Close(); err != nil || len(nars) == 0 {
			return err
		}
		slices.Sort(nars)
		nars = slices.Compact(nars)
		const gone = " FROM nars WHERE id = ANY($1) AND state = 2 AND NOT EXISTS (SELECT 1 FROM condemned WHERE condemned.nar = nars.id)"
		b = &pgx.Batch{}
		b.Queue("DELETE FROM objects WHERE nar = ANY(ARRAY(SELECT id"+gone+"))", nars)
		b.Queue("DELETE"+gone, nars)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return fmt.Errorf("forget %d deleted items: %w", len(sequences), err)
	}
	return nil
}

// Withdrawn implements catalog.Collector.
func (db *DB) Withdrawn(ctx context.Context, after int64) iter.Seq2[catalog.WithdrawnItem, error] {
	return walk("withdrawn items", func(last *catalog.WithdrawnItem) ([]catalog.WithdrawnItem, error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		return rows(ctx, db, func(r pgx.CollectableRow) (w catalog.WithdrawnItem, err error) {
			var (
				deleting bool
				keys     []string
			)
			t, err := scanEnd(r, &deleting, &keys)
			w = catalog.WithdrawnItem{Path: t.Path, NarHash: t.NarHash, NarSize: t.NarSize, Sequence: t.Sequence, State: catalog.StateCondemned, At: t.Withdrawn, By: t.By, Plan: t.Plan}
			if deleting {
				w.State = catalog.StateDeleting
			}
			for _, k := range keys {
				w.Keys = append(w.Keys, objstore.Key(k))
			}
			return w, err
		}, `SELECT c.id, d.dir, c.hash, c.name, n.hash, n.size, c.withdrawn, c.withdrawn_by, c.plan, c.deleting > 0,
				CASE WHEN c.deleting > 0 AND n.state = 2 THEN ARRAY(SELECT key FROM objects WHERE objects.nar = c.nar ORDER BY key) END
			FROM (SELECT * FROM condemned WHERE id > $1 ORDER BY id LIMIT $2) AS c JOIN dirs d ON d.id = c.dir JOIN nars n ON n.id = c.nar ORDER BY c.id`, from, page)
	})
}

// Tombstones implements catalog.Collector.
func (db *DB) Tombstones(ctx context.Context, after int64) iter.Seq2[catalog.Tombstone, error] {
	return walk("tombstones", func(last *catalog.Tombstone) ([]catalog.Tombstone, error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		return rows(ctx, db, func(r pgx.CollectableRow) (t catalog.Tombstone, err error) {
			var deleted int64
			t, err = scanEnd(r, &deleted)
			t.Deleted = fromMillis(deleted)
			return t, err
		}, `SELECT c.id, d.dir, c.hash, c.name, c.nar_hash, c.nar_size, c.withdrawn, c.withdrawn_by, c.plan, c.deleted
			FROM (SELECT * FROM tombstones WHERE id > $1 ORDER BY id LIMIT $2) AS c JOIN dirs d ON d.id = c.dir ORDER BY c.id`, from, page)
	})
}

// scanEnd reads what is known of a withdrawn item to the end, and the columns after it into targets.
func scanEnd(r pgx.CollectableRow, targets ...any) (t catalog.Tombstone, err error) {
	var (
		dir, name string
		hash, nar []byte
		withdrawn int64
	)
	if err := r.Scan(append([]any{&t.Sequence, &dir, &hash, &name, &nar, &t.NarSize, &withdrawn, &t.By, &t.Plan}, targets...)...); err != nil {
		return t, err
	}
	t.Path = storepath.Path{Dir: storepath.Dir(dir), Base: baseOf(hash, name)}
	t.NarHash, t.Withdrawn = digest.SHA256(nar), fromMillis(withdrawn)
	return t, nil
}

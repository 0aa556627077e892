package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// readings is how often references are read for one decision, should others withdraw at the same time what was read.
const readings = 3

// Withdraw implements catalog.Collector.
//
// Who references an item is nowhere recorded: all references to it are read. That is done before the transaction, which then reads only
// what was published since: rows of refs are never changed, and new ones have greater ids.
func (db *DB) Withdraw(ctx context.Context, w catalog.Withdrawal) (outcomes []catalog.WithdrawOutcome, err error) {
	hashes := bytesOf(w.Items)
	for reading := 1; ; reading++ {
		outcomes, err = db.withdraw(ctx, w, hashes)
		if !errors.Is(err, errStale) {
			break
		}
		if reading == readings {
			err = fmt.Errorf("%w: %w", catalog.ErrMoved, err)
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("withdraw %d items: %w", len(w.Items), err)
	}
	return outcomes, nil
}

func (db *DB) withdraw(ctx context.Context, w catalog.Withdrawal, hashes [][]byte) (outcomes []catalog.WithdrawOutcome, err error) {
	var (
		known *web
		read  int64
	)
	err = db.read(ctx, func(tx pgx.Tx) error {
		known = newWeb()
		if err := tx.QueryRow(ctx, "SELECT item FROM narfold_catalogue").Scan(&read); err != nil {
			return err
		}
		ids := make(map[int64]int64)
		b := &pgx.Batch{}
		queueIDs(b, hashes, func(_ hashPart, id int64) { ids[id] = id })
		if err := tx.SendBatch(ctx, b).Close(); err != nil || len(ids) == 0 {
			return err
		}
		set := newIDSet(ids)
		return known.add(ctx, tx, set, "SELECT id, refs FROM refs WHERE id > $1", wholeTable, set.first)
	})
	if err != nil {
		return nil, err
	}
	err = db.inTurn(ctx, beginWithdrawing, func(tx pgx.Tx) error {
		t := &withdrawal{Withdrawal: w, hashes: hashes, known: known, read: read}
		outcomes, err = t.run(ctx, tx)
		return err
	})
	return outcomes, err
}

// queueIDs has the ids of live items read.
func queueIDs(b *pgx.Batch, hashes [][]byte, f func(hashPart, int64)) {
	b.Queue("SELECT hash, id FROM items WHERE hash = ANY($1)", hashes).Query(func(r pgx.Rows) error {
		var (
			hash []byte
			id   int64
		)
		_, err := pgx.ForEachRow(r, []any{&hash, &id}, func() error {
			f(hashPart(hash), id)
			return nil
		})
		return err
	})
}

// withdrawal is one transaction of Withdraw.
type withdrawal struct {
	catalog.Withdrawal
	hashes [][]byte
	known  *web
	read   int64 // the references of items up to this number are in known

	now     int64
	changes int64
	ids     map[hashPart]int64
	reasons map[int64]catalog.WithdrawVerdict
}

func (t *withdrawal) run(ctx context.Context, tx pgx.Tx) ([]catalog.WithdrawOutcome, error) {
	names, err := t.load(ctx, tx)
	if err != nil {
		return nil, err
	}
	outcomes, keepers, going, err := t.decide(names)
	if err != nil {
		return nil, err
	}
	if err := name(ctx, tx, "items", names, keepers); err != nil {
		return nil, err
	}
	for i, by := range keepers {
		outcomes[i].By = names[by]
	}
	if len(going) > 0 {
		err = t.record(ctx, tx, going)
	}
	return outcomes, err
}

// name adds those of ids to names that are not in it.
func name(ctx context.Context, tx pgx.Tx, table string, names map[int64]storepath.Base, ids []int64) error {
	var ask []int64
	for _, id := range ids {
		if id != 0 && names[id] == "" {
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	answer, err := tx.Query(ctx, "SELECT id, hash, name FROM "+table+" WHERE id = ANY($1)", ask)
	if err != nil {
		return err
	}
	return scanNames(names)(answer)
}

// load reads what the decision depends on, and returns the names of items that may keep others.
func (t *withdrawal) load(ctx context.Context, tx pgx.Tx) (names map[int64]storepath.Base, err error) {
	t.ids, t.reasons = make(map[hashPart]int64), make(map[int64]catalog.WithdrawVerdict)
	set := make(map[int64]int64)
	var d decided
	b := &pgx.Batch{}
	queueCatalogue(b, &t.now, &t.changes)
	b.Queue("SELECT taken, roots, forgotten FROM moment FOR UPDATE").QueryRow(func(r pgx.Row) error { return r.Scan(&d.taken, &d.roots, &d.forgotten) })
	queueIDs(b, t.hashes, func(h hashPart, id int64) { t.ids[h], set[id] = id, id })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if err := d.since(t.Since); err != nil {
		return nil, err
	}
	if err := t.known.add(ctx, tx, newIDSet(set), "SELECT id, refs FROM refs WHERE id > $1", t.read); err != nil {
		return nil, err
	}
	ids := slices.Collect(maps.Keys(set))
	because := func(v catalog.WithdrawVerdict) func(pgx.Rows) error {
		return func(r pgx.Rows) error {
			var id int64
			_, err := pgx.ForEachRow(r, []any{&id}, func() error {
				t.reasons[id] = v
				return nil
			})
			return err
		}
	}
	names = make(map[int64]storepath.Base)
	b = &pgx.Batch{}
	if t.Since != (catalog.Moment{}) {
		for id := range set {
			if id > t.Since.Item {
				t.reasons[id] = catalog.Wanted
			}
		}
		b.Queue("SELECT item FROM wishes WHERE item = ANY($1) AND taken >= $2", ids, t.Since.Wish).Query(because(catalog.Wanted))
	}
	b.Queue("SELECT item FROM leased JOIN leases ON id = lease WHERE item = ANY($1) AND expires > $2", ids, t.now).Query(because(catalog.Leased))
	b.Queue("SELECT id, hash, name FROM items WHERE id = ANY($1)", t.known.others()).Query(scanNames(names))
	return names, tx.SendBatch(ctx, b).Close()
}

// queueCatalogue has the row of the catalogue locked and read.
func queueCatalogue(b *pgx.Batch, now, changes *int64) {
	b.Queue("SELECT version, change, " + serverTime + " FROM narfold_catalogue FOR UPDATE").QueryRow(func(r pgx.Row) error {
		var version int
		if err := r.Scan(&version, changes, now); err != nil {
			return err
		}
		return known(version, len(migrations))
	})
}

// decide returns the outcomes, the items that keep those that are referenced, or 0, and the items that nothing keeps, ascending.
func (t *withdrawal) decide(names map[int64]storepath.Base) (outcomes []catalog.WithdrawOutcome, keepers, going []int64, err error) {
	var kept []int64
	outside := make(map[int64]int64)
	for _, id := range t.ids {
		_, stays := t.reasons[id]
		if !stays {
			if outside[id], err = t.known.keeper(id, names); err != nil {
				return nil, nil, nil, err
			}
			stays = outside[id] != 0
		}
		if stays {
			kept = append(kept, id)
		}
	}
	stay := t.known.stay(kept)
	outcomes, keepers = make([]catalog.WithdrawOutcome, len(t.hashes)), make([]int64, len(t.hashes))
	for i, h := range t.hashes {
		o, id := &outcomes[i], t.ids[hashPart(h)]
		keeper, stays := stay[id]
		reason, because := t.reasons[id]
		switch {
		case id == 0:
			o.Verdict = catalog.NotLive
		case !stays:
			o.Verdict, o.Sequence = catalog.Withdrawn, id
			going = append(going, id)
		case because:
			o.Verdict = reason
		default:
			o.Verdict = catalog.Referenced
			if keepers[i] = keeper; keeper == id {
				keepers[i] = outside[id]
			}
		}
	}
	slices.Sort(going)
	return outcomes, keepers, slices.Compact(going), nil
}

// record condemns items, and the nars that no other live item has.
func (t *withdrawal) record(ctx context.Context, tx pgx.Tx, ids []int64) error {
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO condemned(id, hash, dir, name, nar, published, by, narinfo, template, withdrawn, withdrawn_by, plan)
		SELECT id, hash, dir, name, nar, published, by, narinfo, template, $2, $3, $4 FROM items WHERE id = ANY($1)`, ids, t.now, t.By, t.Plan)
	b.Queue("INSERT INTO condemned_refs(id, refs) SELECT id, refs FROM refs WHERE id = ANY($1)", ids)
	b.Queue("DELETE FROM refs WHERE id = ANY($1)", ids)
	b.Queue("DELETE FROM items WHERE id = ANY($1)", ids)
	b.Queue(`WITH n AS MATERIALIZED (UPDATE nars SET state = 1 WHERE id = ANY(ARRAY(SELECT DISTINCT nar FROM condemned WHERE id = ANY($1)))
			AND NOT EXISTS (SELECT 1 FROM items WHERE items.nar = nars.id) RETURNING id),
		o AS MATERIALIZED (SELECT key FROM objects WHERE nar = ANY(ARRAY(SELECT id FROM n)) ORDER BY key FOR UPDATE),
		u AS (UPDATE objects SET state = 3 WHERE key = ANY(ARRAY(SELECT key FROM o)) RETURNING key) `+spend("u"), ids)
	slices.Reverse(ids) // referrers first, which have greater ids
	queueChanges(b, t.changes, catalog.ChangeWithdrawn, t.now, ids)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("condemn %d items: %w", len(ids), err)
	}
	return nil
}

// queueChanges has changes of one kind told after those that were.
func queueChanges(b *pgx.Batch, told int64, kind catalog.ChangeKind, now int64, items []int64) {
	b.Queue("INSERT INTO changes(seq, op, item, at) SELECT $1 + u.i, $2, u.item, $3 FROM unnest($4::bigint[]) WITH ORDINALITY AS u(item, i)", told, int16(kind), now, items)
	b.Queue("UPDATE narfold_catalogue SET change = $1", told+int64(len(items)))
}

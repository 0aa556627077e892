package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// errCondemned says that a promise has to wait until something is brought back.
var errCondemned = errors.New("some of it is condemned")

// Lease implements catalog.Leaser. Only what was asked for is written down: what that references cannot be withdrawn before it. Who asks
// for what is live waits for nobody who publishes.
func (db *DB) Lease(ctx context.Context, l catalog.Lease, hs []storepath.HashPart) (got catalog.Lease, missing []storepath.HashPart, err error) {
	hashes := bytesOf(hs)
	give := func(tx pgx.Tx) (err error) {
		got, missing, err = promise(ctx, tx, l, hs, hashes)
		return err
	}
	err = db.write(ctx, beginPromising, give)
	if errors.Is(err, errCondemned) {
		err = db.publish(ctx, func(tx pgx.Tx) error {
			t, err := load(ctx, tx, nil, hashes)
			if err != nil {
				return err
			}
			for _, h := range hashes {
				if err := t.revive(hashPart(h)); err != nil {
					return err
				}
			}
			if err := t.record(ctx, tx); err != nil {
				return err
			}
			return give(tx)
		})
	}
	if err != nil {
		return catalog.Lease{}, nil, fmt.Errorf("lease %d items to %s: %w", len(hs), l.Holder, err)
	}
	return got, missing, nil
}

// promise makes or extends a lease on those of hs that are live.
func promise(ctx context.Context, tx pgx.Tx, l catalog.Lease, hs []storepath.HashPart, hashes [][]byte) (catalog.Lease, []storepath.HashPart, error) {
	var (
		ids       = make(map[hashPart]int64, len(hs))
		condemned bool
	)
	b := &pgx.Batch{}
	// Those that another cleans up are passed over.
	b.Queue("DELETE FROM leases WHERE id = ANY(ARRAY(SELECT id FROM leases WHERE expires <= " + serverTime + " ORDER BY expires LIMIT 1000 FOR UPDATE SKIP LOCKED))")
	if l.ID == 0 {
		b.Queue("INSERT INTO leases(holder, expires) VALUES($1, $2) RETURNING id", l.Holder, millis(l.Expires)).QueryRow(func(r pgx.Row) error { return r.Scan(&l.ID) })
	} else {
		b.Queue(renew, l.ID, l.Holder, millis(l.Expires)).QueryRow(renewed(&l.ID))
	}
	b.Queue("SELECT hash, id FROM items WHERE hash = ANY($1)", hashes).Query(func(r pgx.Rows) error {
		var (
			hash []byte
			id   int64
		)
		_, err := pgx.ForEachRow(r, []any{&hash, &id}, func() error {
			ids[hashPart(hash)] = id
			return nil
		})
		return err
	})
	b.Queue("SELECT EXISTS (SELECT 1 FROM condemned WHERE hash = ANY($1) AND deleting = 0)", hashes).QueryRow(func(r pgx.Row) error { return r.Scan(&condemned) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return l, nil, err
	}
	if condemned {
		return l, nil, errCondemned
	}
	var (
		missing []storepath.HashPart
		there   []int64
	)
	for i, h := range hs {
		if id := ids[hashPart(hashes[i])]; id != 0 {
			there = append(there, id)
		} else {
			missing = append(missing, h)
		}
	}
	b = &pgx.Batch{}
	b.Queue("INSERT INTO leased(item, lease) SELECT item, $2 FROM unnest($1::bigint[]) AS u(item) ON CONFLICT DO NOTHING", there, l.ID)
	b.Queue("SELECT count(*) FROM leased WHERE lease = $1", l.ID).QueryRow(func(r pgx.Row) error { return r.Scan(&l.Items) })
	queueWishes(b, there)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return l, nil, err
	}
	return l, missing, nil
}

// renew makes a lease that is not over last until another time.
const renew = "UPDATE leases SET expires = $3 WHERE id = $1 AND holder = $2 AND expires > " + serverTime + " RETURNING id"

func renewed(id *int64) func(pgx.Row) error {
	return func(r pgx.Row) error {
		err := r.Scan(id)
		if errors.Is(err, pgx.ErrNoRows) {
			err = catalog.ErrLeaseOver
		}
		return err
	}
}

// RenewLease implements catalog.Leaser.
func (db *DB) RenewLease(ctx context.Context, l catalog.Lease) error {
	// Who withdraws and has found it expired is done before it is renewed.
	err := db.write(ctx, beginPromising, func(tx pgx.Tx) error {
		return renewed(&l.ID)(tx.QueryRow(ctx, renew, l.ID, l.Holder, millis(l.Expires)))
	})
	if err != nil {
		return fmt.Errorf("renew lease %d of %s: %w", l.ID, l.Holder, err)
	}
	return nil
}

// ReleaseLease implements catalog.Leaser.
func (db *DB) ReleaseLease(ctx context.Context, l catalog.Lease) error {
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM leases WHERE id = $1 AND holder = $2", l.ID, l.Holder)
		return err
	})
	if err != nil {
		return fmt.Errorf("release lease %d of %s: %w", l.ID, l.Holder, err)
	}
	return nil
}

// Leases implements catalog.Leaser.
func (db *DB) Leases(ctx context.Context) iter.Seq2[catalog.Lease, error] {
	return walk("leases", func(last *catalog.Lease) ([]catalog.Lease, error) {
		from := int64(0)
		if last != nil {
			from = last.ID
		}
		return rows(ctx, db, func(r pgx.CollectableRow) (l catalog.Lease, err error) {
			var expires int64
			err = r.Scan(&l.ID, &l.Holder, &expires, &l.Items)
			l.Expires = fromMillis(expires)
			return l, err
		}, "SELECT id, holder, expires, (SELECT count(*) FROM leased WHERE lease = id) FROM leases WHERE id > $1 AND expires > "+serverTime+" ORDER BY id LIMIT $2", from, page)
	})
}

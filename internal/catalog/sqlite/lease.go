package sqlite

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// Lease implements catalog.Leaser. Only what was asked for is written down: what that references cannot be withdrawn before it.
func (db *DB) Lease(ctx context.Context, l catalog.Lease, hs []storepath.HashPart) (_ catalog.Lease, missing []storepath.HashPart, err error) {
	err = db.write(ctx, func(conn *sqlite.Conn) error {
		t := db.publishing(conn)
		if err := t.exec("DELETE FROM leases WHERE expires <= ?", t.now.UnixMilli()); err != nil {
			return err
		}
		if l.ID == 0 {
			if err := t.exec("INSERT INTO leases(holder, expires) VALUES(?, ?)", l.Holder, millis(l.Expires)); err != nil {
				return err
			}
			l.ID = conn.LastInsertRowID()
		} else if err := t.renew(l); err != nil {
			return err
		}
		missing = nil
		for _, h := range hs {
			id, err := t.revive(h)
			if err != nil {
				return err
			}
			if id == 0 {
				missing = append(missing, h)
				continue
			}
			if err := t.exec("INSERT OR IGNORE INTO leased(item, lease) VALUES(?, ?)", id, l.ID); err != nil {
				return err
			}
			if err := t.wish(id); err != nil {
				return err
			}
		}
		if l.Items, err = scalar(conn, "SELECT count(*) FROM leased WHERE lease = ?", l.ID); err != nil {
			return err
		}
		return t.addSums()
	})
	if err != nil {
		return catalog.Lease{}, nil, fmt.Errorf("lease %d items to %s: %w", len(hs), l.Holder, err)
	}
	return l, missing, nil
}

func (t *publishing) renew(l catalog.Lease) error {
	err := t.exec("UPDATE leases SET expires = ? WHERE id = ? AND holder = ? AND expires > ?", millis(l.Expires), l.ID, l.Holder, t.now.UnixMilli())
	if err == nil && t.conn.Changes() == 0 {
		err = catalog.ErrLeaseOver
	}
	return err
}

// RenewLease implements catalog.Leaser.
func (db *DB) RenewLease(ctx context.Context, l catalog.Lease) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error { return db.publishing(conn).renew(l) })
	if err != nil {
		return fmt.Errorf("renew lease %d of %s: %w", l.ID, l.Holder, err)
	}
	return nil
}

// ReleaseLease implements catalog.Leaser.
func (db *DB) ReleaseLease(ctx context.Context, l catalog.Lease) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		return db.publishing(conn).exec("DELETE FROM leases WHERE id = ? AND holder = ?", l.ID, l.Holder)
	})
	if err != nil {
		return fmt.Errorf("release lease %d of %s: %w", l.ID, l.Holder, err)
	}
	return nil
}

// Leases implements catalog.Leaser.
func (db *DB) Leases(ctx context.Context) iter.Seq2[catalog.Lease, error] {
	return walk(ctx, db, "leases", func(conn *sqlite.Conn, last *catalog.Lease) (ls []catalog.Lease, err error) {
		from := int64(0)
		if last != nil {
			from = last.ID
		}
		err = sqlitex.Execute(conn, "SELECT id, holder, expires, (SELECT count(*) FROM leased WHERE lease = id) FROM leases WHERE id > ? AND expires > ? ORDER BY id LIMIT ?",
			&sqlitex.ExecOptions{Args: []any{from, nowMillis(), page}, ResultFunc: func(s *sqlite.Stmt) error {
				ls = append(ls, catalog.Lease{ID: s.ColumnInt64(0), Holder: s.ColumnText(1), Expires: fromMillis(s.ColumnInt64(2)), Items: s.ColumnInt64(3)})
				return nil
			}})
		return ls, err
	})
}

// leased reports whether a lease that is not over names an item.
func (t *publishing) leased(id int64) (bool, error) {
	n, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM leased JOIN leases ON id = lease WHERE item = ? AND expires > ?)", id, t.now.UnixMilli())
	return n > 0, err
}

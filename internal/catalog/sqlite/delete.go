package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// BeginDelete implements catalog.Collector. As in Withdraw, references are read before the transaction, which then reads those of what was
// withdrawn since.
func (db *DB) BeginDelete(ctx context.Context, sequences []int64, before time.Time) (outcomes []catalog.DeleteOutcome, err error) {
	known := &web{refs: make(map[int64][]int64), outside: make(map[int64]int64)}
	set := make(map[int64]int64) // the ids of the set, also those that they had before, and which they are
	of := func(id int64) int64 { return set[id] }
	var change int64
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		least := int64(0)
		for _, id := range sequences {
			set[id] = id
			err := sqlitex.Execute(conn, "SELECT id FROM former WHERE now = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
				set[s.ColumnInt64(0)] = id
				return nil
			}})
			if err != nil {
				return err
			}
		}
		for id := range set {
			if least == 0 || id < least {
				least = id
			}
		}
		if change, err = scalar(conn, "SELECT coalesce(max(seq), 0) FROM changes"); err != nil {
			return err
		}
		return known.add(conn, "condemned_refs", least, of)
	})
	if err == nil {
		err = db.write(ctx, func(conn *sqlite.Conn) error {
			if err := known.addWithdrawn(conn, change, of); err != nil {
				return err
			}
			outcomes, err = db.publishing(conn).beginDelete(sequences, before, known)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("begin to delete %d items: %w", len(sequences), err)
	}
	return outcomes, nil
}

// addWithdrawn reads the references of what was withdrawn after a change.
func (w *web) addWithdrawn(conn *sqlite.Conn, change int64, of func(int64) int64) error {
	return sqlitex.Execute(conn, "SELECT r.id, r.refs FROM changes c JOIN condemned_refs r ON r.id = c.item WHERE c.seq > ? AND c.op = ?",
		&sqlitex.ExecOptions{Args: []any{change, int64(catalog.ChangeWithdrawn)}, ResultFunc: func(s *sqlite.Stmt) error {
			return w.row(s.ColumnInt64(0), columnBytes(s, 1), of)
		}})
}

func (t *publishing) beginDelete(ids []int64, before time.Time, known *web) ([]catalog.DeleteOutcome, error) {
	outcomes := make([]catalog.DeleteOutcome, len(ids))
	rows := make([]condemnedRow, len(ids))
	var kept []int64
	for i, id := range ids {
		r, err := condemnedOne(t.conn, "id = ?", id)
		if err != nil {
			return nil, err
		}
		rows[i] = r
		_, referenced := known.outside[id]
		switch {
		case r.id == 0:
			outcomes[i].Verdict = catalog.NotCondemned
		case r.deleting:
		case r.withdrawn >= millis(before):
			outcomes[i].Verdict = catalog.TooYoung
			kept = append(kept, id)
		case referenced:
			outcomes[i].Verdict = catalog.Needed
			kept = append(kept, id)
		}
	}
	stay := known.stay(kept)
	var nars []int64
	for i, id := range ids {
		o := &outcomes[i]
		keeper, stays := stay[id]
		switch {
		case rows[i].id == 0 || rows[i].deleting || o.Verdict == catalog.TooYoung:
		case stays:
			o.Verdict = catalog.Needed
			if keeper == id {
				keeper = known.outside[id]
			}
			var err error
			if o.By, err = t.db.base(t.conn, keeper); err != nil {
				return nil, err
			}
		default:
			if err := t.exec("DELETE FROM condemned_refs WHERE id = ?", id); err != nil {
				return nil, err
			}
			if err := t.exec("UPDATE condemned SET deleting = ? WHERE id = ? AND deleting = 0", t.now.UnixMilli(), id); err != nil {
				return nil, err
			}
			if t.conn.Changes() == 1 { // and not named twice
				if err := t.change(catalog.ChangeDeleted, id); err != nil {
					return nil, err
				}
			}
			nars = append(nars, rows[i].nar)
		}
	}
	slices.Sort(nars)
	for _, nar := range slices.Compact(nars) {
		err := t.exec("UPDATE condemned_nars SET deleting = ? WHERE id = ? AND deleting = 0 AND NOT EXISTS (SELECT 1 FROM condemned WHERE nar = condemned_nars.id AND deleting = 0)",
			t.now.UnixMilli(), nar)
		if err != nil {
			return nil, err
		}
	}
	for i := range outcomes {
		if outcomes[i].Verdict == catalog.Deletable {
			var err error
			if outcomes[i].Keys, err = deletingKeys(t.conn, rows[i].nar); err != nil {
				return nil, err
			}
		}
	}
	return outcomes, nil
}

// Deleted implements catalog.Collector.
func (db *DB) Deleted(ctx context.Context, sequences []int64) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		t := db.publishing(conn)
		for _, id := range sequences {
			r, err := condemnedOne(conn, "id = ?", id)
			if err != nil {
				return err
			}
			if !r.deleting {
				continue
			}
			err = t.exec(`INSERT INTO tombstones(id, hash, dir, name, nar_hash, nar_size, withdrawn, withdrawn_by, plan, deleted)
				SELECT id, hash, dir, name, nar_hash, nar_size, withdrawn, withdrawn_by, plan, ? FROM condemned WHERE id = ?`, t.now.UnixMilli(), id)
			if err != nil {
				return err
			}
			if err := t.exec("DELETE FROM condemned WHERE id = ?", id); err != nil {
				return err
			}
			if err := t.forgetNar(r.nar); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget %d deleted items: %w", len(sequences), err)
	}
	return nil
}

// forgetNar drops a nar that is deleting when no item is left that had it.
func (t *publishing) forgetNar(nar int64) error {
	users, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM condemned WHERE nar = ?)", nar)
	if err != nil || users > 0 {
		return err
	}
	if err := t.exec("DELETE FROM condemned_files WHERE nar = (SELECT id FROM condemned_nars WHERE id = ? AND deleting > 0)", nar); err != nil {
		return err
	}
	return t.exec("DELETE FROM condemned_nars WHERE id = ? AND deleting > 0", nar)
}

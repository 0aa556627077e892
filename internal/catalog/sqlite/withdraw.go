package sqlite

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// web is what is known of the references among a set of items, and of who else references them.
type web struct {
	refs    map[int64][]int64 // of items of the set to others of it
	outside map[int64]int64   // an item of the set, and one that references it and is not in the set
}

// eachReference calls f with the id of each reference in a row of refs or condemned_refs.
func eachReference(id int64, packed []byte, f func(int64)) error {
	distance := int64(0)
	for len(packed) > 0 {
		step, n := binary.Uvarint(packed)
		if n <= 0 {
			return fmt.Errorf("%w: the distances of item %d end early", catalog.ErrDamaged, id)
		}
		packed = packed[n:]
		distance += int64(step)
		f(id - distance)
	}
	return nil
}

// add reads the rows of a table of references whose ids are greater than after. of tells which item of the set an id is, or 0.
func (w *web) add(conn *sqlite.Conn, table string, after int64, of func(int64) int64) error {
	var packed []byte
	return sqlitex.Execute(conn, "SELECT id, refs FROM "+table+" WHERE id > ?", &sqlitex.ExecOptions{Args: []any{after}, ResultFunc: func(s *sqlite.Stmt) error {
		id := s.ColumnInt64(0)
		packed = slices.Grow(packed[:0], s.ColumnLen(1))[:s.ColumnLen(1)]
		s.ColumnBytes(1, packed)
		return w.row(id, packed, of)
	}})
}

func (w *web) row(id int64, packed []byte, of func(int64) int64) error {
	own := of(id)
	return eachReference(id, packed, func(ref int64) {
		switch ref = of(ref); {
		case ref == 0:
		case own == 0:
			w.outside[ref] = id
		default:
			w.refs[own] = append(w.refs[own], ref)
		}
	})
}

// stay spreads what keeps items: what an item that stays references stays too. It returns for each which item keeps it.
func (w *web) stay(kept []int64) map[int64]int64 {
	by := make(map[int64]int64)
	for _, id := range kept {
		by[id] = id
	}
	for len(kept) > 0 {
		id := kept[len(kept)-1]
		kept = kept[:len(kept)-1]
		for _, ref := range w.refs[id] {
			if _, ok := by[ref]; !ok {
				by[ref] = id
				kept = append(kept, ref)
			}
		}
	}
	return by
}

// Withdraw implements catalog.Collector.
//
// Who references an item is nowhere recorded: all references to it are read, which takes a second or two for ten million items. That is done
// before the transaction, which then reads only what was published since: rows of refs are never changed, and new ones have greater ids.
func (db *DB) Withdraw(ctx context.Context, w catalog.Withdrawal) (outcomes []catalog.WithdrawOutcome, err error) {
	known := &web{refs: make(map[int64][]int64), outside: make(map[int64]int64)}
	ids := make(map[int64]bool) // of the set
	of := func(id int64) int64 {
		if ids[id] {
			return id
		}
		return 0
	}
	resolve := func(conn *sqlite.Conn) ([]int64, error) {
		all := make([]int64, len(w.Items))
		clear(ids)
		for i, h := range w.Items {
			if all[i], err = scalar(conn, "SELECT id FROM items WHERE hash = ?", order(h)); err != nil {
				return nil, err
			}
			if all[i] != 0 {
				ids[all[i]] = true
			}
		}
		return all, nil
	}
	var read int64
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		if read, err = scalar(conn, "SELECT coalesce(max(id), 0) FROM refs"); err != nil {
			return err
		}
		if _, err := resolve(conn); err != nil || len(ids) == 0 {
			return err
		}
		return known.add(conn, "refs", slices.Min(slices.Collect(maps.Keys(ids))), of)
	})
	if err == nil {
		err = db.write(ctx, func(conn *sqlite.Conn) error {
			all, err := resolve(conn)
			if err != nil {
				return err
			}
			if err := known.add(conn, "refs", read, of); err != nil {
				return err
			}
			outcomes, err = db.publishing(conn).withdraw(w, all, known)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("withdraw %d items: %w", len(w.Items), err)
	}
	return outcomes, nil
}

// publishing begins a transaction that moves items between live and condemned.
func (db *DB) publishing(conn *sqlite.Conn) *publishing {
	return &publishing{transaction: transaction{db: db, conn: conn}, now: time.Now().UTC(), live: make(map[storepath.HashPart]liveItem), condemned: true}
}

// withdraw condemns those items that nothing keeps; ids are theirs, 0 for those that are not live.
func (t *publishing) withdraw(w catalog.Withdrawal, ids []int64, known *web) ([]catalog.WithdrawOutcome, error) {
	reasons := make(map[int64]catalog.WithdrawVerdict)
	wished, err := t.wishedSince(w.Since)
	if err != nil {
		return nil, err
	}
	var kept []int64
	for _, id := range ids {
		if id == 0 {
			continue
		}
		leased, err := t.leased(id)
		if err != nil {
			return nil, err
		}
		wanted, err := wished(id)
		if err != nil {
			return nil, err
		}
		_, referenced := known.outside[id]
		switch {
		case leased:
			reasons[id] = catalog.Leased
		case wanted:
			reasons[id] = catalog.Wanted
		case referenced:
			reasons[id] = catalog.Referenced
		default:
			continue
		}
		kept = append(kept, id)
	}
	stay := known.stay(kept)
	by, err := t.number(w.By, false)
	if err != nil {
		return nil, err
	}
	plan, err := t.number(w.Plan, false)
	if err != nil {
		return nil, err
	}
	outcomes := make([]catalog.WithdrawOutcome, len(ids))
	going := make(map[int64]bool)
	for i, id := range ids {
		o := &outcomes[i]
		keeper, stays := stay[id]
		switch {
		case id == 0:
			o.Verdict = catalog.NotLive
		case !stays:
			o.Verdict, o.Sequence = catalog.Withdrawn, id
			going[id] = true
		default:
			var ok bool
			if o.Verdict, ok = reasons[id]; !ok {
				o.Verdict = catalog.Referenced
			}
			if o.Verdict != catalog.Referenced {
				continue
			}
			if keeper == id {
				keeper = known.outside[id]
			}
			if o.By, err = t.db.base(t.conn, keeper); err != nil {
				return nil, err
			}
		}
	}
	// Referrers have greater ids.
	order := slices.Sorted(maps.Keys(going))
	slices.Reverse(order)
	for _, id := range order {
		if err := t.condemn(id, by, plan); err != nil {
			return nil, err
		}
	}
	return outcomes, t.addSums()
}

// exec runs a statement that returns nothing.
func (t *publishing) exec(query string, args ...any) error {
	return sqlitex.Execute(t.conn, query, &sqlitex.ExecOptions{Args: args})
}

// condemn takes one item out of the live ones, and its nar if no other has it.
func (t *publishing) condemn(id, by, plan int64) error {
	var nar, dir int64
	err := sqlitex.Execute(t.conn, "SELECT nar, dir FROM items WHERE id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
		nar, dir = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}})
	if err != nil {
		return err
	}
	fs, err := files(t.conn, nar) // before their owner's name is gone
	if err != nil {
		return err
	}
	others, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM items WHERE nar = ? AND id <> ?)", nar, id)
	if err != nil {
		return err
	}
	err = t.exec(`INSERT INTO condemned(id, hash, dir, name, nar, published, by, template, narinfo, nar_hash, nar_size, withdrawn, withdrawn_by, plan)
		SELECT items.id, items.hash, dir, name, nar, published, by, template, narinfo, nars.hash, nars.size, ?, ?, ? FROM items JOIN nars ON nars.id = nar WHERE items.id = ?`,
		t.now.UnixMilli(), by, plan, id)
	if err != nil {
		return err
	}
	for _, q := range []string{"INSERT INTO condemned_refs SELECT id, refs FROM refs WHERE id = ?", "DELETE FROM refs WHERE id = ?", "DELETE FROM items WHERE id = ?"} {
		if err := t.exec(q, id); err != nil {
			return err
		}
	}
	t.sums.items = added(t.sums.items, dir, -1)
	if others > 0 {
		err = t.disown(nar, id, fs)
	} else {
		err = t.condemnNar(nar, fs)
	}
	if err != nil {
		return err
	}
	return t.change(catalog.ChangeWithdrawn, id)
}

// disown writes the keys of an item that leaves in full: other items have its nar, and go on with its files.
func (t *publishing) disown(nar, owner int64, fs []catalog.File) error {
	for _, f := range fs {
		method, err := methodNumber(f.Compression)
		if err != nil {
			return err
		}
		err = t.exec("UPDATE files SET key = ?, owner = NULL, generation = NULL WHERE nar = ? AND method = ? AND owner = ?", string(f.Key), nar, method, owner)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *publishing) condemnNar(nar int64, fs []catalog.File) error {
	size, err := scalar(t.conn, "SELECT size FROM nars WHERE id = ?", nar)
	if err != nil {
		return err
	}
	if err := t.exec("INSERT INTO condemned_nars(id, hash, size) SELECT id, hash, size FROM nars WHERE id = ?", nar); err != nil {
		return err
	}
	for _, f := range fs {
		method, err := methodNumber(f.Compression)
		if err != nil {
			return err
		}
		err = t.exec("INSERT INTO condemned_files(nar, method, size, sha256, verified, key) VALUES(?, ?, ?, ?, ?, ?)", nar, method, f.Size, f.SHA256[:], millis(f.Verified), string(f.Key))
		if err != nil {
			return err
		}
		if err := spend(t.conn, f.Key); err != nil {
			return err
		}
		t.sums.files, t.sums.bytes = t.sums.files-1, t.sums.bytes-f.Size
	}
	t.sums.nars, t.sums.narBytes = t.sums.nars-1, t.sums.narBytes-size
	if err := t.exec("DELETE FROM files WHERE nar = ?", nar); err != nil {
		return err
	}
	return t.exec("DELETE FROM nars WHERE id = ?", nar)
}

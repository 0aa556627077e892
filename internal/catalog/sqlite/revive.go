package sqlite

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Restore implements catalog.Collector.
func (db *DB) Restore(ctx context.Context, hs []storepath.HashPart) ([]catalog.RestoreVerdict, error) {
	var verdicts []catalog.RestoreVerdict
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		t := db.publishing(conn)
		verdicts = make([]catalog.RestoreVerdict, len(hs))
		for i, h := range hs {
			live, err := t.id(h)
			if err != nil {
				return err
			}
			if live != 0 {
				verdicts[i] = catalog.StillLive
				continue
			}
			if live, err = t.revive(h); err != nil {
				return err
			}
			if live == 0 {
				verdicts[i] = catalog.NotRestored
			}
		}
		return t.addSums()
	})
	if err != nil {
		return nil, fmt.Errorf("restore %d items: %w", len(hs), err)
	}
	return verdicts, nil
}

// revivable returns the id of a condemned item that can be brought back, or 0. Mostly nothing is condemned, and then nobody is asked for.
func (t *publishing) revivable(h storepath.HashPart) (int64, error) {
	if !t.condemned {
		return 0, nil
	}
	return scalar(t.conn, "SELECT id FROM condemned WHERE hash = ? AND deleting = 0", order(h))
}

// reviveFor brings back an item that is to be published, if it is condemned, and those of its references that are.
func (t *publishing) reviveFor(it *catalog.Item) error {
	if !t.condemned {
		return nil
	}
	if _, err := t.revive(it.Path.HashPart()); err != nil {
		return err
	}
	for _, r := range it.References {
		if _, err := t.revive(r.HashPart()); err != nil {
			return err
		}
	}
	return nil
}

// revive makes an item live again, after everything that it references, and returns its new id: 0 if it is not condemned. An item that is
// live has its id returned.
func (t *publishing) revive(h storepath.HashPart) (int64, error) {
	if id, err := t.id(h); err != nil || id != 0 {
		return id, err
	}
	was, err := t.revivable(h)
	if err != nil || was == 0 {
		return 0, err
	}
	var refs []byte
	err = sqlitex.Execute(t.conn, "SELECT refs FROM condemned_refs WHERE id = ?", &sqlitex.ExecOptions{Args: []any{was}, ResultFunc: func(s *sqlite.Stmt) error {
		refs = columnBytes(s, 0)
		return nil
	}})
	if err != nil {
		return 0, err
	}
	var ids []int64
	if err := eachReference(was, refs, func(ref int64) { ids = append(ids, ref) }); err != nil {
		return 0, err
	}
	for i, ref := range ids {
		b, err := t.db.base(t.conn, ref)
		if err != nil {
			return 0, err
		}
		if ids[i], err = t.revive(b.HashPart()); err != nil {
			return 0, err
		}
		if ids[i] == 0 {
			return 0, fmt.Errorf("%w: %s is condemned, and its reference %s is not there", catalog.ErrDamaged, h, b)
		}
	}
	return t.reviveOne(h, was, ids)
}

// publishReleased publishes an item that had waited, or lets it wait for what has been deleted meanwhile.
func (t *publishing) publishReleased(p *catalog.Publication) (catalog.Outcome, error) {
	missing, err := t.missing(&p.Item)
	if err != nil {
		return catalog.Outcome{}, err
	}
	if len(missing) > 0 {
		return catalog.Outcome{Verdict: catalog.Waiting, Missing: missing}, t.keepWaiting(p, missing)
	}
	if err := t.reviveFor(&p.Item); err != nil {
		return catalog.Outcome{}, err
	}
	return t.publishOne(p)
}

// reviveOne moves one item, whose references have the ids refs by now.
func (t *publishing) reviveOne(h storepath.HashPart, was int64, refs []int64) (id int64, err error) {
	r, err := condemnedOne(t.conn, "id = ?", was)
	if err != nil {
		return 0, err
	}
	live, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM nars WHERE id = ?)", r.nar)
	if err != nil {
		return 0, err
	}
	var fs []catalog.File
	if live == 0 {
		if fs, err = t.reviveNar(r.nar); err != nil {
			return 0, err
		}
	}
	dir, err := scalar(t.conn, "SELECT dir FROM condemned WHERE id = ?", was)
	if err != nil {
		return 0, err
	}
	err = t.exec(`INSERT INTO items(hash, dir, name, nar, published, by, template, narinfo) SELECT hash, dir, name, nar, published, by, template, narinfo FROM condemned WHERE id = ?`, was)
	if err != nil {
		return 0, err
	}
	id = t.conn.LastInsertRowID()
	for _, f := range fs {
		if err := put(t.conn, r.nar, f, id, r.base()); err != nil {
			return 0, err
		}
	}
	for i := range refs {
		refs[i] = id - refs[i]
	}
	if err := t.exec("INSERT INTO refs(id, refs) VALUES(?, ?)", id, packed(refs)); err != nil {
		return 0, err
	}
	for _, q := range []string{"DELETE FROM condemned_refs WHERE id = ?", "DELETE FROM condemned WHERE id = ?"} {
		if err := t.exec(q, was); err != nil {
			return 0, err
		}
	}
	if err := t.exec("UPDATE former SET now = ? WHERE now = ?", id, was); err != nil {
		return 0, err
	}
	if err := t.exec("INSERT INTO former(id, now) VALUES(?, ?)", was, id); err != nil {
		return 0, err
	}
	t.live[h] = liveItem{id, r.name}
	t.sums.items = added(t.sums.items, dir, 1)
	return id, t.change(catalog.ChangeRestored, id)
}

// reviveNar moves a nar that is not deleting, without its files, which it returns for the caller to put.
func (t *publishing) reviveNar(nar int64) ([]catalog.File, error) {
	fs, err := condemnedFiles(t.conn, nar)
	if err != nil {
		return nil, err
	}
	size, err := scalar(t.conn, "SELECT size FROM condemned_nars WHERE id = ? AND deleting = 0", nar)
	if err != nil {
		return nil, err
	}
	if err := t.exec("INSERT INTO nars(id, hash, size) SELECT id, hash, size FROM condemned_nars WHERE id = ? AND deleting = 0", nar); err != nil {
		return nil, err
	}
	if t.conn.Changes() != 1 {
		return nil, fmt.Errorf("%w: nar %d of a condemned item is not there", catalog.ErrDamaged, nar)
	}
	for _, q := range []string{"DELETE FROM condemned_files WHERE nar = ?", "DELETE FROM condemned_nars WHERE id = ?"} {
		if err := t.exec(q, nar); err != nil {
			return nil, err
		}
	}
	t.sums.nar(size)
	for _, f := range fs {
		t.sums.file(f.Size)
	}
	return fs, nil
}

// adopt makes the condemned nar with this hash live for an item that is being published, and returns its number and size, or 0 if there is none.
func (t *publishing) adopt(hash digest.SHA256) (nar, size int64, err error) {
	if !t.condemned {
		return 0, 0, nil
	}
	err = sqlitex.Execute(t.conn, "SELECT id, size FROM condemned_nars WHERE hash = ? AND deleting = 0", &sqlitex.ExecOptions{Args: []any{hash[:]}, ResultFunc: func(s *sqlite.Stmt) error {
		nar, size = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}})
	if err != nil || nar == 0 {
		return 0, 0, err
	}
	fs, err := t.reviveNar(nar)
	if err != nil {
		return 0, 0, err
	}
	for _, f := range fs {
		if err := put(t.conn, nar, f, 0, ""); err != nil {
			return 0, 0, err
		}
	}
	return nar, size, nil
}

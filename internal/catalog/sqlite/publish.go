package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Publish implements catalog.Publisher.
func (db *DB) Publish(ctx context.Context, ps []catalog.Publication) ([]catalog.Outcome, error) {
	var outcomes []catalog.Outcome
	beside := splitAll(ps)
	defer beside.stop()
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		t := &publishing{transaction: transaction{db: db, conn: conn}, now: time.Now().UTC(), live: make(map[storepath.HashPart]liveItem), splits: beside}
		waiting, err := scalar(conn, "SELECT EXISTS (SELECT 1 FROM waiting)")
		if err != nil {
			return err
		}
		t.waiting = waiting > 0
		condemned, err := scalar(conn, "SELECT EXISTS (SELECT 1 FROM condemned)")
		if err != nil {
			return err
		}
		t.condemned = condemned > 0
		outcomes = make([]catalog.Outcome, len(ps))
		undecided := make([]int, len(ps))
		for i := range ps {
			undecided[i] = i
		}
		// What is listed after something that needs it gets its turn in a later round; a round that decides nothing is the last.
		for {
			left := undecided[:0:0]
			for _, i := range undecided {
				missing, err := t.missing(&ps[i].Item)
				if err != nil {
					return err
				}
				if len(missing) > 0 {
					outcomes[i].Missing = missing
					left = append(left, i)
					continue
				}
				if outcomes[i], err = t.publish(&ps[i]); err != nil {
					return fmt.Errorf("publish %s: %w", ps[i].Path, err)
				}
			}
			progress := len(left) < len(undecided)
			if undecided = left; !progress {
				break
			}
		}
		if err := t.addSums(); err != nil {
			return err
		}
		for _, i := range undecided {
			// Asked again, since an item that waits does not make the one that needs it live.
			if ps[i].Wait {
				outcomes[i].Verdict = catalog.Waiting
				if err := t.keepWaiting(&ps[i], outcomes[i].Missing); err != nil {
					return fmt.Errorf("keep %s waiting: %w", ps[i].Path, err)
				}
				continue
			}
			outcomes[i].Verdict = catalog.Refused
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return outcomes, nil
}

var errNoFile = errors.New("it has no file, and no published item has its nar")

// publishing is one transaction of Publish.
type publishing struct {
	transaction
	now    time.Time
	live   map[storepath.HashPart]liveItem // already looked up or handed out
	sums   sums
	splits *splits
	// waiting is whether anything waits; mostly nothing does, and then nobody is asked for.
	waiting bool
	// condemned is whether anything is, likewise.
	condemned bool
	watched   *bool // whether a collector wants to know what is asked for; nil until somebody looked
}

// id returns the id of a published item, or 0.
func (t *publishing) id(h storepath.HashPart) (int64, error) {
	if it := t.live[h]; it.id != 0 {
		return it.id, nil
	}
	var it liveItem
	err := sqlitex.Execute(t.conn, "SELECT id, name FROM items WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{order(h)}, ResultFunc: func(s *sqlite.Stmt) error {
		it = liveItem{s.ColumnInt64(0), s.ColumnText(1)}
		return nil
	}})
	if err == nil && it.id != 0 {
		t.live[h] = it
	}
	return it.id, err
}

// liveItem is a published item, as far as those need to know it who reference it.
type liveItem struct {
	id   int64
	name string // without the hash part
}

// callsByName reports whether each reference of it, all of which are published, has the name that the item with its hash part has. One
// that has not cannot be had from the tables.
func (t *publishing) callsByName(it *catalog.Item) bool {
	for _, r := range it.References {
		if r != it.Path.Base && t.live[r.HashPart()].name != r.Name() {
			return false
		}
	}
	return true
}

// missing returns the references of it that are neither published nor condemned.
func (t *publishing) missing(it *catalog.Item) (missing []storepath.Base, err error) {
	for _, r := range it.References {
		if r == it.Path.Base {
			continue
		}
		id, err := t.id(r.HashPart())
		if err != nil {
			return nil, err
		}
		if id == 0 {
			id, err = t.revivable(r.HashPart())
			if err != nil {
				return nil, err
			}
		}
		if id == 0 {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// publish makes an item live whose references are, and then what had waited for it.
func (t *publishing) publish(p *catalog.Publication) (catalog.Outcome, error) {
	if err := t.reviveFor(&p.Item); err != nil {
		return catalog.Outcome{}, err
	}
	out, err := t.publishOne(p)
	if err != nil || out.Verdict != catalog.Published || !t.waiting {
		return out, err
	}
	queue := []storepath.HashPart{p.Path.HashPart()}
	for len(queue) > 0 {
		released, err := t.release(queue[0])
		if err != nil {
			return out, err
		}
		queue = queue[1:]
		for i := range released {
			one, err := t.publishReleased(&released[i])
			if errors.Is(err, errNoFile) {
				// Its nar was published when it began to wait and is not any more. Whoever brought it has to do so again; the
				// reference that it waited for is not to blame.
				hash := released[i].Path.HashPart().Bytes()
				if err := t.forget(hash[:]); err != nil {
					return out, err
				}
				continue
			}
			if err != nil {
				return out, fmt.Errorf("publish %s, which had waited: %w", released[i].Path, err)
			}
			if one.Verdict == catalog.Published {
				out.Released = append(out.Released, released[i].Path)
				queue = append(queue, released[i].Path.HashPart())
			}
		}
	}
	return out, nil
}

func (t *publishing) publishOne(p *catalog.Publication) (out catalog.Outcome, err error) {
	hash := p.Path.HashPart().Bytes()
	var (
		id      int64
		nar     int64
		narHash []byte
	)
	err = sqlitex.Execute(t.conn, "SELECT items.id, nars.id, nars.hash FROM items JOIN nars ON nars.id = items.nar WHERE items.hash = ?",
		&sqlitex.ExecOptions{Args: []any{order(p.Path.HashPart())}, ResultFunc: func(s *sqlite.Stmt) error {
			id, nar, narHash = s.ColumnInt64(0), s.ColumnInt64(1), columnBytes(s, 2)
			return nil
		}})
	if err != nil {
		return out, err
	}
	if id != 0 {
		if err := t.wish(id); err != nil {
			return out, err
		}
		if string(narHash) != string(p.NarHash[:]) {
			out.Verdict = catalog.Differs
			copy(out.Other[:], narHash)
			return out, sqlitex.Execute(t.conn, "INSERT OR IGNORE INTO differences(hash, other, live, path, by, seen) VALUES(?, ?, ?, ?, ?, ?)",
				&sqlitex.ExecOptions{Args: []any{hash[:], p.NarHash[:], narHash, p.Path.String(), p.By, t.now.UnixMilli()}})
		}
		out.Verdict = catalog.Present
		have, err := files(t.conn, nar)
		if err != nil {
			return out, err
		}
		lacking, unused, err := t.lacking(have, p.Files)
		if err != nil {
			return out, err
		}
		out.Unused = unused
		for _, f := range lacking {
			if err := put(t.conn, nar, f, id, p.Path.Base); err != nil {
				return out, err
			}
			t.sums.file(f.Size)
		}
		if len(lacking) > 0 {
			return out, t.change(catalog.ChangeFilesAdded, id)
		}
		return out, nil
	}

	nar, have, err := t.nar(p)
	if err != nil {
		return out, err
	}
	lacking, unused, err := t.lacking(have, p.Files)
	if err != nil {
		return out, err
	}
	out.Unused = unused
	if len(have)+len(lacking) == 0 {
		return out, errNoFile
	}
	var template any
	var own []byte
	if !t.callsByName(&p.Item) {
		own = p.Narinfo
	} else if s, ok := t.splits.of(p, have, lacking); ok {
		template, own, err = t.keep(&p.Item, s)
	} else {
		template, own, err = t.split(&p.Item, append(have, lacking...))
	}
	if err != nil {
		return out, err
	}
	dir, err := t.number(string(p.Path.Dir), false)
	if err != nil {
		return out, err
	}
	by, err := t.number(p.By, false)
	if err != nil {
		return out, err
	}
	err = sqlitex.Execute(t.conn, "INSERT INTO items(hash, dir, name, nar, published, by, template, narinfo) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
		&sqlitex.ExecOptions{Args: []any{order(p.Path.HashPart()), dir, p.Path.Name(), nar, t.now.UnixMilli(), by, template, own}})
	if err != nil {
		return out, err
	}
	id = t.conn.LastInsertRowID()
	t.live[p.Path.HashPart()] = liveItem{id, p.Path.Name()}
	t.sums.item(dir)
	if len(have) == 0 {
		t.sums.nar(p.NarSize)
	}
	for _, f := range lacking {
		if err := put(t.conn, nar, f, id, p.Path.Base); err != nil {
			return out, err
		}
		t.sums.file(f.Size)
	}
	packed, err := t.pack(p, id)
	if err != nil {
		return out, err
	}
	if err := sqlitex.Execute(t.conn, "INSERT INTO refs(id, refs) VALUES(?, ?)", &sqlitex.ExecOptions{Args: []any{id, packed}}); err != nil {
		return out, err
	}
	if t.waiting {
		if err := t.forget(hash[:]); err != nil {
			return out, err
		}
	}
	return out, t.change(catalog.ChangePublished, id)
}

// pack encodes the references of a new item as the ascending distances from its id, each as the varint of its difference to the
// one before.
func (t *publishing) pack(p *catalog.Publication, id int64) ([]byte, error) {
	distances := make([]int64, 0, len(p.References))
	for _, r := range p.References {
		if r == p.Path.Base {
			continue
		}
		ref, err := t.id(r.HashPart())
		if err != nil {
			return nil, err
		}
		distances = append(distances, id-ref)
	}
	return packed(distances), nil
}

// nar returns the row of the publication's nar, which may be there from another item, with its files.
func (t *publishing) nar(p *catalog.Publication) (id int64, have []catalog.File, err error) {
	var size int64
	err = sqlitex.Execute(t.conn, "SELECT id, size FROM nars WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{p.NarHash[:]}, ResultFunc: func(s *sqlite.Stmt) error {
		id, size = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}})
	if err != nil {
		return 0, nil, err
	}
	if id == 0 {
		if id, size, err = t.adopt(p.NarHash); err != nil {
			return 0, nil, err
		}
	}
	if id == 0 && len(p.Files) == 0 {
		return 0, nil, errNoFile
	}
	if id == 0 {
		err := sqlitex.Execute(t.conn, "INSERT INTO nars(hash, size) VALUES(?, ?)", &sqlitex.ExecOptions{Args: []any{p.NarHash[:], p.NarSize}})
		return t.conn.LastInsertRowID(), nil, err
	}
	if size != p.NarSize {
		return 0, nil, fmt.Errorf("nar size %d, but the nar with hash %s has %d bytes", p.NarSize, p.NarHash, size)
	}
	have, err = files(t.conn, id)
	return id, have, err
}

// account makes an upload of a key whose object is not needed, if its reservation was cleaned up before the object was put.
func (t *publishing) account(k objstore.Key) error {
	_, live, err := fileRow(t.conn, k)
	if err != nil || live {
		return err
	}
	state, err := t.spentUpload(k)
	if err != nil || state < 0 {
		return err
	}
	return sqlitex.Execute(t.conn, "INSERT OR IGNORE INTO uploads(key, since, state) VALUES(?, ?, ?)", &sqlitex.ExecOptions{Args: []any{string(k), t.now.UnixMilli(), state}})
}

// lacking returns those of files in whose compression the nar is not there yet, which are uploads no more.
func (t *publishing) lacking(have, files []catalog.File) (lacking []catalog.File, unused []objstore.Key, err error) {
	for _, f := range files {
		there := func(o catalog.File) bool { return o.Compression == f.Compression }
		if i := slices.IndexFunc(have, there); i >= 0 {
			if have[i].Key != f.Key {
				unused = append(unused, f.Key)
				if err := t.account(f.Key); err != nil {
					return nil, nil, err
				}
			}
			continue
		}
		if i := slices.IndexFunc(lacking, there); i >= 0 {
			if lacking[i].Key != f.Key {
				unused = append(unused, f.Key)
				if err := t.account(f.Key); err != nil {
					return nil, nil, err
				}
			}
			continue
		}
		if err := sqlitex.Execute(t.conn, "DELETE FROM uploads WHERE key = ? AND state = 0", &sqlitex.ExecOptions{Args: []any{string(f.Key)}}); err != nil {
			return nil, nil, err
		}
		if t.conn.Changes() == 0 {
			return nil, nil, fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		lacking = append(lacking, f)
	}
	return lacking, unused, nil
}

func (t *publishing) change(kind catalog.ChangeKind, item int64) error {
	return sqlitex.Execute(t.conn, "INSERT INTO changes(op, item, at) VALUES(?, ?, ?)", &sqlitex.ExecOptions{Args: []any{int64(kind), item, t.now.UnixMilli()}})
}

func columnBytes(s *sqlite.Stmt, col int) []byte {
	b := make([]byte, s.ColumnLen(col))
	s.ColumnBytes(col, b)
	return b
}

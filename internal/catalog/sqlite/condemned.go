package sqlite

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// afterlife is where items are when they are not live any more: in tables of their own, so that no look-up has to pass over them. What comes
// back gets a new id, so that every reference still is to a smaller one and who reads items by ascending ids sees it.
const afterlife = `
-- Items that are withdrawn, under the ids that they had in items.
CREATE TABLE condemned(
	id INTEGER PRIMARY KEY,
	hash BLOB NOT NULL,
	dir INTEGER NOT NULL REFERENCES texts(id),
	name TEXT NOT NULL,
	nar INTEGER NOT NULL,               -- in nars while a live item has it, else in condemned_nars
	published INTEGER NOT NULL,
	by INTEGER NOT NULL REFERENCES texts(id),
	template INTEGER REFERENCES texts(id),
	narinfo BLOB NOT NULL,
	nar_hash BLOB NOT NULL,
	nar_size INTEGER NOT NULL,
	withdrawn INTEGER NOT NULL,         -- unix milliseconds
	withdrawn_by INTEGER NOT NULL REFERENCES texts(id),
	plan INTEGER NOT NULL REFERENCES texts(id),
	deleting INTEGER NOT NULL DEFAULT 0 -- unix milliseconds; 0: it can be brought back
);
CREATE UNIQUE INDEX condemned_by_hash ON condemned(hash) WHERE deleting = 0;
CREATE INDEX condemned_by_nar ON condemned(nar);

-- The references of those that can be brought back, as refs has them. An id in them may since have become another: see former.
CREATE TABLE condemned_refs(id INTEGER PRIMARY KEY REFERENCES condemned(id), refs BLOB NOT NULL);

-- Nars that no live item has, with their files.
CREATE TABLE condemned_nars(id INTEGER PRIMARY KEY, hash BLOB NOT NULL, size INTEGER NOT NULL, deleting INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX condemned_nars_by_hash ON condemned_nars(hash) WHERE deleting = 0;
CREATE TABLE condemned_files(
	nar INTEGER NOT NULL REFERENCES condemned_nars(id),
	method INTEGER NOT NULL,
	size INTEGER NOT NULL,
	sha256 BLOB NOT NULL,
	verified INTEGER NOT NULL,
	key TEXT NOT NULL UNIQUE,
	PRIMARY KEY(nar, method)
) WITHOUT ROWID;

-- What became of the ids of items that were brought back: the id that the item has now, or had last.
CREATE TABLE former(id INTEGER PRIMARY KEY, now INTEGER NOT NULL);
CREATE INDEX former_by_now ON former(now);

-- Items whose objects are deleted.
CREATE TABLE tombstones(
	id INTEGER PRIMARY KEY,
	hash BLOB NOT NULL,
	dir INTEGER NOT NULL REFERENCES texts(id),
	name TEXT NOT NULL,
	nar_hash BLOB NOT NULL,
	nar_size INTEGER NOT NULL,
	withdrawn INTEGER NOT NULL,
	withdrawn_by INTEGER NOT NULL REFERENCES texts(id),
	plan INTEGER NOT NULL REFERENCES texts(id),
	deleted INTEGER NOT NULL
);

-- The last generation of an item's keys that was part of something that was withdrawn or replaced: no key up to it is handed out again.
CREATE TABLE spent(hash BLOB NOT NULL, method INTEGER NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY(hash, method)) WITHOUT ROWID;

-- Promises to uploaders, of items by their ids.
CREATE TABLE leases(id INTEGER PRIMARY KEY AUTOINCREMENT, holder TEXT NOT NULL, expires INTEGER NOT NULL);
CREATE INDEX leases_by_expiry ON leases(expires);
CREATE TABLE leased(item INTEGER NOT NULL, lease INTEGER NOT NULL REFERENCES leases(id) ON DELETE CASCADE, PRIMARY KEY(item, lease)) WITHOUT ROWID;
CREATE INDEX leased_by_lease ON leased(lease);

-- What collectors' decisions are compared with. While watched, wishes has the live items that somebody was told of, each with the number
-- that moment.wishes had then; floor is the number from which on none was forgotten.
CREATE TABLE moment(only INTEGER PRIMARY KEY CHECK (only = 1), wishes INTEGER NOT NULL, roots INTEGER NOT NULL, floor INTEGER NOT NULL, watched INTEGER NOT NULL);
INSERT INTO moment VALUES(1, 0, 0, 0, 0);
CREATE TABLE wishes(item INTEGER PRIMARY KEY, n INTEGER NOT NULL);
`

// condemnedRow is what is needed of a row of the condemned table.
type condemnedRow struct {
	id, nar   int64
	hash      [20]byte // as order makes it
	name      string
	withdrawn int64
	deleting  bool
}

func (r *condemnedRow) base() storepath.Base { return base(r.hash[:], r.name) }

func condemnedOne(conn *sqlite.Conn, where string, args ...any) (r condemnedRow, err error) {
	err = sqlitex.Execute(conn, "SELECT id, nar, hash, name, withdrawn, deleting FROM condemned WHERE "+where, &sqlitex.ExecOptions{Args: args, ResultFunc: func(s *sqlite.Stmt) error {
		r = condemnedRow{id: s.ColumnInt64(0), nar: s.ColumnInt64(1), name: s.ColumnText(3), withdrawn: s.ColumnInt64(4), deleting: s.ColumnInt64(5) != 0}
		s.ColumnBytes(2, r.hash[:])
		return nil
	}})
	return r, err
}

// condemnedFiles returns the files of a nar that no live item has.
func condemnedFiles(conn *sqlite.Conn, nar int64) (fs []catalog.File, err error) {
	err = sqlitex.Execute(conn, "SELECT method, size, sha256, verified, key FROM condemned_files WHERE nar = ?", &sqlitex.ExecOptions{Args: []any{nar}, ResultFunc: func(s *sqlite.Stmt) error {
		n := s.ColumnInt(0)
		if n < 0 || n >= len(methods) {
			return fmt.Errorf("%w: compression %d is not known", catalog.ErrNewer, n)
		}
		f := catalog.File{Compression: methods[n], Size: s.ColumnInt64(1), Verified: fromMillis(s.ColumnInt64(3)), Key: objstore.Key(s.ColumnText(4))}
		s.ColumnBytes(2, f.SHA256[:])
		fs = append(fs, f)
		return nil
	}})
	sortFiles(fs)
	return fs, err
}

// deletingKeys returns the keys of the objects to delete with an item whose nar this is: none if the nar is not deleting.
func deletingKeys(conn *sqlite.Conn, nar int64) (keys []objstore.Key, err error) {
	err = sqlitex.Execute(conn, "SELECT key FROM condemned_nars JOIN condemned_files ON nar = id WHERE id = ? AND deleting > 0 ORDER BY key",
		&sqlitex.ExecOptions{Args: []any{nar}, ResultFunc: func(s *sqlite.Stmt) error {
			keys = append(keys, objstore.Key(s.ColumnText(0)))
			return nil
		}})
	return keys, err
}

// Withdrawn implements catalog.Collector.
func (db *DB) Withdrawn(ctx context.Context, after int64) iter.Seq2[catalog.WithdrawnItem, error] {
	return walk(ctx, db, "withdrawn items", func(conn *sqlite.Conn, last *catalog.WithdrawnItem) (ws []catalog.WithdrawnItem, err error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		var nars []int64
		err = sqlitex.Execute(conn, `SELECT c.id, d.text, c.hash, c.name, c.nar_hash, c.nar_size, c.withdrawn, b.text, p.text, c.deleting, c.nar FROM condemned c
			JOIN texts d ON d.id = c.dir JOIN texts b ON b.id = c.withdrawn_by JOIN texts p ON p.id = c.plan WHERE c.id > ? ORDER BY c.id LIMIT ?`,
			&sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
				t := scanTombstone(s)
				w := catalog.WithdrawnItem{Path: t.Path, NarHash: t.NarHash, NarSize: t.NarSize, Sequence: t.Sequence, State: catalog.StateCondemned, At: t.Withdrawn, By: t.By, Plan: t.Plan}
				if s.ColumnInt64(9) > 0 {
					w.State = catalog.StateDeleting
				}
				ws, nars = append(ws, w), append(nars, s.ColumnInt64(10))
				return nil
			}})
		for i := range ws {
			if ws[i].State == catalog.StateDeleting && err == nil {
				ws[i].Keys, err = deletingKeys(conn, nars[i])
			}
		}
		return ws, err
	})
}

// Tombstones implements catalog.Collector.
func (db *DB) Tombstones(ctx context.Context, after int64) iter.Seq2[catalog.Tombstone, error] {
	return walk(ctx, db, "tombstones", func(conn *sqlite.Conn, last *catalog.Tombstone) (ts []catalog.Tombstone, err error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		err = sqlitex.Execute(conn, `SELECT c.id, d.text, c.hash, c.name, c.nar_hash, c.nar_size, c.withdrawn, b.text, p.text, c.deleted FROM tombstones c
			JOIN texts d ON d.id = c.dir JOIN texts b ON b.id = c.withdrawn_by JOIN texts p ON p.id = c.plan WHERE c.id > ? ORDER BY c.id LIMIT ?`,
			&sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
				t := scanTombstone(s)
				t.Deleted = fromMillis(s.ColumnInt64(9))
				ts = append(ts, t)
				return nil
			}})
		return ts, err
	})
}

func scanTombstone(s *sqlite.Stmt) (t catalog.Tombstone) {
	t = scanEnd(s)
	t.Withdrawn, t.By, t.Plan = fromMillis(s.ColumnInt64(6)), s.ColumnText(7), s.ColumnText(8)
	return t
}

// scanEnd reads what is known of an item to the end.
func scanEnd(s *sqlite.Stmt) (t catalog.Tombstone) {
	t.Sequence = s.ColumnInt64(0)
	var hash [20]byte
	s.ColumnBytes(2, hash[:])
	t.Path = storepath.Path{Dir: storepath.Dir(s.ColumnText(1)), Base: base(hash[:], s.ColumnText(3))}
	s.ColumnBytes(4, t.NarHash[:])
	t.NarSize = s.ColumnInt64(5)
	return t
}

// spend keeps a key from being handed out again.
func spend(conn *sqlite.Conn, k objstore.Key) error {
	m, b, generation, err := catalog.ParseNarKey(k)
	if err != nil {
		return nil // no key of this form is handed out
	}
	method, err := methodNumber(m)
	if err != nil {
		return err
	}
	return sqlitex.Execute(conn, "INSERT INTO spent(hash, method, generation) VALUES(?, ?, ?) ON CONFLICT(hash, method) DO UPDATE SET generation = max(generation, excluded.generation)",
		&sqlitex.ExecOptions{Args: []any{order(b.HashPart()), method, generation}})
}

// lastSpent returns the last generation of an item's keys that is spent, or 0.
func lastSpent(conn *sqlite.Conn, b storepath.Base, m compress.Method) (int, error) {
	method, err := methodNumber(m)
	if err != nil {
		return 0, err
	}
	n, err := scalar(conn, "SELECT generation FROM spent WHERE hash = ? AND method = ?", order(b.HashPart()), method)
	return int(n), err
}

// isSpent reports whether a key may never be handed out again.
func isSpent(conn *sqlite.Conn, k objstore.Key) (bool, error) {
	m, b, generation, err := catalog.ParseNarKey(k)
	if err != nil {
		return false, nil
	}
	last, err := lastSpent(conn, b, m)
	return generation <= last, err
}

// spentUpload returns in which state a key that is not live becomes an upload: 1, being cleaned up, if it may never be published again, and
// -1, not at all, if it is that of a nar that is condemned or deleting.
func (t *publishing) spentUpload(k objstore.Key) (state int64, err error) {
	n, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM condemned_files WHERE key = ?)", string(k))
	if err != nil || n > 0 {
		return -1, err
	}
	spent, err := isSpent(t.conn, k)
	if spent {
		state = 1
	}
	return state, err
}

// selectCondemned reads a condemned item as selectItem reads a live one.
const selectCondemned = `SELECT condemned.id, condemned.hash, condemned.dir, condemned.name, condemned.nar_hash, condemned.nar_size, condemned.published, condemned.nar,
	condemned.template, condemned.narinfo, condemned_refs.refs FROM condemned JOIN condemned_refs ON condemned_refs.id = condemned.id `

// completeCondemned is complete for a row of selectCondemned.
func (db *DB) completeCondemned(conn *sqlite.Conn, r itemRow, text func(*sqlite.Conn, int64) (string, error)) (catalog.Item, error) {
	fs, err := condemnedFiles(conn, r.nar)
	if err != nil {
		return r.item, err
	}
	if len(fs) == 0 { // a live item has the nar
		return db.complete(conn, r, text)
	}
	return db.completeWith(conn, r, fs, text)
}

// Condemned implements catalog.Lifecycle.
func (db *DB) Condemned(ctx context.Context, h storepath.HashPart) (it catalog.Item, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		var rows []itemRow
		err := sqlitex.Execute(conn, selectCondemned+"WHERE condemned.hash = ? AND deleting = 0", &sqlitex.ExecOptions{Args: []any{order(h)}, ResultFunc: func(s *sqlite.Stmt) error {
			rows = append(rows, scanItem(s))
			return nil
		}})
		if err == nil && len(rows) == 0 {
			err = catalog.ErrNotFound
		}
		if err != nil {
			return err
		}
		it, err = db.completeCondemned(conn, rows[0], db.texts.of)
		return err
	})
	if err != nil {
		return catalog.Item{}, fmt.Errorf("look up %s, which may be withdrawn: %w", h, err)
	}
	return it, nil
}

// condemnedWithNar returns the condemned items whose nar a live item has too.
func (t *transaction) condemnedWithNar(nar int64) ([]catalog.Item, error) {
	return t.items(selectCondemned+"WHERE condemned.nar = ?", nar)
}

// keepWhole keeps the narinfos of condemned items as they are, for when the files change from which they were put together.
func keepWhole(conn *sqlite.Conn, items []catalog.Item) error {
	for i := range items {
		err := sqlitex.Execute(conn, "UPDATE condemned SET template = NULL, narinfo = ? WHERE id = ?", &sqlitex.ExecOptions{Args: []any{items[i].Narinfo, items[i].Sequence}})
		if err != nil {
			return err
		}
	}
	return nil
}

// formerName returns the base name of an item that is not live under this id any more, or "".
func formerName(conn *sqlite.Conn, id int64) (b storepath.Base, err error) {
	for _, q := range []string{
		"SELECT hash, name FROM condemned WHERE id = ?",
		"SELECT hash, name FROM tombstones WHERE id = ?",
		"SELECT hash, name FROM items WHERE id = (SELECT now FROM former WHERE id = ?)",
		"SELECT hash, name FROM condemned WHERE id = (SELECT now FROM former WHERE id = ?)",
		"SELECT hash, name FROM tombstones WHERE id = (SELECT now FROM former WHERE id = ?)",
	} {
		err = sqlitex.Execute(conn, q, &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
			var hash [20]byte
			s.ColumnBytes(0, hash[:])
			b = base(hash[:], s.ColumnText(1))
			return nil
		}})
		if err != nil || b != "" {
			return b, err
		}
	}
	return "", nil
}

// changed returns the item of a change as it is now, with its state: under the id that it had at the change or under a later one.
func (db *DB) changed(conn *sqlite.Conn, id int64) (it catalog.Item, state catalog.State, err error) {
	it, found, err := db.one(conn, "WHERE items.id = ?", id)
	if err != nil || found {
		return it, catalog.StateLive, err
	}
	now, err := scalar(conn, "SELECT now FROM former WHERE id = ?", id)
	if err != nil {
		return it, 0, err
	}
	if now != 0 {
		return db.changed(conn, now)
	}
	var r itemRow
	err = sqlitex.Execute(conn, selectCondemned+"WHERE condemned.id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
		r, found = scanItem(s), true
		return nil
	}})
	if err != nil {
		return it, 0, err
	}
	if found {
		it, err = db.completeCondemned(conn, r, db.texts.of)
		return it, catalog.StateCondemned, err
	}
	for _, last := range []struct {
		table string
		state catalog.State
	}{{"condemned", catalog.StateDeleting}, {"tombstones", catalog.StateGone}} {
		err = sqlitex.Execute(conn, "SELECT c.id, d.text, c.hash, c.name, c.nar_hash, c.nar_size FROM "+last.table+" c JOIN texts d ON d.id = c.dir WHERE c.id = ?",
			&sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
				t := scanEnd(s)
				it, found = catalog.Item{Path: t.Path, NarHash: t.NarHash, NarSize: t.NarSize, Sequence: t.Sequence}, true
				return nil
			}})
		if err != nil || found {
			return it, last.state, err
		}
	}
	return it, 0, catalog.ErrNotFound
}

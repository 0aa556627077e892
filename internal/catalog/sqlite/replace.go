package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Replace implements catalog.Publisher.
func (db *DB) Replace(ctx context.Context, old objstore.Key, f catalog.File) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		r, found, err := fileRow(conn, old)
		switch {
		case err != nil:
			return err
		case !found:
			return catalog.ErrNotFound
		case methods[r.method] != f.Compression:
			return fmt.Errorf("it is compressed by %s and %s by %s", methods[r.method], f.Key, f.Compression)
		}
		if err := sqlitex.Execute(conn, "DELETE FROM uploads WHERE key = ? AND state = 0 AND item = ''", &sqlitex.ExecOptions{Args: []any{string(f.Key)}}); err != nil {
			return err
		}
		if conn.Changes() == 0 {
			return fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		t := &transaction{db: db, conn: conn}
		items, err := t.withNar(r.nar)
		if err != nil {
			return err
		}
		condemned, err := t.condemnedWithNar(r.nar)
		if err != nil {
			return err
		}
		owner, of := int64(0), storepath.Base("")
		if _, b, _, err := catalog.ParseNarKey(f.Key); err == nil {
			if i := slices.IndexFunc(items, func(it catalog.Item) bool { return it.Path.Base == b }); i >= 0 {
				owner, of = items[i].Sequence, b
			}
		}
		size, err := scalar(conn, "SELECT size FROM files WHERE nar = ? AND method = ?", r.nar, r.method)
		if err != nil {
			return err
		}
		if err := sqlitex.Execute(conn, "DELETE FROM files WHERE nar = ? AND method = ?", &sqlitex.ExecOptions{Args: []any{r.nar, r.method}}); err != nil {
			return err
		}
		if err := put(conn, r.nar, f, owner, of); err != nil {
			return err
		}
		if err := t.repack(r.nar, items); err != nil {
			return err
		}
		if err := keepWhole(conn, condemned); err != nil {
			return err
		}
		if err := spend(conn, old); err != nil {
			return err
		}
		if err := sqlitex.Execute(conn, "UPDATE narsums SET bytes = bytes + ?", &sqlitex.ExecOptions{Args: []any{f.Size - size}}); err != nil {
			return err
		}
		now := time.Now().UnixMilli()
		if err := sqlitex.Execute(conn, "INSERT INTO uploads(key, since, state) VALUES(?, ?, 1)", &sqlitex.ExecOptions{Args: []any{string(old), now}}); err != nil {
			return err
		}
		return sqlitex.Execute(conn, "INSERT INTO changes(op, item, at) SELECT ?, id, ? FROM items WHERE nar = ? ORDER BY id", &sqlitex.ExecOptions{Args: []any{int64(catalog.ChangeFileReplaced), now, r.nar}})
	})
	if err != nil {
		return fmt.Errorf("replace file %s: %w", old, err)
	}
	return nil
}

// withNar returns the items that have a nar.
func (t *transaction) withNar(nar int64) ([]catalog.Item, error) {
	return t.items(selectItem+"WHERE items.nar = ? ORDER BY items.id", nar)
}

// items returns the items that a query selects.
func (t *transaction) items(query string, nar int64) (items []catalog.Item, err error) {
	var rows []itemRow
	err = sqlitex.Execute(t.conn, query, &sqlitex.ExecOptions{Args: []any{nar}, ResultFunc: func(s *sqlite.Stmt) error {
		rows = append(rows, scanItem(s))
		return nil
	}})
	for _, r := range rows {
		it, err := t.db.complete(t.conn, r, func(_ *sqlite.Conn, id int64) (string, error) { return t.text(id) })
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, err
}

// repack keeps the narinfos of all items with a nar as they are, after the files have changed from which they were put together. Those that
// are kept whole stay so: not all that is in them can be had from the tables.
func (t *transaction) repack(nar int64, items []catalog.Item) error {
	now, err := files(t.conn, nar)
	if err != nil {
		return err
	}
	for i := range items {
		template, own, err := t.split(&items[i], now)
		if err != nil {
			return err
		}
		err = sqlitex.Execute(t.conn, "UPDATE items SET template = ?, narinfo = ? WHERE id = ? AND template IS NOT NULL", &sqlitex.ExecOptions{Args: []any{template, own, items[i].Sequence}})
		if err != nil {
			return err
		}
	}
	return nil
}

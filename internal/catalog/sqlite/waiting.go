package sqlite

import (
	"encoding/json"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// keepWaiting records an item that nobody sees until missing are published. What waits twice is kept as it came last.
func (t *publishing) keepWaiting(p *catalog.Publication, missing []storepath.Base) error {
	hash := p.Path.HashPart().Bytes()
	if err := t.forget(hash[:]); err != nil {
		return err
	}
	t.waiting = true
	if len(p.Files) == 0 {
		// Told now, since at its release nobody would be there to be told.
		n, err := scalar(t.conn, `SELECT EXISTS (SELECT 1 FROM files JOIN nars ON nars.id = files.nar WHERE nars.hash = ?1)
			OR EXISTS (SELECT 1 FROM condemned_nars WHERE hash = ?1 AND deleting = 0)`, p.NarHash[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoFile
		}
	}
	blob, err := json.Marshal(p)
	if err != nil {
		return err
	}
	err = sqlitex.Execute(t.conn, "INSERT INTO waiting(hash, since, publication) VALUES(?, ?, ?)", &sqlitex.ExecOptions{Args: []any{hash[:], t.now.UnixMilli(), blob}})
	if err != nil {
		return err
	}
	for _, m := range missing {
		b := m.HashPart().Bytes()
		err := sqlitex.Execute(t.conn, "INSERT OR IGNORE INTO waiting_for(missing, hash) VALUES(?, ?)", &sqlitex.ExecOptions{Args: []any{b[:], hash[:]}})
		if err != nil {
			return err
		}
	}
	for _, f := range p.Files {
		err := sqlitex.Execute(t.conn, "UPDATE uploads SET item = ? WHERE key = ? AND state = 0", &sqlitex.ExecOptions{Args: []any{string(p.Path.Base), string(f.Key)}})
		if err != nil {
			return err
		}
		if t.conn.Changes() == 0 {
			return fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
	}
	return nil
}

// forget ends an item's waiting. Uploads that it held and that nothing has made files of are uploads like others again.
func (t *publishing) forget(hash []byte) error {
	if !t.waiting {
		return nil
	}
	if err := sqlitex.Execute(t.conn, "DELETE FROM waiting_for WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{hash}}); err != nil {
		return err
	}
	if err := sqlitex.Execute(t.conn, "DELETE FROM waiting WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{hash}}); err != nil {
		return err
	}
	if t.conn.Changes() == 0 {
		return nil
	}
	prefix := string(storepath.HashPartOf([20]byte(hash)))
	return sqlitex.Execute(t.conn, "UPDATE uploads SET item = '' WHERE item >= ? AND item < ?", &sqlitex.ExecOptions{Args: []any{prefix, prefix + "~"}})
}

// release returns the items that waited for nothing but h, ascending by hash part, so that the outcome does not depend on chance.
func (t *publishing) release(h storepath.HashPart) (released []catalog.Publication, err error) {
	b := h.Bytes()
	err = sqlitex.Execute(t.conn, `SELECT publication FROM waiting WHERE hash IN (SELECT hash FROM waiting_for WHERE missing = ?)
		AND NOT EXISTS (SELECT 1 FROM waiting_for WHERE waiting_for.hash = waiting.hash AND missing <> ?) ORDER BY hash`,
		&sqlitex.ExecOptions{Args: []any{b[:], b[:]}, ResultFunc: func(s *sqlite.Stmt) error {
			var p catalog.Publication
			if err := json.Unmarshal(columnBytes(s, 0), &p); err != nil {
				return fmt.Errorf("read waiting item: %w", err)
			}
			released = append(released, p)
			return nil
		}})
	if err != nil {
		return nil, err
	}
	return released, sqlitex.Execute(t.conn, "DELETE FROM waiting_for WHERE missing = ?", &sqlitex.ExecOptions{Args: []any{b[:]}})
}

package sqlite

import (
	"zombiezen.com/go/sqlite/sqlitex"
)

// sums are what one transaction adds to the sums that are kept.
type sums struct {
	items                        map[int64]int64 // by the text of their store directory
	nars, narBytes, files, bytes int64
}

func (s *sums) item(dir int64) { s.items = added(s.items, dir, 1) }

func added(items map[int64]int64, dir, n int64) map[int64]int64 {
	if items == nil {
		items = make(map[int64]int64)
	}
	items[dir] += n
	return items
}

func (s *sums) nar(size int64)  { s.nars, s.narBytes = s.nars+1, s.narBytes+size }
func (s *sums) file(size int64) { s.files, s.bytes = s.files+1, s.bytes+size }

// addSums records what the transaction has added.
func (t *publishing) addSums() error {
	s := &t.sums
	for dir, n := range s.items {
		err := sqlitex.Execute(t.conn, "INSERT INTO sums(dir, items) VALUES(?, ?) ON CONFLICT(dir) DO UPDATE SET items = items + excluded.items",
			&sqlitex.ExecOptions{Args: []any{dir, n}})
		if err != nil {
			return err
		}
	}
	if s.files == 0 && s.nars == 0 && s.bytes == 0 && s.narBytes == 0 {
		return nil
	}
	return sqlitex.Execute(t.conn, "UPDATE narsums SET nars = nars + ?, nar_bytes = nar_bytes + ?, files = files + ?, bytes = bytes + ?",
		&sqlitex.ExecOptions{Args: []any{s.nars, s.narBytes, s.files, s.bytes}})
}

// countAll makes the sums of tables that were filled at once.
const countAll = `
INSERT INTO sums(dir, items) SELECT dir, count(*) FROM items GROUP BY dir;
UPDATE narsums SET (nars, nar_bytes) = (SELECT count(*), coalesce(sum(size), 0) FROM nars), (files, bytes) = (SELECT count(*), coalesce(sum(size), 0) FROM files);
`

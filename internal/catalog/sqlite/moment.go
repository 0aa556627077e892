package sqlite

import (
	"context"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// mostWishes bounds what is remembered for collectors. When there are more, all decisions until then are refused, and nothing is
// remembered until a collector takes another moment.
const mostWishes = 100_000

func nowMillis() int64 { return time.Now().UnixMilli() }

// Moment implements catalog.Collector.
func (db *DB) Moment(ctx context.Context) (m catalog.Moment, err error) {
	err = db.write(ctx, func(conn *sqlite.Conn) error {
		if err := sqlitex.Execute(conn, "UPDATE moment SET watched = 1", nil); err != nil {
			return err
		}
		// The sequence is that of ids handed out: it does not go back when the last item is withdrawn.
		return sqlitex.Execute(conn, "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'items'), 0), wishes + 1, roots + 1 FROM moment",
			&sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
				m = catalog.Moment{Item: s.ColumnInt64(0), Wish: s.ColumnInt64(1), Roots: s.ColumnInt64(2)}
				return nil
			}})
	})
	if err != nil {
		return catalog.Moment{}, fmt.Errorf("take a moment of the catalogue: %w", err)
	}
	return m, nil
}

// RootsChanged implements catalog.Collector.
func (db *DB) RootsChanged(ctx context.Context) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "UPDATE moment SET roots = roots + 1", nil)
	})
	if err != nil {
		return fmt.Errorf("note that roots have changed: %w", err)
	}
	return nil
}

// wish notes that somebody was told that an item is there, if a collector is deciding. Nothing is written otherwise.
func (t *publishing) wish(id int64) error {
	if t.watched == nil {
		n, err := scalar(t.conn, "SELECT watched FROM moment")
		if err != nil {
			return err
		}
		watched := n > 0
		t.watched = &watched
	}
	if !*t.watched {
		return nil
	}
	if err := t.exec("UPDATE moment SET wishes = wishes + 1"); err != nil {
		return err
	}
	if err := t.exec("INSERT OR REPLACE INTO wishes(item, n) SELECT ?, wishes FROM moment", id); err != nil {
		return err
	}
	n, err := scalar(t.conn, "SELECT wishes - floor FROM moment")
	if err != nil || n <= mostWishes {
		return err
	}
	*t.watched = false
	if err := t.exec("UPDATE moment SET floor = wishes, watched = 0"); err != nil {
		return err
	}
	return t.exec("DELETE FROM wishes")
}

// wishedSince returns a function that tells whether an item was asked for, published or brought back since a moment. It fails with
// catalog.ErrMoved if more than items has changed.
func (t *publishing) wishedSince(m catalog.Moment) (func(id int64) (bool, error), error) {
	if m == (catalog.Moment{}) {
		return func(int64) (bool, error) { return false, nil }, nil
	}
	var roots, floor int64
	err := sqlitex.Execute(t.conn, "SELECT roots + 1, floor + 1 FROM moment", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		roots, floor = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}})
	switch {
	case err != nil:
		return nil, err
	case m.Roots != roots:
		return nil, fmt.Errorf("%w: roots have changed", catalog.ErrMoved)
	case m.Wish < floor:
		return nil, fmt.Errorf("%w: more was asked for than is remembered", catalog.ErrMoved)
	}
	return func(id int64) (bool, error) {
		if id > m.Item {
			return true, nil
		}
		n, err := scalar(t.conn, "SELECT EXISTS (SELECT 1 FROM wishes WHERE item = ? AND n + 1 > ?)", id, m.Wish)
		return n > 0, err
	}, nil
}

package sqlite

import (
	"context"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// Reserve implements catalog.Publisher.
func (db *DB) Reserve(ctx context.Context, wants []catalog.Want) ([]objstore.Key, error) {
	keys := make([]objstore.Key, len(wants))
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		now := time.Now().UnixMilli()
		spent, err := scalar(conn, "SELECT EXISTS (SELECT 1 FROM spent)")
		if err != nil {
			return err
		}
		for i, w := range wants {
			k, err := reserve(conn, w, now, spent > 0)
			if err != nil {
				return fmt.Errorf("reserve a key for %s (%s): %w", w.Base, w.Compression, err)
			}
			keys[i] = k
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

func reserve(conn *sqlite.Conn, w catalog.Want, now int64, anySpent bool) (objstore.Key, error) {
	generation := 1
	if w.After != "" {
		_, _, last, err := catalog.ParseNarKey(w.After)
		if err != nil {
			return "", err
		}
		generation = last + 1
	}
	published, err := lastGeneration(conn, w)
	if err != nil {
		return "", err
	}
	if anySpent {
		spent, err := lastSpent(conn, w.Base, w.Compression)
		if err != nil {
			return "", err
		}
		published = max(published, spent)
	}
	for generation = max(generation, published+1); ; generation++ {
		k := catalog.NarKey(w.Compression, w.Base, generation)
		// A key that is being cleaned up may lose its object at any moment.
		err = sqlitex.Execute(conn, "INSERT INTO uploads(key, since) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET since = excluded.since WHERE state = 0",
			&sqlitex.ExecOptions{Args: []any{string(k), now}})
		if err != nil {
			return "", err
		}
		if conn.Changes() == 1 {
			return k, nil
		}
	}
}

// lastGeneration returns the last generation of w's keys that is published, or 0. Before it no key is handed out, since it may be
// one that Replace took out of service, of which somebody may still hold the URL.
func lastGeneration(conn *sqlite.Conn, w catalog.Want) (last int, err error) {
	method, err := methodNumber(w.Compression)
	if err != nil {
		return 0, err
	}
	last64, err := scalar(conn, "SELECT coalesce(max(f.generation), 0) FROM items o JOIN files f ON f.nar = o.nar AND f.method = ? AND f.owner = o.id WHERE o.hash = ?",
		method, order(w.Base.HashPart()))
	if err != nil {
		return 0, err
	}
	last = int(last64)
	one := string(catalog.NarKey(w.Compression, w.Base, 1))
	// As one condition with OR it would be answered by way of a temporary table.
	err = sqlitex.Execute(conn, "SELECT key FROM files WHERE key = ? UNION ALL SELECT key FROM files WHERE key > ? AND key < ?",
		&sqlitex.ExecOptions{Args: []any{one, one + ";", one + "<"}, ResultFunc: func(s *sqlite.Stmt) error {
			_, _, generation, err := catalog.ParseNarKey(objstore.Key(s.ColumnText(0)))
			last = max(last, generation)
			return err
		}})
	return last, err
}

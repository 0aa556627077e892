package sqlite

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// AddLog implements catalog.Logs.
func (db *DB) AddLog(ctx context.Context, of storepath.Base, k objstore.Key) error {
	return db.write(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "INSERT INTO logs(of, key) VALUES(?, ?) ON CONFLICT(of) DO UPDATE SET key = excluded.key", &sqlitex.ExecOptions{Args: []any{string(of), string(k)}})
	})
}

// Log implements catalog.Logs.
func (db *DB) Log(ctx context.Context, of storepath.Base) (k objstore.Key, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT key FROM logs WHERE of = ?", &sqlitex.ExecOptions{Args: []any{string(of)}, ResultFunc: func(s *sqlite.Stmt) error {
			k = objstore.Key(s.ColumnText(0))
			return nil
		}})
	})
	if err == nil && k == "" {
		err = fmt.Errorf("look up the log of %s: %w", of, catalog.ErrNotFound)
	}
	return k, err
}

package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// AddLog implements catalog.Logs.
func (db *DB) AddLog(ctx context.Context, of storepath.Base, k objstore.Key) error {
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO logs(of, key) VALUES($1, $2) ON CONFLICT(of) DO UPDATE SET key = excluded.key", string(of), string(k))
		return err
	})
	if err != nil {
		return fmt.Errorf("record the log of %s: %w", of, err)
	}
	return nil
}

// Log implements catalog.Logs.
func (db *DB) Log(ctx context.Context, of storepath.Base) (objstore.Key, error) {
	keys, err := rows(ctx, db, pgx.RowTo[string], "SELECT key FROM logs WHERE of = $1", string(of))
	if err == nil && len(keys) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("look up the log of %s: %w", of, err)
	}
	return objstore.Key(keys[0]), nil
}

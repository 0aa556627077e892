package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// Replace implements catalog.Publisher.
func (db *DB) Replace(ctx context.Context, old objstore.Key, f catalog.File) error {
	err := db.publish(ctx, func(tx pgx.Tx) error {
		var (
			nar, now    int64
			version     int
			compression string
		)
		if err := tx.QueryRow(ctx, "SELECT version, "+serverTime+" FROM narfold_catalogue FOR UPDATE").Scan(&version, &now); err != nil {
			return err
		}
		if err := known(version, len(migrations)); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT nar, compression FROM objects WHERE key = $1 AND state = 2", string(old)).Scan(&nar, &compression)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return catalog.ErrNotFound
		case err != nil:
			return err
		case compression != string(f.Compression):
			return fmt.Errorf("it is compressed by %s and %s by %s", compression, f.Key, f.Compression)
		}
		if err := db.keepWhole(ctx, tx, nar); err != nil {
			return err
		}
		// The old one goes first: a nar has one file of a compression at a time.
		_, err = tx.Exec(ctx, "UPDATE objects SET state = 1, since = $2, nar = NULL, compression = NULL, size = NULL, sha256 = NULL, verified = NULL WHERE key = $1", string(old), now)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "UPDATE objects SET state = 2, since = $2, nar = $3, compression = $4, size = $5, sha256 = $6, verified = $7 WHERE key = $1 AND state = 0 AND item = ''",
			string(f.Key), now, nar, compression, f.Size, f.SHA256[:], millis(f.Verified))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		if _, err := tx.Exec(ctx, spend("unnest(ARRAY[$1::text]) AS u(key)"), string(old)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `WITH told AS (INSERT INTO changes(seq, op, item, at)
			SELECT c.change + row_number() OVER (ORDER BY i.id), $2, i.id, $3 FROM items i CROSS JOIN narfold_catalogue c WHERE i.nar = $1 RETURNING seq)
			UPDATE narfold_catalogue SET change = change + (SELECT count(*) FROM told)`, nar, int16(catalog.ChangeFileReplaced), now)
		return err
	})
	if err != nil {
		return fmt.Errorf("replace file %s: %w", old, err)
	}
	return nil
}

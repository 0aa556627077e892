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

// Replace implements catalog.Publisher.
func (db *DB) Replace(ctx context.Context, old objstore.Key, f catalog.File) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		var (
			nar         int64
			compression string
		)
		err := sqlitex.Execute(conn, "SELECT nar, compression FROM files WHERE key = ?", &sqlitex.ExecOptions{Args: []any{string(old)}, ResultFunc: func(s *sqlite.Stmt) error {
			nar, compression = s.ColumnInt64(0), s.ColumnText(1)
			return nil
		}})
		switch {
		case err != nil:
			return err
		case nar == 0:
			return catalog.ErrNotFound
		case compression != string(f.Compression):
			return fmt.Errorf("it is compressed by %s and %s by %s", compression, f.Key, f.Compression)
		}
		if err := sqlitex.Execute(conn, "DELETE FROM uploads WHERE key = ? AND state = 0 AND item = ''", &sqlitex.ExecOptions{Args: []any{string(f.Key)}}); err != nil {
			return err
		}
		if conn.Changes() == 0 {
			return fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		err = sqlitex.Execute(conn, "UPDATE files SET key = ?, size = ?, sha256 = ?, verified = ? WHERE key = ?",
			&sqlitex.ExecOptions{Args: []any{string(f.Key), f.Size, f.SHA256[:], millis(f.Verified), string(old)}})
		if err != nil {
			return err
		}
		now := time.Now().UnixMilli()
		if err := sqlitex.Execute(conn, "INSERT INTO uploads(key, since, state) VALUES(?, ?, 1)", &sqlitex.ExecOptions{Args: []any{string(old), now}}); err != nil {
			return err
		}
		return sqlitex.Execute(conn, "INSERT INTO changes(op, item, at) SELECT ?, id, ? FROM items WHERE nar = ? ORDER BY id", &sqlitex.ExecOptions{Args: []any{opReplaced, now, nar}})
	})
	if err != nil {
		return fmt.Errorf("replace file %s: %w", old, err)
	}
	return nil
}

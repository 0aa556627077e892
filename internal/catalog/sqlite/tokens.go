package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// AddToken implements catalog.Tokens.
func (db *DB) AddToken(ctx context.Context, t catalog.Token, h catalog.TokenHash) error {
	if t.Name == "" || len(t.Scopes) == 0 {
		return errors.New("add token: want a name and at least one scope")
	}
	scopes := make([]string, len(t.Scopes))
	for i, s := range t.Scopes {
		scopes[i] = string(s)
	}
	return db.write(ctx, func(conn *sqlite.Conn) error {
		n, err := scalar(conn, "SELECT count(*) FROM tokens WHERE name = ? AND revoked = 0", t.Name)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("add token %q: the name is in use; revoke that token first, or choose another name", t.Name)
		}
		return sqlitex.Execute(conn, "INSERT INTO tokens(hash, name, scopes, created, expires, revoked) VALUES(?, ?, ?, ?, ?, ?)",
			&sqlitex.ExecOptions{Args: []any{h[:], t.Name, strings.Join(scopes, ","), millis(t.Created), millis(t.Expires), millis(t.Revoked)}})
	})
}

const selectToken = "SELECT name, scopes, created, expires, revoked FROM tokens "

func scanToken(s *sqlite.Stmt) catalog.Token {
	t := catalog.Token{Name: s.ColumnText(0), Created: fromMillis(s.ColumnInt64(2)), Expires: fromMillis(s.ColumnInt64(3)), Revoked: fromMillis(s.ColumnInt64(4))}
	for scope := range strings.SplitSeq(s.ColumnText(1), ",") {
		t.Scopes = append(t.Scopes, catalog.Scope(scope))
	}
	return t
}

// Token implements catalog.Tokens.
func (db *DB) Token(ctx context.Context, h catalog.TokenHash) (t catalog.Token, err error) {
	found := false
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, selectToken+"WHERE hash = ?", &sqlitex.ExecOptions{Args: []any{h[:]}, ResultFunc: func(s *sqlite.Stmt) error {
			t, found = scanToken(s), true
			return nil
		}})
	})
	if err == nil && !found {
		err = fmt.Errorf("look up token: %w", catalog.ErrNotFound)
	}
	return t, err
}

// ListTokens implements catalog.Tokens.
func (db *DB) ListTokens(ctx context.Context) (ts []catalog.Token, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, selectToken+"ORDER BY created, name", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			ts = append(ts, scanToken(s))
			return nil
		}})
	})
	return ts, err
}

// RevokeToken implements catalog.Tokens.
func (db *DB) RevokeToken(ctx context.Context, name string, at time.Time) error {
	return db.write(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, "UPDATE tokens SET revoked = ? WHERE name = ? AND revoked = 0", &sqlitex.ExecOptions{Args: []any{millis(at), name}})
		if err == nil && conn.Changes() == 0 {
			err = fmt.Errorf("revoke token %q: %w", name, catalog.ErrNotFound)
		}
		return err
	})
}

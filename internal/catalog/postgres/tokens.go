package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
)

// AddToken implements catalog.Tokens.
func (db *DB) AddToken(ctx context.Context, t catalog.Token, h catalog.TokenHash) error {
	if t.Name == "" || len(t.Scopes) == 0 {
		return errors.New("add token: want a name and at least one scope")
	}
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO tokens(hash, name, scopes, created, expires, revoked) VALUES($1, $2, $3, $4, $5, $6)",
			h[:], t.Name, strings.Join(texts(t.Scopes), ","), millis(t.Created), millis(t.Expires), millis(t.Revoked))
		return err
	})
	switch {
	case duplicate(err, "tokens_by_name"):
		return fmt.Errorf("add token %q: the name is in use; revoke that token first, or choose another name", t.Name)
	case err != nil:
		return fmt.Errorf("add token %q: %w", t.Name, err)
	}
	return nil
}

const selectToken = "SELECT name, scopes, created, expires, revoked FROM tokens "

func scanToken(r pgx.CollectableRow) (t catalog.Token, err error) {
	var (
		scopes                    string
		created, expires, revoked int64
	)
	if err := r.Scan(&t.Name, &scopes, &created, &expires, &revoked); err != nil {
		return t, err
	}
	t.Created, t.Expires, t.Revoked = fromMillis(created), fromMillis(expires), fromMillis(revoked)
	for scope := range strings.SplitSeq(scopes, ",") {
		t.Scopes = append(t.Scopes, catalog.Scope(scope))
	}
	return t, nil
}

// Token implements catalog.Tokens.
func (db *DB) Token(ctx context.Context, h catalog.TokenHash) (catalog.Token, error) {
	found, err := rows(ctx, db, scanToken, selectToken+"WHERE hash = $1", h[:])
	if err == nil && len(found) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.Token{}, fmt.Errorf("look up token: %w", err)
	}
	return found[0], nil
}

// ListTokens implements catalog.Tokens.
func (db *DB) ListTokens(ctx context.Context) ([]catalog.Token, error) {
	all, err := rows(ctx, db, scanToken, selectToken+"ORDER BY created, name")
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return all, nil
}

// RevokeToken implements catalog.Tokens.
func (db *DB) RevokeToken(ctx context.Context, name string, at time.Time) error {
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE tokens SET revoked = $1 WHERE name = $2 AND revoked = 0", millis(at), name)
		if err == nil && tag.RowsAffected() == 0 {
			err = catalog.ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %q: %w", name, err)
	}
	return nil
}

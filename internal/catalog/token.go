package catalog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scope is what a token allows.
type Scope string

// The scopes. Admin allows everything.
const (
	ScopePublish Scope = "publish"
	ScopeMirror  Scope = "mirror"
	ScopeRead    Scope = "read"
	ScopeAdmin   Scope = "admin"
)

// ParseScope checks s.
func ParseScope(s string) (Scope, error) {
	switch c := Scope(s); c {
	case ScopePublish, ScopeMirror, ScopeRead, ScopeAdmin:
		return c, nil
	}
	return "", fmt.Errorf("scope %q is not one of publish, mirror, read, admin", s)
}

// ErrToken says that a token is unknown, expired, revoked, or not for the scope asked; which of these is only for the log.
var ErrToken = errors.New("token is not accepted")

// Token describes a right, not the secret that proves it: of that only a hash is kept.
type Token struct {
	Name    string    `json:"name"`
	Scopes  []Scope   `json:"scopes"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Revoked time.Time `json:"revoked,omitzero"`
}

// Allows returns nil if t is good for scope at the time now.
func (t Token) Allows(scope Scope, now time.Time) error {
	switch {
	case !t.Revoked.IsZero():
		return fmt.Errorf("%w: %q was revoked", ErrToken, t.Name)
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return fmt.Errorf("%w: %q has expired", ErrToken, t.Name)
	case !slices.Contains(t.Scopes, scope) && !slices.Contains(t.Scopes, ScopeAdmin):
		return fmt.Errorf("%w: %q is not for %s", ErrToken, t.Name, scope)
	}
	return nil
}

// TokenHash is the SHA-256 of a token's secret text. The text has 256 random bits, so a plain hash is as good as a slow one.
type TokenHash [sha256.Size]byte

// tokenPrefix lets secret scanners find a token that somebody has committed by mistake.
const tokenPrefix = "narfold_"

// NewTokenText returns the secret text of a new token.
func NewTokenText() string {
	var b [32]byte
	rand.Read(b[:])
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// HashToken returns the hash under which a token's text is kept.
func HashToken(text string) TokenHash { return sha256.Sum256([]byte(strings.TrimSpace(text))) }

// Tokens keeps the rights of those who may change something.
type Tokens interface {
	// AddToken records a token. A name in use by a token that is not revoked is an error.
	AddToken(ctx context.Context, t Token, h TokenHash) error
	// Token returns the token with this hash, or ErrNotFound.
	Token(ctx context.Context, h TokenHash) (Token, error)
	// ListTokens returns all, oldest first.
	ListTokens(ctx context.Context) ([]Token, error)
	// RevokeToken ends a token by its name, or returns ErrNotFound.
	RevokeToken(ctx context.Context, name string, at time.Time) error
}

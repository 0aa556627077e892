package catalogtest

import (
	"errors"
	"testing"
	"time"

	"narfold/internal/catalog"
)

func testTokens(t *testing.T, c catalog.Catalogue) {
	text := catalog.NewTokenText()
	now := time.UnixMilli(1_700_000_000_000).UTC()
	tok := catalog.Token{Name: "farm", Scopes: []catalog.Scope{catalog.ScopePublish, catalog.ScopeMirror}, Created: now, Expires: now.Add(time.Hour)}
	if err := c.AddToken(t.Context(), tok, catalog.HashToken(text)); err != nil {
		t.Fatal(err)
	}
	if err := c.AddToken(t.Context(), tok, catalog.HashToken("another")); err == nil {
		t.Error("two live tokens of one name")
	}
	got, err := c.Token(t.Context(), catalog.HashToken(text+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "token", got, tok)
	if _, err := c.Token(t.Context(), catalog.HashToken("wrong")); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	if err := got.Allows(catalog.ScopePublish, now); err != nil {
		t.Error(err)
	}
	if err := got.Allows(catalog.ScopeAdmin, now); !errors.Is(err, catalog.ErrToken) {
		t.Errorf("a publish token is good for admin: %v", err)
	}
	if err := got.Allows(catalog.ScopePublish, now.Add(time.Hour)); !errors.Is(err, catalog.ErrToken) {
		t.Errorf("an expired token is good: %v", err)
	}
	if err := c.RevokeToken(t.Context(), "farm", now); err != nil {
		t.Fatal(err)
	}
	got, _ = c.Token(t.Context(), catalog.HashToken(text))
	if err := got.Allows(catalog.ScopePublish, now); !errors.Is(err, catalog.ErrToken) {
		t.Errorf("a revoked token is good: %v", err)
	}
	if err := c.RevokeToken(t.Context(), "farm", now); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	if err := c.AddToken(t.Context(), tok, catalog.HashToken("third")); err != nil {
		t.Errorf("the name of a revoked token: %v", err)
	}
	all, err := c.ListTokens(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("tokens: %+v, %v", all, err)
	}
}

// Package narinfodbtest makes databases of narinfos for tests: of the kind that a program like nar-herder keeps, a table of items with
// the text of each narinfo beside columns taken from it, other tables, and a list of changes that repeats some of the texts.
package narinfodbtest

import (
	"path/filepath"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Make makes a database in write-ahead mode with the given narinfos, in their order, and returns the name of its file.
func Make(t testing.TB, narinfos ...[]byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "herder.db")
	conn, err := sqlite.OpenConn(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range []string{
		"CREATE TABLE narinfos (id INTEGER PRIMARY KEY, store_path TEXT, text TEXT NOT NULL, added TEXT)",
		"CREATE TABLE files (narinfo INTEGER, size INTEGER, compression TEXT, url TEXT)",
		"CREATE TABLE a_changes (at TEXT, kind TEXT, what TEXT)",
	} {
		if err := sqlitex.ExecuteTransient(conn, s, nil); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	end, err := sqlitex.ImmediateTransaction(conn)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range narinfos {
		if err := sqlitex.Execute(conn, "INSERT INTO narinfos (text, store_path) VALUES (?1, '/gnu/store/' || ?2)", &sqlitex.ExecOptions{Args: []any{string(text), i}}); err != nil {
			t.Fatal(err)
		}
		if i < len(narinfos)/2 {
			if err := sqlitex.Execute(conn, "INSERT INTO a_changes VALUES ('2026', 'addition', ?1)", &sqlitex.ExecOptions{Args: []any{string(text)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	end(&err)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

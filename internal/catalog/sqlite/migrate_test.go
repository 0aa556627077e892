package sqlite

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/storepath"
)

// A catalogue of the first schema goes on as it was, and withdraws, brings back and deletes what it has.
func TestACatalogueOfTheFirstSchemaIsMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	var was catalog.Item
	low, top := catalogtest.Item("low"), catalogtest.Item("top", "low", "top")
	hs := []storepath.HashPart{low.Path.HashPart(), top.Path.HashPart()}
	func() {
		conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		script := migrations[0] + fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d;", firstSchema, applicationID)
		if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
			t.Fatal(err)
		}
		// As that version wrote it.
		for _, p := range []catalog.Publication{low, top} {
			hash := order(p.Path.HashPart())
			for _, q := range []struct {
				query string
				args  []any
			}{
				{"INSERT OR IGNORE INTO texts(id, text) VALUES(1, ?), (2, 'test')", []any{string(p.Path.Dir)}},
				{"INSERT INTO nars(hash, size) VALUES(?, ?)", []any{p.NarHash[:], p.NarSize}},
				{"INSERT INTO items(hash, dir, name, nar, published, by, narinfo) VALUES(?, 1, ?, last_insert_rowid(), 1700000000000, 2, ?)", []any{hash, p.Path.Name(), p.Narinfo}},
				{"INSERT INTO files SELECT nar, 4, 500, ?, 1700000000000, id, 1, NULL FROM items WHERE hash = ?", []any{p.Files[0].SHA256[:], hash}},
				{"INSERT INTO refs SELECT id, iif(id = 1, x'', x'01') FROM items WHERE hash = ?", []any{hash}},
				{"INSERT INTO changes(op, item, at) SELECT 1, id, 1700000000000 FROM items WHERE hash = ?", []any{hash}},
			} {
				if err := sqlitex.Execute(conn, q.query, &sqlitex.ExecOptions{Args: q.args}); err != nil {
					t.Fatalf("%s: %v", q.query, err)
				}
			}
		}
		if err := sqlitex.ExecuteScript(conn, countAll, nil); err != nil {
			t.Fatal(err)
		}
	}()
	open := func() *DB {
		t.Helper()
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	item := func(db *DB) catalog.Item {
		t.Helper()
		it, err := db.Item(t.Context(), hs[1])
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	db := open()
	if was = item(db); string(was.Narinfo) != string(top.Narinfo) || len(was.Files) != 1 || was.Files[0] != top.Files[0] || was.Sequence != 2 {
		t.Errorf("after the migration: %+v", was)
	}
	out, err := db.Withdraw(t.Context(), catalog.Withdrawal{Items: hs, By: "gc", Plan: "p"})
	if err != nil || out[0].Verdict != catalog.Withdrawn || out[1].Verdict != catalog.Withdrawn {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open()
	defer db.Close()
	if vs, err := db.Restore(t.Context(), hs[1:]); err != nil || vs[0] != catalog.Restored {
		t.Fatalf("%v, %v", vs, err)
	}
	is := item(db)
	if is.Sequence = was.Sequence; fmt.Sprint(is) != fmt.Sprint(was) {
		t.Errorf("brought back\n got %+v\nwant %+v", is, was)
	}
	if out, err = db.Withdraw(t.Context(), catalog.Withdrawal{Items: hs}); err != nil {
		t.Fatal(err)
	}
	ids := []int64{out[0].Sequence, out[1].Sequence}
	gone, err := db.BeginDelete(t.Context(), ids, time.Now().Add(time.Hour))
	if err != nil || len(gone[0].Keys) != 1 || gone[0].Keys[0] != low.Files[0].Key {
		t.Fatalf("%+v, %v", gone, err)
	}
	if err := db.Deleted(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	if version, err := intPragma(db.writer, "user_version"); version != lastSchema || err != nil {
		t.Errorf("schema %d, want %d; %v", version, lastSchema, err)
	}
	var broken []string
	err = sqlitex.Execute(db.writer, "PRAGMA foreign_key_check", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		broken = append(broken, s.ColumnText(0))
		return nil
	}})
	if err != nil || len(broken) > 0 {
		t.Errorf("broken references in %v, %v", broken, err)
	}
}

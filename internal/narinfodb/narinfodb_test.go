package narinfodb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// made makes a database of statements.
func made(t testing.TB, statements ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "herder.db")
	conn, err := sqlite.OpenConn(name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, s := range statements {
		if err := sqlitex.ExecuteScript(conn, s, nil); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return name
}

func text(i int) string {
	return fmt.Sprintf("StorePath: /gnu/store/%032d-item\nNarHash: x\n", i)
}

func TestTheColumnOfNarinfosIsFoundByWhatItHolds(t *testing.T) {
	two := fmt.Sprintf("(1, '%s'), (2, '%s')", text(1), text(2))
	for name, c := range map[string]struct {
		statements []string
		column     string
	}{
		"beside other columns": {[]string{"CREATE TABLE narinfos (id INTEGER PRIMARY KEY, contents TEXT, store_path TEXT)",
			"INSERT INTO narinfos (id, contents) VALUES " + two, "UPDATE narinfos SET store_path = '/gnu/store/x'"}, "narinfos.contents"},
		"as blobs": {[]string{`CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY, "a b" BLOB)`,
			`INSERT INTO "odd ""name" SELECT 1, CAST('` + text(1) + `' AS BLOB)`}, `odd "name.a b`},
		"not the shorter list of changes": {[]string{"CREATE TABLE a_changes (at TEXT, data TEXT)", "INSERT INTO a_changes VALUES ('now', '" + text(1) + "')",
			"CREATE TABLE n (id INTEGER PRIMARY KEY, c TEXT)", "INSERT INTO n VALUES " + two}, "n.c"},
		"not where something else is too": {[]string{"CREATE TABLE a (data TEXT)", "INSERT INTO a VALUES ('" + text(1) + "'), ('/gnu/store/gone'), (NULL)",
			"CREATE TABLE n (id INTEGER PRIMARY KEY, c TEXT)", "INSERT INTO n VALUES (1, '" + text(1) + "')"}, "n.c"},
		"past a table without rows of its own": {[]string{"CREATE TABLE a (c TEXT PRIMARY KEY) WITHOUT ROWID", "INSERT INTO a VALUES ('" + text(1) + "')",
			"CREATE TABLE n (c TEXT)", "INSERT INTO n VALUES ('" + text(1) + "')"}, "n.c"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := Open(t.Context(), made(t, c.statements...))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if db.Column() != c.column {
				t.Errorf("found %s, want %s", db.Column(), c.column)
			}
		})
	}
}

func TestWhatIsNoDatabaseOfNarinfosIsRefused(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(Magic+strings.Repeat("x", 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		filepath.Join(dir, "nothing"): fs.ErrNotExist, dir: ErrDamaged, garbage: ErrDamaged,
		made(t, "CREATE TABLE t (a TEXT)", "INSERT INTO t VALUES ('hello')"): ErrNoNarinfos,
		made(t, "CREATE TABLE narinfos (contents TEXT)"):                     ErrNoNarinfos,
	} {
		if db, err := Open(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v; want %v", name, db, err, want)
		}
	}
	if !Is(garbage) || Is(dir) || Is(filepath.Join(dir, "nothing")) {
		t.Error("the beginning of a file is not told")
	}
}

func TestRowsAreReadInTheirOrderAndOneByOne(t *testing.T) {
	const rows = 2*batch + 7
	var all strings.Builder
	for i := range rows {
		fmt.Fprintf(&all, "INSERT INTO n VALUES (%d, '%s');\n", 2*i-5, text(i)) // with gaps, and from below zero
	}
	name := made(t, "CREATE TABLE n (id INTEGER PRIMARY KEY, c TEXT)", all.String())
	db, err := Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	i := 0
	for r, err := range db.Rows(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.ID != int64(2*i-5) || string(r.Text) != text(i) {
			t.Fatalf("row %d is %d: %q", i, r.ID, r.Text)
		}
		if i%500 == 0 {
			if got, err := db.At(t.Context(), r.ID); err != nil || string(got) != text(i) {
				t.Errorf("row %d: %q, %v", r.ID, got, err)
			}
		}
		i++
	}
	if i != rows {
		t.Errorf("%d rows, want %d", i, rows)
	}
	if _, err := db.At(t.Context(), 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("a row that is not there: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for r, err := range db.Rows(ended) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v, %v", r, err)
		}
	}
}

// A nar-herder that runs has its database in write-ahead mode and writes to it.
func TestTheDatabaseIsReadWhileItIsWritten(t *testing.T) {
	name := made(t, "PRAGMA journal_mode = WAL", "CREATE TABLE n (id INTEGER PRIMARY KEY, c TEXT)", "INSERT INTO n VALUES (1, '"+text(1)+"')")
	writer, err := sqlite.OpenConn(name)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	db, err := Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	does := func(statements ...string) {
		for _, s := range statements {
			if err := sqlitex.ExecuteTransient(writer, s, nil); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	does("INSERT INTO n VALUES (2, '"+text(2)+"')", "BEGIN", "INSERT INTO n VALUES (3, '"+text(3)+"')")
	n := 0
	for _, err := range db.Rows(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 { // the third is not committed
		t.Errorf("%d rows are seen, want 2", n)
	}
	does("COMMIT", "PRAGMA wal_checkpoint(TRUNCATE)")
	if info, err := os.Stat(name + "-wal"); err != nil || info.Size() > 0 {
		t.Errorf("a reader keeps the writer from shortening its log: %v, %v", info, err)
	}
}

package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	sqlitedb "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
)

func TestContract(t *testing.T) {
	fresh, again := files()
	catalogtest.Run(t, fresh, again)
}

func TestLifecycle(t *testing.T) {
	fresh, again := files()
	catalogtest.Lifecycle(t, fresh, again)
}

func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		fresh, again := files()
		catalogtest.Model(t, seed, 600, fresh, again)
	}
}

// files opens catalogues in files of their own, and opens them again.
func files() (fresh func(t *testing.T) catalog.Catalogue, again func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	paths := make(map[catalog.Catalogue]string)
	open := func(t *testing.T, path string) catalog.Catalogue {
		db, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		paths[db] = path
		t.Cleanup(func() {
			if _, open := paths[db]; open {
				delete(paths, db)
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
		return db
	}
	return func(t *testing.T) catalog.Catalogue { return open(t, filepath.Join(t.TempDir(), "catalogue.db")) },
		func(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
			path := paths[c]
			delete(paths, c)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, path)
		}
}

func TestAProcessSeesWhatAnotherPublishes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	a, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	before, err := b.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := catalogtest.Item("x")
	catalogtest.Reserve(t, a, p)
	if _, err := a.Publish(t.Context(), []catalog.Publication{p}); err != nil {
		t.Fatal(err)
	}
	if after, _ := b.Version(t.Context()); after == before {
		t.Error("the version did not change")
	}
	if _, err := b.Item(t.Context(), p.Path.HashPart()); err != nil {
		t.Error(err)
	}
}

func TestForeignAndNewerFilesAreRefusedUntouched(t *testing.T) {
	for name, script := range map[string]string{
		"another program's": "CREATE TABLE mail(id INTEGER)",
		"a newer schema":    "CREATE TABLE items(id INTEGER); PRAGMA application_id = 0x6e617266; PRAGMA user_version = 999",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "catalogue.db")
			conn, err := sqlitedb.OpenConn(path, sqlitedb.OpenReadWrite, sqlitedb.OpenCreate)
			if err != nil {
				t.Fatal(err)
			}
			if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			db, err := sqlite.Open(t.Context(), path)
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if name == "a newer schema" && !errors.Is(err, catalog.ErrNewer) {
				t.Errorf("error is %v", err)
			}
		})
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("this is not a database, but long enough to look at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := sqlite.Open(t.Context(), text); err == nil {
		db.Close()
		t.Error("opened a text file")
	}
}

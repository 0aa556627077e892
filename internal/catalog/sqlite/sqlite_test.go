package sqlite_test

import (
	"errors"
	"fmt"
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

// TestModel takes a hundred thousand steps in all.
const (
	modelSeeds = 4
	modelSteps = 25_000 // of each
)

func TestModel(t *testing.T) {
	for seed := range uint64(modelSeeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			files, restarts := make(shelf), 0
			catalogtest.Model(t, seed, modelSteps, files.fresh, func(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
				if restarts++; restarts%2 == 0 {
					return files.again(t, c)
				}
				return files.crashed(t, c)
			})
		})
	}
}

// files opens catalogues in files of their own, and opens them again.
func files() (fresh func(t *testing.T) catalog.Catalogue, again func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	s := make(shelf)
	return s.fresh, s.again
}

// shelf knows where the catalogues are that are open.
type shelf map[catalog.Catalogue]string

func (s shelf) open(t *testing.T, path string) catalog.Catalogue {
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s[db] = path
	t.Cleanup(func() {
		if _, open := s[db]; open {
			s.close(t, db)
		}
	})
	return db
}

func (s shelf) close(t *testing.T, c catalog.Catalogue) {
	delete(s, c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func (s shelf) fresh(t *testing.T) catalog.Catalogue {
	return s.open(t, filepath.Join(t.TempDir(), "catalogue.db"))
}

func (s shelf) again(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
	path := s[c]
	s.close(t, c)
	return s.open(t, path)
}

// crashed opens a copy of a catalogue's files as they are while it is open.
func (s shelf) crashed(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
	to := filepath.Join(t.TempDir(), "catalogue.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(s[c] + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.close(t, c)
	return s.open(t, to)
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

package postgres

import (
	"fmt"
	"os"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/postgres/postgrestest"
)

// server is the PostgreSQL of this test binary.
var server *postgrestest.Server

func TestMain(m *testing.M) {
	if url := os.Getenv(herderURL); url != "" {
		herd(url, os.Getenv(herderSeed))
	}
	started, stop, err := postgrestest.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server = started
	code := m.Run()
	stop()
	os.Exit(code)
}

func address(database string) string { return server.URL(database) }

func admin(t testing.TB, database string, statements ...string) {
	t.Helper()
	server.Admin(t, database, statements...)
}

func database(t testing.TB) string {
	t.Helper()
	return server.Database(t)
}

// open opens the catalogue in a database for the time of the test.
func open(t testing.TB, database string) *DB {
	t.Helper()
	db, err := Open(t.Context(), address(database), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// catalogues opens catalogues in databases of their own, and opens them again.
func catalogues() (fresh func(t *testing.T) catalog.Catalogue, again func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	in := make(map[catalog.Catalogue]string)
	return func(t *testing.T) catalog.Catalogue {
			name := database(t)
			db := open(t, name)
			in[db] = name
			return db
		}, func(t *testing.T, c catalog.Catalogue) catalog.Catalogue {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			db := open(t, in[c])
			in[db] = in[c]
			return db
		}
}

func TestContract(t *testing.T) {
	fresh, again := catalogues()
	catalogtest.Run(t, fresh, again)
}

func TestLifecycle(t *testing.T) {
	fresh, again := catalogues()
	catalogtest.Lifecycle(t, fresh, again)
}

// The steps of TestModel, in all. It takes two processors two to three minutes with the race detector.
const (
	modelSeeds = 4
	modelSteps = 25_000 // of each
)

func TestModel(t *testing.T) {
	for seed := range uint64(modelSeeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			w := &worlds{}
			catalogtest.Model(t, seed, modelSteps, w.fresh, w.again)
			w.close(t)
		})
	}
}

// worlds are the databases of a model, one after the other.
type worlds struct {
	db       *DB
	name     string
	restarts int
}

func (w *worlds) fresh(t *testing.T) catalog.Catalogue {
	w.close(t)
	w.name = database(t)
	return w.open(t)
}

// again ends a herder, every second time without its knowledge, and starts another.
func (w *worlds) again(t *testing.T, _ catalog.Catalogue) catalog.Catalogue {
	if w.restarts++; w.restarts%2 == 0 {
		admin(t, "postgres", "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '"+w.name+"' AND application_name = 'narfold'")
	}
	w.close(t)
	return w.open(t)
}

func (w *worlds) open(t *testing.T) catalog.Catalogue {
	db, err := Open(t.Context(), address(w.name), Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.db = db
	return db
}

func (w *worlds) close(t *testing.T) {
	if w.db != nil {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	}
}

package postgres

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/storepath"
)

func TestForeignAndNewerDatabasesAreRefusedUntouched(t *testing.T) {
	for what, c := range map[string]struct {
		script string
		want   error
	}{
		"another program's table":    {"CREATE TABLE mail(id integer)", catalog.ErrForeign},
		"another program's view":     {"CREATE VIEW one AS SELECT 1", catalog.ErrForeign},
		"another program's sequence": {"CREATE SEQUENCE number", catalog.ErrForeign},
		"a newer schema":             {"CREATE TABLE narfold_catalogue(version integer); INSERT INTO narfold_catalogue VALUES(999)", catalog.ErrNewer},
	} {
		t.Run(what, func(t *testing.T) {
			name := database(t)
			admin(t, name, c.script)
			before := things(t, name)
			db, err := Open(t.Context(), address(name), Options{})
			if err == nil {
				db.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
			if after := things(t, name); !slices.Equal(after, before) {
				t.Errorf("there are %v, were %v", after, before)
			}
		})
	}
}

// things returns the names of all relations in a database's first schema.
func things(t *testing.T, database string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	answer, err := conn.Query(t.Context(), "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(answer, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestWhatAnExtensionBroughtIsNotForeign(t *testing.T) {
	name := database(t)
	// As pg_stat_statements and others do, which are not installed everywhere: a table that belongs to an extension.
	admin(t, name, "CREATE TABLE statistics(id integer)", "ALTER EXTENSION plpgsql ADD TABLE statistics")
	publish(t, open(t, name), catalogtest.Item("x"))
}

func TestACatalogueLivesInAnySchemaThatIsItsOwn(t *testing.T) {
	name := database(t)
	admin(t, name, "CREATE TABLE mail(id integer)", `CREATE SCHEMA "Nar fold"`)
	db, err := Open(t.Context(), address(name)+"&search_path=%22Nar+fold%22", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	publish(t, db, catalogtest.Item("x"))
	if db, err := Open(t.Context(), address(name)+"&search_path=absent", Options{}); err == nil {
		db.Close()
		t.Error("opened in a schema that does not exist")
	}
}

func TestProcessesThatMigrateAtOnceWaitForEachOther(t *testing.T) {
	name := database(t)
	var (
		wg   sync.WaitGroup
		dbs  [6]*DB
		errs [6]error
	)
	for i := range dbs {
		wg.Go(func() { dbs[i], errs[i] = Open(t.Context(), address(name), Options{Connections: 2}) })
	}
	wg.Wait()
	for i, db := range dbs {
		if errs[i] != nil {
			t.Error(errs[i])
			continue
		}
		publish(t, db, catalogtest.Item("x"))
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestANewerVersionMigratesAndTheOlderStopsPublishing(t *testing.T) {
	name := database(t)
	older, newer := open(t, name), open(t, name)
	publish(t, older, catalogtest.Item("x"))
	next := append(slices.Clone(migrations), "ALTER TABLE items ADD COLUMN colour text NOT NULL DEFAULT 'grey'", "CREATE TABLE colours(colour text)")
	if err := newer.migrate(t.Context(), next[:len(next)-1]); err != nil {
		t.Fatal(err)
	}
	if err := newer.migrate(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := newer.migrate(t.Context(), next); err != nil {
		t.Errorf("once more: %v", err)
	}
	y := catalogtest.Item("y")
	catalogtest.Reserve(t, older, y)
	if _, err := older.Publish(t.Context(), []catalog.Publication{y}); !errors.Is(err, catalog.ErrNewer) {
		t.Errorf("error is %v", err)
	}
	if err := older.Replace(t.Context(), "nar/zstd/old", y.Files[0]); !errors.Is(err, catalog.ErrNewer) {
		t.Errorf("error is %v", err)
	}
	if it, err := older.Item(t.Context(), catalogtest.Item("x").Path.HashPart()); err != nil || it.Sequence != 1 {
		t.Errorf("what was there: %+v, %v", it, err)
	}
}

func TestAMigrationThatFailsChangesNothing(t *testing.T) {
	name := database(t)
	db := open(t, name)
	before := things(t, name)
	if err := db.migrate(t.Context(), append(slices.Clone(migrations), "CREATE TABLE colours(colour text); SELECT 1/0")); err == nil {
		t.Error("migrated")
	}
	if after := things(t, name); !slices.Equal(after, before) {
		t.Errorf("there are %v, were %v", after, before)
	}
	publish(t, open(t, name), catalogtest.Item("x"))
}

// openAt opens the catalogue in a database with the schema of an earlier version.
func openAt(t *testing.T, database string, version int) *DB {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := &DB{pool: pool, publishing: make(chan struct{}, 1)}
	db.publishing <- struct{}{}
	if err := db.migrate(t.Context(), migrations[:version]); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestACatalogueFromBeforeItemsCouldGoIsMigrated(t *testing.T) {
	name := database(t)
	older := openAt(t, name, 2)
	low, top := catalogtest.Item("low"), catalogtest.Item("top", "low", "top")
	insert := func(query string, args ...any) {
		t.Helper()
		if _, err := older.pool.Exec(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	insert("INSERT INTO dirs VALUES(1, $1)", string(low.Path.Dir))
	for i, p := range []catalog.Publication{low, top} {
		id, h, f := i+1, p.Path.HashPart().Bytes(), p.Files[0]
		insert("INSERT INTO nars(id, hash, size) VALUES($1, $2, $3)", id, p.NarHash[:], p.NarSize)
		insert("INSERT INTO objects(key, state, since, nar, compression, size, sha256, verified) VALUES($1, 2, 7, $2, $3, $4, $5, $6)", string(f.Key), id, string(f.Compression), f.Size, f.SHA256[:], millis(f.Verified))
		insert("INSERT INTO items(id, hash, dir, name, nar, published, by, narinfo) VALUES($1, $2, 1, $3, $1, 7, 'test', $4)", id, h[:], p.Path.Name(), p.Narinfo)
		insert("INSERT INTO refs VALUES($1, $2)", id, []byte{1}[:i])
		insert("INSERT INTO changes VALUES($1, 1, $1, 7)", id)
	}
	insert("INSERT INTO objects(key, state, since) VALUES('nar/zstd/upload', 0, 7)")
	insert("UPDATE narfold_catalogue SET item = 2, nar = 2, change = 2")

	db := open(t, name)
	was, err := db.Item(t.Context(), top.Path.HashPart())
	if err != nil || was.Sequence != 2 || len(was.Files) != 1 || was.Files[0] != top.Files[0] || !slices.Equal(was.References, top.References) {
		t.Fatalf("%+v, %v", was, err)
	}
	if c, err := db.Counts(t.Context()); err != nil || c.Items != 2 || c.Nars != 2 || c.Files != 2 || c.Uploads != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	hs := []storepath.HashPart{low.Path.HashPart(), top.Path.HashPart()}
	if out, err := db.Withdraw(t.Context(), catalog.Withdrawal{Items: hs}); err != nil || out[0].Verdict != catalog.Withdrawn || out[1].Verdict != catalog.Withdrawn {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := db.Restore(t.Context(), hs[1:]); err != nil || out[0] != catalog.Restored {
		t.Fatalf("%v, %v", out, err)
	}
	is, err := db.Item(t.Context(), top.Path.HashPart())
	if was.Sequence = 4; err != nil || fmt.Sprint(is) != fmt.Sprint(was) {
		t.Errorf("%+v, %v, want %+v", is, err, was)
	}
}

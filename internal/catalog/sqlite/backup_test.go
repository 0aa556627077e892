package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
)

func opened(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func publishAll(t *testing.T, db *sqlite.DB, names ...string) {
	t.Helper()
	for _, name := range names {
		p := catalogtest.Item(name)
		catalogtest.Reserve(t, db, p)
		if _, err := db.Publish(t.Context(), []catalog.Publication{p}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABackupIsOfOneMomentWhileOthersPublish(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalogue.db")
	db := opened(t, path)
	defer db.Close()
	publishAll(t, db, "first")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			publishAll(t, db, fmt.Sprint("item-", i))
		}
	})
	last := int64(0)
	for i := range 5 {
		to := filepath.Join(dir, fmt.Sprint("copy-", i))
		c, err := sqlite.Backup(t.Context(), path, to)
		if err != nil {
			t.Fatal(err)
		}
		if c.Items < 1 || c.Files != c.Items || c.Change != c.Items || c.Change < last || c.Bytes == 0 {
			t.Errorf("%+v after change %d", c, last)
		}
		last = c.Change
		if info, err := os.Stat(to); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		copied := opened(t, to)
		counts, err := copied.Counts(t.Context())
		if err != nil || counts.Items != c.Items {
			t.Errorf("the copy has %d items, want %d; %v", counts.Items, c.Items, err)
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
}

func TestABackupOverwritesNothingAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalogue.db")
	db := opened(t, path)
	publishAll(t, db, "a")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "to")
	if err := os.WriteFile(to, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Backup(t.Context(), path, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error is %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlite.Backup(cancelled, path, filepath.Join(dir, "other")); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if _, err := sqlite.Backup(t.Context(), to, filepath.Join(dir, "other")); !errors.Is(err, catalog.ErrForeign) {
		t.Errorf("of a text: %v", err)
	}
	if _, err := sqlite.Backup(t.Context(), filepath.Join(dir, "absent"), filepath.Join(dir, "other")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	if got, err := os.ReadFile(to); string(got) != "kept" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// backedUp returns a backup of a catalogue with one item, "old", in a folder of its own.
func backedUp(t *testing.T) (file string, c sqlite.Contents) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "catalogue.db")
	db := opened(t, path)
	publishAll(t, db, "old")
	if _, err := db.ObjectsAt(t.Context(), "here"); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "backup")
	c, err := sqlite.Backup(t.Context(), path, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return file, c
}

func anything(sqlite.Contents) error { return nil }

// has fails if a catalogue's items are others.
func has(t *testing.T, path string, names ...string) {
	t.Helper()
	db := opened(t, path)
	defer db.Close()
	counts, err := db.Counts(t.Context())
	if err != nil || counts.Items != int64(len(names)) {
		t.Errorf("%s has %d items, want %v; %v", path, counts.Items, names, err)
	}
	for _, name := range names {
		if _, err := db.Item(t.Context(), catalogtest.Base(name).HashPart()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestABackupIsRestored(t *testing.T) {
	backup, of := backedUp(t)
	to := filepath.Join(t.TempDir(), "catalogue.db")
	c, replaced, err := sqlite.Restore(t.Context(), backup, to, false, anything)
	if err != nil || c != of || c.ObjectsAt != "here" || replaced != "" {
		t.Errorf("%+v, want %+v; %q, %v", c, of, replaced, err)
	}
	has(t, to, "old")
	if info, err := os.Stat(to); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	db := opened(t, to)
	publishAll(t, db, "new") // stays in its -wal file as long as it is open
	if _, _, err := sqlite.Restore(t.Context(), backup, to, true, anything); !errors.Is(err, catalog.ErrInUse) {
		t.Errorf("while it is open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sqlite.Restore(t.Context(), backup, to, false, anything); !errors.Is(err, catalog.ErrPresent) {
		t.Errorf("in the place of another: %v", err)
	}
	has(t, to, "old", "new")
	if _, replaced, err = sqlite.Restore(t.Context(), backup, to, true, anything); err != nil {
		t.Fatal(err)
	}
	has(t, to, "old")
	has(t, replaced, "old", "new")
	if entries, err := os.ReadDir(filepath.Dir(to)); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestNoneOpensACatalogueThatIsBeingRestored(t *testing.T) {
	backup, _ := backedUp(t)
	to := filepath.Join(t.TempDir(), "catalogue.db")
	no := errors.New("not this one")
	_, _, err := sqlite.Restore(t.Context(), backup, to, false, func(sqlite.Contents) error {
		if db, err := sqlite.Open(t.Context(), to); !errors.Is(err, catalog.ErrInUse) {
			t.Errorf("opened %v, %v", db, err)
		}
		return no
	})
	if !errors.Is(err, no) {
		t.Errorf("error is %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(to)); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestWhatIsNoGoodBackupReplacesNothing(t *testing.T) {
	good, _ := backedUp(t)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	holed := append([]byte(nil), whole...)
	for i := 4096; i < len(holed)-4096; i++ {
		holed[i] ^= 0x55
	}
	newer := append([]byte(nil), whole...)
	newer[63] = 99 // the user version, as the file format of SQLite has it
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"a text":         {[]byte("this is not a database, but long enough to look at"), catalog.ErrForeign},
		"nothing":        {nil, catalog.ErrForeign},
		"cut":            {whole[:len(whole)/2], catalog.ErrDamaged},
		"changed":        {holed, catalog.ErrDamaged},
		"a newer schema": {newer, catalog.ErrNewer},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := filepath.Join(t.TempDir(), "backup"), filepath.Join(dir, "catalogue.db")
			if err := os.WriteFile(from, c.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			db := opened(t, to)
			publishAll(t, db, "kept")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := sqlite.Restore(t.Context(), from, to, true, anything); !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
			has(t, to, "kept")
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("left: %v, %v", entries, err)
			}
		})
	}
}

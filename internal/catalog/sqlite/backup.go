package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/durable"
)

// lockFolder locks the folder of a catalogue: shared by all that have it open, or for a restore alone. The lock ends with the file
// that is returned, or with the process.
func lockFolder(path string, alone bool) (*os.File, error) {
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, fmt.Errorf("lock folder: %w", err)
		case alone:
			return nil, fmt.Errorf("%w: a herder, an import or another command works on it", catalog.ErrInUse)
		}
		return nil, fmt.Errorf("%w: it is being restored", catalog.ErrInUse)
	}
	return f, nil
}

// Contents is what is in a catalogue's file.
type Contents struct {
	Items  int64 `json:"items"` // published
	Files  int64 `json:"files"` // of them
	Tokens int64 `json:"tokens"`
	Bytes  int64 `json:"bytes"`  // of the file
	Change int64 `json:"change"` // the number of the last change of what is served
	Schema int   `json:"schema"`
	// ObjectsAt is where the objects are, as ObjectsAt records it.
	ObjectsAt string `json:"objects_at"`
}

// Backup copies the catalogue at from into a new file to, as it is at one moment, while others read and write it. The copy is closed
// to other accounts (mode 0600), was read again, and is durable when Backup returns. It fails with fs.ErrExist if there is a file
// already, and leaves none behind when it fails.
func Backup(ctx context.Context, from, to string) (c Contents, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up catalogue %s: %w", from, err)
		}
	}()
	if _, err := os.Lstat(to); err == nil {
		return c, &fs.PathError{Op: "create", Path: to, Err: fs.ErrExist}
	}
	conn, err := look(ctx, from)
	if err != nil {
		return c, err
	}
	defer conn.Close()
	before, err := contents(conn)
	if err != nil {
		return c, err
	}
	temp, err := os.CreateTemp(filepath.Dir(to), ".narfold-tmp-*")
	if err != nil {
		return c, err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if err := sqlitex.ExecuteTransient(conn, "VACUUM INTO ?", &sqlitex.ExecOptions{Args: []any{temp.Name()}}); err != nil {
		return c, interrupted(ctx, mapError(err))
	}
	after, err := contents(conn)
	if err != nil {
		return c, err
	}
	if err := temp.Sync(); err != nil { // SQLite does not flush what VACUUM INTO writes
		return c, err
	}
	if c, err = inspect(ctx, temp.Name()); err != nil {
		return c, fmt.Errorf("read the copy again: %w", err)
	}
	if c.Change < before.Change || c.Change > after.Change || c.Items < min(before.Items, after.Items) || c.Files < min(before.Files, after.Files) {
		return c, fmt.Errorf("%w: the copy has %d items, of %d", catalog.ErrDamaged, c.Items, before.Items)
	}
	if err := os.Link(temp.Name(), to); err != nil {
		return c, err
	}
	return c, durable.SyncDir(filepath.Dir(to))
}

// look opens a catalogue as it is, without bringing its schema up to date.
func look(ctx context.Context, path string) (*sqlite.Conn, error) {
	keepPages()
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, mapError(err)
	}
	conn.SetInterrupt(ctx.Done())
	err = configure(conn, "busy_timeout = 30000", "temp_store = MEMORY")
	var version, id int
	if err == nil {
		version, err = intPragma(conn, "user_version")
	}
	if err == nil {
		id, err = intPragma(conn, "application_id")
	}
	switch {
	case sqlite.ErrCode(err).ToPrimary() == sqlite.ResultNotADB:
		err = fmt.Errorf("%w: %s: %w", catalog.ErrForeign, path, err)
	case sqlite.ErrCode(err).ToPrimary() == sqlite.ResultCorrupt:
		err = fmt.Errorf("%w: %s: %w", catalog.ErrDamaged, path, err)
	case err != nil:
	case id != applicationID:
		err = fmt.Errorf("%w: %s has the application id %#x", catalog.ErrForeign, path, id)
	default:
		if err = knownSchema(version); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		conn.Close()
		return nil, interrupted(ctx, err)
	}
	return conn, nil
}

// contents says what the catalogue of conn has at one moment.
func contents(conn *sqlite.Conn) (c Contents, err error) {
	defer sqlitex.Transaction(conn)(&err)
	if c.Schema, err = intPragma(conn, "user_version"); err != nil {
		return c, err
	}
	for query, into := range map[string]*int64{
		"SELECT count(*) FROM items":                                                 &c.Items,
		"SELECT count(*) FROM files":                                                 &c.Files,
		"SELECT count(*) FROM tokens":                                                &c.Tokens,
		"SELECT coalesce(max(seq), 0) FROM changes":                                  &c.Change,
		"SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()": &c.Bytes,
	} {
		if *into, err = scalar(conn, query); err != nil {
			return c, err
		}
	}
	return c, sqlitex.Execute(conn, "SELECT objects FROM home", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		c.ObjectsAt = s.ColumnText(0)
		return nil
	}})
}

// inspect reads a catalogue's file that nobody else uses, whole, and leaves it without files beside it.
func inspect(ctx context.Context, path string) (c Contents, err error) {
	conn, err := look(ctx, path)
	if err != nil {
		return c, err
	}
	defer func() {
		err = errors.Join(err, conn.Close())
		if code := sqlite.ErrCode(err).ToPrimary(); code == sqlite.ResultCorrupt || code == sqlite.ResultNotADB {
			err = fmt.Errorf("%w: %w", catalog.ErrDamaged, err)
		}
		err = interrupted(ctx, err)
	}()
	if err := configure(conn, "journal_mode = DELETE"); err != nil {
		return c, err
	}
	var wrong string
	note := func(s *sqlite.Stmt) error {
		if text := s.ColumnText(0); text != "ok" && wrong == "" {
			wrong = text
		}
		return nil
	}
	for _, pragma := range []string{"PRAGMA integrity_check(1)", "PRAGMA foreign_key_check"} {
		if err := sqlitex.ExecuteTransient(conn, pragma, &sqlitex.ExecOptions{ResultFunc: note}); err != nil {
			return c, err
		}
		if wrong != "" {
			return c, fmt.Errorf("%w: %s says %s", catalog.ErrDamaged, pragma, wrong)
		}
	}
	return contents(conn)
}

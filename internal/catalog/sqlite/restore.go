package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/durable"
)

// beside are the files that SQLite keeps with a catalogue's.
var beside = []string{"", "-wal", "-shm"}

// Restore makes the catalogue at to a copy of the file from, which Backup has written. It reads the copy whole before it takes its
// place, and asks accept about it. A catalogue that is there already is ErrPresent, or is renamed, with replace, to the name that is
// returned. It fails with catalog.ErrInUse while any process has the catalogue open; until it returns none can open it. After an
// error, or a crash, the old catalogue is in its place or under its new name, and the new one whole in its place or not at all.
func Restore(ctx context.Context, from, to string, replace bool, accept func(Contents) error) (c Contents, replaced string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore catalogue %s: %w", to, err)
		}
	}()
	use, err := lockFolder(to, true)
	if err != nil {
		return c, "", err
	}
	defer use.Close()
	if _, err := os.Lstat(to); err == nil && !replace {
		return c, "", catalog.ErrPresent
	}
	if wal, err := os.Stat(from + "-wal"); err == nil && wal.Size() > 0 {
		return c, "", fmt.Errorf("%w: beside %s lies a -wal file with a part of it: it is a catalogue and no backup", catalog.ErrDamaged, from)
	}
	temp, err := copyFile(ctx, from, filepath.Dir(to))
	if err != nil {
		return c, "", err
	}
	defer func() {
		for _, suffix := range beside {
			os.Remove(temp + suffix)
		}
	}()
	if c, err = inspect(ctx, temp); err != nil {
		return c, "", fmt.Errorf("read %s: %w", from, err)
	}
	if err := accept(c); err != nil {
		return c, "", err
	}
	if replaced, err = moveAway(ctx, to); err != nil {
		return c, replaced, err
	}
	if err := os.Link(temp, to); err != nil {
		return c, replaced, err
	}
	return c, replaced, durable.SyncDir(filepath.Dir(to))
}

// copyFile copies a file into a new one in a folder, durably.
func copyFile(ctx context.Context, from, dir string) (name string, err error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%w: %s is no file", catalog.ErrForeign, from))
	}
	out, err := os.CreateTemp(dir, ".narfold-tmp-*")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	for {
		n, err := io.CopyN(out, in, 16<<20)
		switch {
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err == io.EOF:
			return out.Name(), out.Sync()
		case err != nil:
			return "", fmt.Errorf("copy %s, after %d bytes: %w", from, n, err)
		}
	}
}

// moveAway renames a catalogue that nobody uses, with the files beside it, and returns its new name, or "" if there is none.
func moveAway(ctx context.Context, path string) (string, error) {
	// What its -wal file holds goes into it first, if it can be read at all: then a crash cannot part the two.
	if conn, err := look(ctx, path); err == nil {
		err = sqlitex.ExecuteTransient(conn, "PRAGMA wal_checkpoint(TRUNCATE)", nil)
		if err = errors.Join(err, conn.Close()); ctx.Err() != nil {
			return "", interrupted(ctx, err)
		}
	}
	moved := path + ".replaced-" + time.Now().UTC().Format("20060102T150405.000Z")
	was := ""
	for _, suffix := range beside {
		if _, err := os.Lstat(path + suffix); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := os.Lstat(moved + suffix); err == nil {
			return was, &fs.PathError{Op: "rename", Path: moved + suffix, Err: fs.ErrExist}
		}
		if err := os.Rename(path+suffix, moved+suffix); err != nil {
			return was, err
		}
		if suffix == "" {
			was = moved
		}
	}
	return was, durable.SyncDir(filepath.Dir(path))
}

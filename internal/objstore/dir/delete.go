package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

// Delete removes the file of k, and then the folders above it that are empty. It returns when that would survive a power cut. Who
// reads the object goes on reading it.
func (s *Store) Delete(ctx context.Context, k objstore.Key) error {
	return wrap("delete", k, s.remove(ctx, k, nil))
}

// remove flushes if b is nil, and else leaves that to b.
func (s *Store) remove(ctx context.Context, k objstore.Key, b *batch) error {
	if _, err := objstore.ParseKey(string(k)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, base := split(k)
	f, err := s.folder(dir)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	}
	defer f.Close()
	err = s.locked(k, func() error { return unix.Unlinkat(int(f.Fd()), base, 0) })
	switch {
	case errors.Is(err, unix.ENOENT):
		// Flushed all the same: the call that removed it may have failed to.
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EPERM) && isFolder(f, base):
		return nil // a folder is no object
	case err != nil:
		return err
	}
	dir, err = s.prune(dir)
	switch {
	case err != nil:
		return err
	case b != nil:
		b.touched(dir)
		return nil
	}
	return s.flushNearest(dir)
}

// flushNearest flushes dir, or the nearest folder above it that is there: that one held the name of what is gone.
func (s *Store) flushNearest(dir string) error {
	for {
		f, err := s.folder(dir)
		if errors.Is(err, unix.ENOENT) && dir != "" {
			dir, _ = split(objstore.Key(dir))
			continue
		} else if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return fmt.Errorf("flush folder: %w", err)
		}
		return nil
	}
}

// prune removes dir and the folders above it as far as they are empty, and returns the first one that stays. A Put that has just
// opened one of them for its file gets ENOENT for it and makes it again.
func (s *Store) prune(dir string) (string, error) {
	for dir != "" {
		up, base := split(objstore.Key(dir))
		f, err := s.folder(up)
		if err == nil {
			err = unix.Unlinkat(int(f.Fd()), base, unix.AT_REMOVEDIR)
			f.Close()
		}
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EACCES):
			return dir, nil // in use, a mount point, or not ours to remove
		default:
			return dir, fmt.Errorf("remove empty folder %s: %w", dir, err)
		}
		dir = up
	}
	return dir, nil
}

// isFolder reports whether a name is a folder's; POSIX lets unlink say EPERM for those.
func isFolder(f *os.File, base string) bool { return kindOf(f, base) == unix.DT_DIR }

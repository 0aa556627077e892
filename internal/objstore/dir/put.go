package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

// Put writes the body beside the objects, flushes it, and then gives it its name in one step. A body with a Path on the same file
// system is linked instead of copied and is not read: its Size is compared with the file's, its SHA256 is believed.
//
// An ErrConflict of IfAbsent also says that what is there would survive a power cut, whoever put it.
func (s *Store) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	info, err := s.put(ctx, k, body, c, nil)
	return info, wrap("put", k, err)
}

// smallBody is a size in bytes up to which writing a body in vain costs little more than looking first: at most one buffer.
const smallBody = 256 << 10

// put stores durably if b is nil, and else leaves flushing to b.
func (s *Store) put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition, b *batch) (objstore.Info, error) {
	if _, err := objstore.ParseKey(string(k)); err != nil {
		return objstore.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return objstore.Info{}, err
	}
	// A condition that does not hold now is refused before the body is read. The one that counts is checked when the name is given,
	// and does by itself for a few bytes of a batch.
	if c != (objstore.Condition{}) && (b == nil || body.Size > smallBody) {
		if err := s.holds(k, c, b); err != nil {
			if b != nil { // also what is in the way is to be durable after Commit, whoever put it
				dir, _ := split(k)
				b.touched(dir)
			}
			return objstore.Info{}, err
		}
	}
	st, err := s.stage(ctx, k, body, b != nil)
	if err != nil {
		return objstore.Info{}, err
	}
	defer st.drop(s)
	if err := s.name(st, k, c, b); err != nil {
		return objstore.Info{}, err
	}
	return describe(k, &st.stat), nil
}

// holds returns ErrConflict if c does not hold for what is under k.
func (s *Store) holds(k objstore.Key, c objstore.Condition, b *batch) error {
	dir, base := split(k)
	at, err := s.folder(dir)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return errBelowObject
	case errors.Is(err, unix.ENOENT):
		return s.holdsAt(-1, k, base, c, b)
	case err != nil:
		return err
	}
	defer at.Close()
	return s.holdsAt(int(at.Fd()), k, base, c, b)
}

var (
	errBelowObject = fmt.Errorf("%w here: an object has the name of one of its folders", objstore.ErrKey)
	errIsFolder    = fmt.Errorf("%w here: other objects are below it", objstore.ErrKey)
)

// holdsAt is holds where the folder is open, or absent if at < 0.
func (s *Store) holdsAt(at int, k objstore.Key, base string, c objstore.Condition, b *batch) error {
	var st unix.Stat_t
	err := error(unix.ENOENT)
	if at >= 0 {
		err = unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		if c.IfMatch != "" {
			return fmt.Errorf("%w: nothing is stored under it", objstore.ErrConflict)
		}
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errIsFolder
	case c.IfAbsent:
		return s.conflict(at, base, b)
	case c.IfMatch != "" && (st.Mode&unix.S_IFMT != unix.S_IFREG || describe(k, &st).ETag != c.IfMatch):
		return fmt.Errorf("%w: what is stored has another ETag", objstore.ErrConflict)
	}
	return nil
}

// conflict returns ErrConflict after it has made sure that the object in the way is durable: its writer may not have come so far,
// and whoever is told "it is there already" will build on it. In a batch, Commit does that.
func (s *Store) conflict(at int, base string, b *batch) error {
	if b == nil {
		f, err := openBelow(at, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			err = f.Sync()
			f.Close()
		}
		if err == nil {
			err = unix.Fsync(at)
		}
		// ENOENT: deleted meanwhile. ELOOP and EINVAL: a link or a special file, nothing to flush.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("flush what is there already: %w", err)
		}
	}
	return fmt.Errorf("%w: it is there already", objstore.ErrConflict)
}

// folder opens a folder below ROOT, or ROOT for "".
func (r *Reader) folder(dir string) (*os.File, error) {
	if dir == "" {
		dir = "."
	}
	return r.openAt(dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

// makeFolder opens a folder and makes it, and those above it, if they are not there.
func (s *Store) makeFolder(dir string, flush bool) (*os.File, error) {
	f, err := s.folder(dir)
	if !errors.Is(err, unix.ENOENT) || dir == "" {
		return f, err
	}
	above, base := split(objstore.Key(dir))
	up, err := s.makeFolder(above, flush)
	if err != nil {
		return nil, err
	}
	defer up.Close()
	if err := unix.Mkdirat(int(up.Fd()), base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	if flush {
		if err := up.Sync(); err != nil {
			return nil, err
		}
	}
	return openBelow(int(up.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// name gives the staged file the name k, if c holds.
func (s *Store) name(st *staged, k objstore.Key, c objstore.Condition, b *batch) error {
	if b == nil {
		if err := st.flush(); err != nil {
			return err
		}
	}
	// A Delete may remove the folder, when it is empty, between its opening and the rename into it. That shows as ENOENT.
	for try := 0; ; try++ {
		err := s.nameOnce(st, k, c, b)
		switch {
		case errors.Is(err, unix.ENOENT) && try < 100:
		case errors.Is(err, unix.ENOTDIR):
			return errBelowObject
		default:
			return err
		}
	}
}

func (s *Store) nameOnce(st *staged, k objstore.Key, c objstore.Condition, b *batch) error {
	dir, base := split(k)
	if b != nil {
		f, err := b.folder(dir)
		if err != nil {
			return err
		}
		err = b.name(st, int(f.Fd()), k, c)
		b.done(f, err)
		return err
	}
	f, err := s.makeFolder(dir, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.rename(st, int(f.Fd()), k, base, c, nil); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush folder: %w", err)
	}
	return nil
}

// rename moves a flushed file to its name.
func (s *Store) rename(st *staged, at int, k objstore.Key, base string, c objstore.Condition, b *batch) error {
	if c.IfAbsent {
		err := unix.Renameat2(int(s.tmp.Fd()), st.temp, at, base, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			// This file system cannot (NFS); a link, too, is made only where nothing is.
			err = unix.Linkat(int(s.tmp.Fd()), st.temp, at, base, 0)
		}
		if errors.Is(err, unix.EEXIST) {
			return s.lost(at, k, base, c, b)
		}
		return err
	}
	return s.locked(k, func() error {
		if err := s.holdsAt(at, k, base, c, b); err != nil {
			return err
		}
		return unix.Renameat(int(s.tmp.Fd()), st.temp, at, base)
	})
}

// lost says why a name could not be given that something else has: a conflict, or, if the other is gone again, ENOENT, upon which
// name tries again.
func (s *Store) lost(at int, k objstore.Key, base string, c objstore.Condition, b *batch) error {
	if err := s.holdsAt(at, k, base, c, b); err != nil {
		return err
	}
	return unix.ENOENT
}

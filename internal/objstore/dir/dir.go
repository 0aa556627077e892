// Package dir keeps objects as plain files: the object a/b is the file ROOT/a/b, so that any web server, rsync or backup can use the
// same directory.
//
// Beside the objects there is ROOT/.narfold-tmp, where files are written before they get their names. Each process has a folder
// there and holds a lock on it; what a dead process left is looked through and removed by the next Open. ROOT must be one file
// system of Linux 5.6 or newer with hard links, nanosecond times and file locks (ext4, XFS, btrfs, ZFS, tmpfs). Several processes
// may use one ROOT. Nothing is read or written through a symbolic link below ROOT.
//
// Because names are paths, a key cannot be both an object and the beginning of another ("a" and "a/b"): the later is ErrKey.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"narfold/internal/durable"
	"narfold/internal/objstore"
)

const (
	tmpDir   = ".narfold-tmp"
	lockName = "locks"
	stripes  = 256
)

// Reader reads and lists the objects of a directory and cannot change them. It writes nothing, so ROOT may be read-only. Its
// methods may be called concurrently.
type Reader struct {
	root *os.File
	fd   int // of root
}

// Store is a Reader that can also put and delete. Its methods may be called concurrently.
type Store struct {
	Reader
	tmp   *os.File // this process's folder below tmpDir, locked
	locks *os.File // each byte of it is the lock of a stripe of keys
	perm  uint32   // of object files: 0644 less the umask

	stripe    [stripes]sync.Mutex
	seq       atomic.Uint64 // names files below tmp
	clock     atomic.Int64  // the last modification time given out
	withdrawn []objstore.Key
}

var (
	_ objstore.Store   = (*Store)(nil)
	_ objstore.Batcher = (*Store)(nil)
)

// OpenReader opens the directory root, which must exist, for reading alone.
func OpenReader(root string) (*Reader, error) {
	f, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open object directory: %w", class(err))
	}
	return &Reader{root: f, fd: int(f.Fd())}, nil
}

// Open opens the directory root and makes it if it is not there. It removes what processes that died left unfinished; see
// Withdrawn.
func Open(root string) (*Store, error) {
	if err := durable.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("open object directory: %w", class(err))
	}
	r, err := OpenReader(root)
	if err != nil {
		return nil, err
	}
	s := &Store{Reader: *r}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open object directory %s: %w", root, class(err))
	}
	return s, nil
}

func (s *Store) open() error {
	// The folder is private: it may hold bodies that are not yet verified.
	if err := unix.Mkdirat(s.fd, tmpDir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", tmpDir, err)
	}
	all, err := s.openAt(tmpDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", tmpDir, err)
	}
	defer all.Close()
	lock, err := openBelow(int(all.Fd()), lockName, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return fmt.Errorf("open %s/%s: %w", tmpDir, lockName, err)
	}
	s.locks = lock
	if err := s.lock(0); err != nil {
		return fmt.Errorf("lock a file of this file system: %w", err)
	}
	s.unlock(0)
	if err := s.claim(all); err != nil {
		return fmt.Errorf("make a folder in %s: %w", tmpDir, err)
	}
	if err := s.probe(); err != nil {
		return err
	}
	return s.recover(all)
}

// claim makes this process's folder and locks it. Between the two a starting process may take it for a dead one's and remove it,
// which shows as a lock that is held or a folder without a link; then another is made.
func (s *Store) claim(all *os.File) error {
	for range 100 {
		name := "p" + rand.Text()
		if err := unix.Mkdirat(int(all.Fd()), name, 0o700); err != nil {
			return err
		}
		f, err := openBelow(int(all.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			s.tmp = f
			return nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
	}
	return errors.New("others removed each one")
}

// probe learns the permissions that new files get.
func (s *Store) probe() error {
	name, f, err := s.temp()
	if err != nil {
		return fmt.Errorf("create a file: %w", err)
	}
	defer s.dropTemp(name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	s.perm = st.Mode & 0o777
	return nil
}

// Close gives back what the Store holds. Every other call must have returned, and Batches that are not committed are not durable.
func (s *Store) Close() error {
	var errs []error
	if s.tmp != nil {
		// Uncommitted batches leave their names here, and the folder stays for the next Open to judge.
		if all, err := s.openAt(tmpDir, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			unix.Unlinkat(int(all.Fd()), s.tmp.Name(), unix.AT_REMOVEDIR)
			all.Close()
		}
		errs = append(errs, s.tmp.Close())
	}
	if s.locks != nil {
		errs = append(errs, s.locks.Close())
	}
	errs = append(errs, s.Reader.Close())
	return errors.Join(errs...)
}

// Close closes the directory.
func (r *Reader) Close() error { return r.root.Close() }

// Withdrawn returns the objects that Open found damaged and removed: they were put in a batch, and the machine stopped before its
// Commit had returned, so nobody was told that they were durable. Put them again.
func (s *Store) Withdrawn() []objstore.Key { return s.withdrawn }

// openAt opens a path below ROOT. A symbolic link anywhere in it is ELOOP.
func (r *Reader) openAt(path string, flags int) (*os.File, error) {
	return openBelow(r.fd, path, flags, 0)
}

func openBelow(fd int, path string, flags int, perm uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOCTTY),
		Mode:    perm,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		n, err := unix.Openat2(fd, path, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(n), path), nil
		case unix.EINTR, unix.EAGAIN:
		case unix.ENOSYS:
			return nil, fmt.Errorf("openat2 is missing, which came with Linux 5.6: %w", err)
		default:
			return nil, err
		}
	}
}

// class adds to an error of the system the sentinel that callers decide on. Errors that have one, and those of contexts, stay as
// they are.
func class(err error) error {
	var errno unix.Errno
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case durable.IsFull(err):
		return fmt.Errorf("%w: %w", objstore.ErrFull, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%w: %w", objstore.ErrDenied, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", objstore.ErrNotFound, err)
	case errors.As(err, &errno):
		return fmt.Errorf("%w: %w", objstore.ErrUnavailable, err)
	}
	return err
}

func wrap(verb string, k objstore.Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, k, class(err))
}

// split returns the folder of k ("" is ROOT) and its name there.
func split(k objstore.Key) (dir, base string) {
	i := strings.LastIndexByte(string(k), '/')
	if i < 0 {
		return "", string(k)
	}
	return string(k[:i]), string(k[i+1:])
}

// describe makes an Info. The ETag is of size, modification time and inode: Put gives each file a time that this process gave to no
// other, so that it differs although inodes are used again and coarse clocks stand still.
func describe(k objstore.Key, st *unix.Stat_t) objstore.Info {
	return objstore.Info{
		Key:      k,
		Size:     st.Size,
		ETag:     fmt.Sprintf("%x-%x-%x", st.Size, st.Mtim.Nano(), st.Ino),
		Modified: time.Unix(st.Mtim.Unix()),
	}
}

// tick returns the time now, or a nanosecond after the last one that it gave out.
func (s *Store) tick() unix.Timespec {
	for {
		last := s.clock.Load()
		now := max(time.Now().UnixNano(), last+1)
		if s.clock.CompareAndSwap(last, now) {
			return unix.NsecToTimespec(now)
		}
	}
}

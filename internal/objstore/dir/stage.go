package dir

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// staged is a body written to this process's folder, complete and verified, that has no key yet.
type staged struct {
	f    *os.File
	temp string // its name in the folder; "" once it must stay or is gone
	seq  uint64
	stat unix.Stat_t   // after the last change
	sum  digest.SHA256 // zero if not known
}

// stage brings the body of k beside the objects. For a batch it hashes what is copied even if there is nothing to compare with.
func (s *Store) stage(ctx context.Context, k objstore.Key, body objstore.Body, batch bool) (*staged, error) {
	seq, name := s.tempName(k, body, batch)
	if body.Path != "" {
		st, err := s.stageLink(seq, name, body)
		if err == nil || errors.Is(err, objstore.ErrDigest) {
			return st, err
		}
		// Another file system, another owner, too many links, a symbolic link, gone: copying decides.
	}
	return s.stageCopy(ctx, seq, name, body, batch)
}

// tempName finds a name that nothing has yet. For a batch it is at once the one that stays there until Commit, where the digest is
// known: if the body turns out to be another one, or the machine stops before it is written, recovery finds a file that no key has.
func (s *Store) tempName(k objstore.Key, body objstore.Body, batch bool) (uint64, string) {
	seq := s.seq.Add(1)
	if batch {
		if kept, recognisable := (uncommitted{seq, body.Size, body.SHA256, k}).fileName(); recognisable {
			return seq, kept
		}
	}
	return seq, strconv.FormatUint(seq, 10)
}

// stageLink gives the caller's file a second name here.
func (s *Store) stageLink(seq uint64, name string, body objstore.Body) (_ *staged, err error) {
	st := &staged{seq: seq, temp: name, sum: body.SHA256}
	if err := unix.Linkat(unix.AT_FDCWD, body.Path, int(s.tmp.Fd()), st.temp, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.drop(s)
		}
	}()
	if st.f, err = openBelow(int(s.tmp.Fd()), st.temp, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, err
	}
	fd := int(st.f.Fd())
	if err := unix.Fstat(fd, &st.stat); err != nil {
		return nil, err
	}
	if st.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	if st.stat.Size != body.Size {
		return nil, wrongSize(st.stat.Size, body.Size)
	}
	if err := unix.Fchmod(fd, s.perm); err != nil {
		return nil, err
	}
	return st, st.stamp(s)
}

var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// stageCopy writes what Body.Open gives to a new file.
func (s *Store) stageCopy(ctx context.Context, seq uint64, name string, body objstore.Body, hash bool) (_ *staged, err error) {
	src, err := body.Open()
	if err != nil {
		return nil, fmt.Errorf("open body: %w", err)
	}
	defer src.Close()
	st := &staged{seq: seq, temp: name}
	if st.f, err = s.create(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.drop(s)
		}
	}()
	whole := sha256.New()
	hash = hash || !body.SHA256.IsZero()
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	var size int64
	for idle := 0; ; {
		n, rerr := src.Read(buf[:])
		if size += int64(n); size > body.Size {
			return nil, wrongSize(size, body.Size)
		}
		if n > 0 {
			idle = 0
			if hash {
				whole.Write(buf[:n])
			}
			if _, err := st.f.Write(buf[:n]); err != nil {
				return nil, err
			}
		} else if idle++; rerr == nil && idle > 100 {
			rerr = io.ErrNoProgress
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return nil, fmt.Errorf("read body: %w", rerr)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if size != body.Size {
		return nil, wrongSize(size, body.Size)
	}
	if hash {
		whole.Sum(st.sum[:0])
		if !body.SHA256.IsZero() && st.sum != body.SHA256 {
			return nil, fmt.Errorf("%w: it hashes to %s, not %s", objstore.ErrDigest, st.sum, body.SHA256)
		}
	}
	return st, st.stamp(s)
}

func wrongSize(is, want int64) error {
	if is > want {
		return fmt.Errorf("%w: it has more than the %d bytes it was said to have", objstore.ErrDigest, want)
	}
	return fmt.Errorf("%w: it has %d bytes, not %d", objstore.ErrDigest, is, want)
}

// temp makes a file in this process's folder.
func (s *Store) temp() (string, *os.File, error) {
	name := strconv.FormatUint(s.seq.Add(1), 10)
	f, err := s.create(name)
	return name, f, err
}

func (s *Store) create(name string) (*os.File, error) {
	return openBelow(int(s.tmp.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
}

func (s *Store) dropTemp(name string) { unix.Unlinkat(int(s.tmp.Fd()), name, 0) }

// stamp gives the file a modification time of its own, on which its ETag rests.
func (st *staged) stamp(s *Store) error {
	now := s.tick()
	if err := unix.UtimesNanoAt(int(s.tmp.Fd()), st.temp, []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fstat(int(st.f.Fd()), &st.stat)
}

func (st *staged) flush() error {
	if err := st.f.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// drop forgets the file. Where the name was renamed to a key there is nothing to remove any more.
func (st *staged) drop(s *Store) {
	if st.f != nil {
		st.f.Close()
	}
	if st.temp != "" {
		s.dropTemp(st.temp)
	}
}

package nar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrCollision says that the file system takes two names of one directory for the same: it ignores case or normalises, or
// somebody else is writing into the tree.
var ErrCollision = errors.New("the file system has an entry of that name already")

// Restore makes the tree whose nar r holds, and nothing else, at target, which must not exist (fs.ErrExist) while its parent
// must.
//
// As nix-store --restore does, it gives directories and programs mode 0755 and other files 0644, whatever the umask, and
// leaves times and owners alone. It writes nowhere but at target: each entry is made with a plain name in a directory that
// Restore made and holds open, never over something and never through a symbolic link.
//
// After any error target does not exist, unless it did before or the error says what could not be removed. Errors are an
// *Error if r does not hold a nar alone, ErrCollision, r's, the file system's or the context's. Restore does not wait for
// the tree to reach the disk. It holds one file descriptor for each level of directories.
func Restore(ctx context.Context, r io.Reader, target string) error {
	if target == "" {
		return fmt.Errorf("restore: %w", &fs.PathError{Op: "create", Path: target, Err: unix.ENOENT})
	}
	br := borrowReader(r)
	defer returnReader(br)
	s := &restorer{ctx: ctx, nar: NewReader(br), root: filepath.Clean(target), dirs: []int{unix.AT_FDCWD}}
	err := s.run()
	s.closeBelow(1)
	if err == nil || !s.made {
		return err
	}
	// Removal follows no links, and happens after cancellation too.
	if left := os.RemoveAll(s.root); left != nil {
		return fmt.Errorf("%w; and remove what was restored: %w", err, left)
	}
	return err
}

type restorer struct {
	ctx  context.Context
	nar  *Reader
	root string
	dirs []int // where nodes of each depth are made: the caller's directory for the root, then the open directories
	made bool  // something is at root that run put there
	// The root did not get the mode that was asked for, because of the umask or of a default ACL, so that modes need to be
	// set one by one.
	masked bool
}

func (s *restorer) run() error {
	for {
		h, err := s.nar.next()
		if err == io.EOF {
			return s.nar.End()
		}
		if err == nil && s.ctx.Err() != nil {
			err = s.fail("create", context.Cause(s.ctx))
		}
		if err == nil {
			err = s.node(h)
		}
		if err != nil {
			return err
		}
	}
}

// fail names the file at hand.
func (s *restorer) fail(verb string, err error) error {
	path := s.root
	if len(s.nar.path) > 0 {
		path += "/" + string(s.nar.path)
		if err == unix.EEXIST {
			err = fmt.Errorf("%w: %w", ErrCollision, err)
		}
	}
	return fmt.Errorf("restore: %w", &fs.PathError{Op: verb, Path: path, Err: err})
}

// closeBelow closes the directories that are deeper than the given number of levels.
func (s *restorer) closeBelow(levels int) {
	for len(s.dirs) > levels {
		last := len(s.dirs) - 1
		unix.Close(s.dirs[last])
		s.dirs = s.dirs[:last]
	}
}

func (s *restorer) node(h Header) error {
	depth := len(s.nar.dirs)
	if h.Type == Directory {
		depth-- // the Reader counts it as open already
	}
	s.closeBelow(depth + 1)
	dir, name := s.dirs[depth], s.root
	if depth > 0 {
		name = string(s.nar.name())
	}
	switch h.Type {
	case Directory:
		return s.directory(dir, name)
	case Symlink:
		if err := retry(func() error { return unix.Symlinkat(h.Target, dir, name) }); err != nil {
			return s.fail("symlink", err)
		}
		s.made = true
		return nil
	}
	return s.regular(dir, name, h)
}

func (s *restorer) directory(dir int, name string) error {
	if err := retry(func() error { return unix.Mkdirat(dir, name, programMode) }); err != nil {
		return s.fail("mkdir", err)
	}
	s.made = true
	fd, err := retryN(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return s.fail("open", err)
	}
	s.dirs = append(s.dirs, fd)
	return s.chmod(fd, programMode)
}

const (
	fileMode    = 0o644
	programMode = 0o755
)

// chmod sees to it that what was just created with mode has it.
func (s *restorer) chmod(fd int, mode uint32) error {
	if len(s.nar.path) == 0 {
		var st unix.Stat_t
		if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
			return s.fail("stat", err)
		}
		s.masked = uint32(st.Mode)&0o777 != mode
	}
	if !s.masked {
		return nil
	}
	if err := retry(func() error { return unix.Fchmod(fd, mode) }); err != nil {
		return s.fail("chmod", err)
	}
	return nil
}

func (s *restorer) regular(dir int, name string, h Header) error {
	mode := uint32(fileMode)
	if h.Executable {
		mode = programMode
	}
	fd, err := retryN(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	})
	if err != nil {
		return s.fail("create", err)
	}
	s.made = true
	if err = s.chmod(fd, mode); err == nil {
		_, err = s.nar.WriteTo(restoredFile{s, fd})
	}
	// Some file systems tell only now that there was no room.
	if e := unix.Close(fd); err == nil && e != nil && e != unix.EINTR {
		err = s.fail("close", e)
	}
	return err
}

// restoredFile writes to the file at hand.
type restoredFile struct {
	*restorer
	fd int
}

func (f restoredFile) Write(p []byte) (done int, err error) {
	if err := f.ctx.Err(); err != nil {
		return 0, f.fail("write", context.Cause(f.ctx))
	}
	for done < len(p) {
		n, err := retryN(func() (int, error) { return unix.Write(f.fd, p[done:]) })
		if err != nil {
			return done, f.fail("write", err)
		}
		done += n
	}
	return done, nil
}

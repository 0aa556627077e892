package nar

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of Dump on which callers decide.
var (
	// ErrFileType says that the tree holds a socket, device or named pipe.
	ErrFileType = errors.New("not a regular file, directory or symbolic link")
	// ErrChanged says that a file grew, shrank or was replaced while it was read.
	ErrChanged = errors.New("changed while being read")
)

// Dump writes the nar of the file, symbolic link or tree at path to w. The link is dumped and not followed, if path is one.
// A regular file is executable if its owner may execute it; nothing else of modes, owners and times goes into a nar.
//
// Errors name the file. They are ErrFileType, ErrChanged, an *Error for a path that is longer than the format's readers
// accept, the file system's (fs.ErrNotExist and so on), w's or the context's. w may have received part of a nar by then. Dump
// holds one file descriptor for each level of directories. Large files go by w's ReadFrom where that spares the copying: a
// regular *os.File, or a connection.
func Dump(ctx context.Context, w io.Writer, path string) error {
	d := &dumper{ctx: ctx, enc: newEncoder(w, nil), root: path, direct: directReader(w)}
	defer d.release()
	if err := d.enc.tokens(tokMagic); err != nil {
		return err
	}
	if err := d.node(unix.AT_FDCWD, path, kindUnknown); err != nil {
		return err
	}
	return d.enc.flush()
}

// directReader returns w as what can take bytes from a file without their passing through this process, or nil.
func directReader(w io.Writer) io.ReaderFrom {
	switch w := w.(type) {
	case *bufio.Writer, *bytes.Buffer:
		return nil // they read by smaller steps than copyFile
	case *os.File:
		if info, err := w.Stat(); err != nil || !info.Mode().IsRegular() {
			return nil
		}
		return w
	case io.ReaderFrom:
		return w
	}
	return nil
}

type dumper struct {
	ctx    context.Context
	enc    *encoder
	direct io.ReaderFrom // nil unless w gains by it
	root   string
	path   []byte          // below the root
	dents  *[32 << 10]byte // buffer for reading directories
}

// direntBuffers are for small trees, of which an import dumps thousands: a buffer for each was half of its garbage.
var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (d *dumper) release() {
	d.enc.release()
	if d.dents != nil {
		direntBuffers.Put(d.dents)
	}
}

// The kinds of directory entry, as far as the file system tells them together with the name.
type kind uint8

const (
	kindUnknown kind = iota
	kindRegular
	kindSymlink
	kindDirectory
	kindOther
)

type dirent struct {
	name string
	kind kind
}

// fail names the file at hand.
func (d *dumper) fail(verb string, err error) error {
	return fmt.Errorf("dump: %w", &fs.PathError{Op: verb, Path: d.where(), Err: err})
}

func (d *dumper) where() string {
	if len(d.path) == 0 {
		return d.root
	}
	return strings.TrimSuffix(d.root, "/") + "/" + string(d.path)
}

// node dumps the file called name in the directory dir.
func (d *dumper) node(dir int, name string, k kind) error {
	if err := d.ctx.Err(); err != nil {
		return d.fail("read", context.Cause(d.ctx))
	}
	if k == kindUnknown {
		var st unix.Stat_t
		if err := retry(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
			return d.fail("stat", err)
		}
		k = kindOf(uint32(st.Mode))
	}
	switch k {
	case kindRegular:
		return d.regular(dir, name)
	case kindSymlink:
		return d.symlink(dir, name)
	case kindDirectory:
		return d.directory(dir, name)
	}
	return d.fail("dump", ErrFileType)
}

func kindOf(mode uint32) kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return kindRegular
	case unix.S_IFLNK:
		return kindSymlink
	case unix.S_IFDIR:
		return kindDirectory
	}
	return kindOther
}

func (d *dumper) symlink(dir int, name string) error {
	var buf [MaxTarget + 1]byte
	n, err := retryN(func() (int, error) { return unix.Readlinkat(dir, name, buf[:]) })
	if err != nil {
		return d.fail("readlink", d.replaced(err))
	}
	if detail, reason := checkTarget(buf[:n]); reason != nil {
		return d.refuse(reason, detail)
	}
	if err := d.enc.tokens(tokSymlink); err != nil {
		return err
	}
	if err := d.enc.text(string(buf[:n])); err != nil {
		return err
	}
	return d.enc.tokens(tokClose)
}

func (d *dumper) refuse(reason error, detail string) error {
	return fmt.Errorf("dump %s: %w", d.root, &Error{Reason: reason, Offset: d.enc.done + int64(d.enc.n), Path: string(d.path), Detail: detail})
}

// replaced marks the errors that come of a file having gone, or become another kind of file, since its directory was read.
func (d *dumper) replaced(err error) error {
	switch err {
	case unix.ENOENT:
		if len(d.path) == 0 {
			return err
		}
		fallthrough
	case unix.ELOOP, unix.EMLINK, unix.EINVAL, unix.ENOTDIR, unix.ENXIO:
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

func (d *dumper) directory(dir int, name string) error {
	fd, err := retryN(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return d.fail("open", d.replaced(err))
	}
	defer unix.Close(fd)
	if d.dents == nil {
		d.dents = direntBuffers.Get().(*[32 << 10]byte)
	}
	entries, err := readDirectory(fd, d.dents[:])
	if err != nil {
		return d.fail("read directory", err)
	}
	slices.SortFunc(entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	if err := d.enc.tokens(tokDirectory); err != nil {
		return err
	}
	base := len(d.path)
	for _, e := range entries {
		if base > 0 {
			d.path = append(d.path, '/')
		}
		d.path = append(d.path, e.name...)
		if len(d.path) > MaxPath {
			return d.refuse(ErrTooDeep, fmt.Sprintf("%d bytes", len(d.path)))
		}
		if err := d.entry(fd, e); err != nil {
			return err
		}
		d.path = d.path[:base]
	}
	return d.enc.tokens(tokClose)
}

func (d *dumper) entry(dir int, e dirent) error {
	if err := d.enc.tokens(tokEntry); err != nil {
		return err
	}
	if err := d.enc.text(e.name); err != nil {
		return err
	}
	if err := d.enc.tokens(tokNode); err != nil {
		return err
	}
	if err := d.node(dir, e.name, e.kind); err != nil {
		return err
	}
	return d.enc.tokens(tokClose)
}

func (d *dumper) regular(dir int, name string) error {
	// O_NONBLOCK, so that a named pipe which took the file's place is noticed rather than waited for.
	fd, err := retryN(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return d.fail("open", d.replaced(err))
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		unix.Close(fd)
		return d.fail("stat", err)
	}
	if kindOf(uint32(st.Mode)) != kindRegular {
		unix.Close(fd)
		return d.fail("open", ErrChanged)
	}
	open := tokFile
	if st.Mode&unix.S_IXUSR != 0 {
		open = tokProgram
	}
	if err = d.enc.tokens(open); err == nil {
		err = d.enc.length(st.Size)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	if d.direct != nil && st.Size >= directMin {
		err = d.sendFile(fd, st.Size)
	} else {
		err = d.copyFile(fd, st.Size)
		unix.Close(fd)
	}
	if err != nil {
		return err
	}
	if err := d.enc.pad(st.Size); err != nil {
		return err
	}
	return d.enc.tokens(tokClose)
}

// copyFile reads a file of size bytes into the encoder's buffer. It asks for one byte more than that, which costs no
// system call for a small file: a file that gives it has grown.
func (d *dumper) copyFile(fd int, size int64) error {
	left := size
	for {
		if err := d.enc.room(int(min(left+1, bufferSize))); err != nil {
			return err
		}
		free := d.enc.buf[d.enc.n:]
		ask := min(left+1, int64(len(free)))
		n, err := retryN(func() (int, error) { return unix.Read(fd, free[:ask]) })
		switch {
		case err != nil:
			return d.fail("read", err)
		case int64(n) > left:
			return d.fail("read", fmt.Errorf("%w: grew beyond %d bytes", ErrChanged, size))
		case n == 0 && left > 0:
			return d.fail("read", fmt.Errorf("%w: %d bytes are missing at its end", ErrChanged, left))
		}
		d.enc.n += n
		left -= int64(n)
		// A regular file gives less than was asked for only at its end.
		if left == 0 && int64(n) < ask {
			return nil
		}
		if err := d.ctx.Err(); err != nil {
			return d.fail("read", context.Cause(d.ctx))
		}
	}
}

const (
	directMin   = 1 << 20  // below this a copy through the buffer is as good
	directChunk = 64 << 20 // how much is sent before the context is asked again
)

// sendFile gives a file of size bytes to the writer's ReadFrom, and closes it.
func (d *dumper) sendFile(fd int, size int64) error {
	file := os.NewFile(uintptr(fd), d.where())
	defer file.Close()
	if err := d.enc.flush(); err != nil {
		return err
	}
	for left := size; left > 0; {
		if err := d.ctx.Err(); err != nil {
			return d.fail("read", context.Cause(d.ctx))
		}
		n, err := d.direct.ReadFrom(io.LimitReader(file, min(left, directChunk)))
		d.enc.done += n
		left -= n
		if err != nil {
			return &writeError{err}
		}
		if n == 0 {
			return d.fail("read", fmt.Errorf("%w: %d bytes are missing at its end", ErrChanged, left))
		}
	}
	var more [1]byte
	if n, err := file.Read(more[:]); n > 0 {
		return d.fail("read", fmt.Errorf("%w: grew beyond %d bytes", ErrChanged, size))
	} else if err != nil && err != io.EOF {
		return d.fail("read", err)
	}
	return nil
}

// retry repeats a system call that a signal interrupted, as the Go runtime's own may.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func retryN(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

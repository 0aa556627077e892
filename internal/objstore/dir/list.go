package dir

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

// List walks the folders in the order of keys. It holds the names of one folder at a time for each level, about 60 bytes each.
// Files whose names are not keys, and what is not a regular file, are passed over.
func (r *Reader) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		// The folder that holds every match; where it could not be part of a key there are none.
		dir := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if _, err := objstore.ParseKey(dir); err != nil {
				return
			}
		}
		w := walk{r: r, ctx: ctx, prefix: prefix, yield: yield}
		if err := w.folder(dir); err != nil && err != errStop {
			yield(objstore.Info{}, fmt.Errorf("list %q: %w", prefix, class(err)))
		}
	}
}

var errStop = errors.New("the consumer has seen enough")

type walk struct {
	r      *Reader
	ctx    context.Context
	prefix string
	yield  func(objstore.Info, error) bool
}

// folder yields what is below dir ("" is ROOT).
func (w *walk) folder(dir string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	path := dir
	if dir == "" {
		path = "."
	}
	f, err := w.r.openAt(path, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // gone meanwhile, or never a folder
	case err != nil:
		return fmt.Errorf("open folder %s: %w", path, err)
	}
	defer f.Close()
	entries, err := readNames(f)
	if err != nil {
		return fmt.Errorf("read folder %s: %w", path, err)
	}
	for _, e := range entries {
		if err := w.entry(f, dir, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(f *os.File, dir string, e entry) error {
	name := e.name
	if dir != "" {
		name = dir + "/" + e.name
	}
	if e.dir {
		below := name + "/"
		if !strings.HasPrefix(below, w.prefix) && !strings.HasPrefix(w.prefix, below) {
			return nil
		}
		if _, err := objstore.ParseKey(name); err != nil {
			return nil
		}
		return w.folder(name)
	}
	if !strings.HasPrefix(name, w.prefix) {
		return nil
	}
	k, err := objstore.ParseKey(name)
	if err != nil {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstatat(int(f.Fd()), e.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("stat %s: %w", name, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil
	}
	if !w.yield(describe(k, &st), nil) {
		return errStop
	}
	return nil
}

// entry is a name in a folder.
type entry struct {
	name string
	dir  bool
}

// at returns byte i of the name as it appears in keys, where a folder's name is followed by a slash; 0 is past its end.
func (e entry) at(i int) byte {
	switch {
	case i < len(e.name):
		return e.name[i]
	case i == len(e.name) && e.dir:
		return '/'
	}
	return 0
}

// compare orders entries as the keys that they begin: the folder "a" comes after the file "a-b" and before the file "a0".
func compare(a, b entry) int {
	n := min(len(a.name), len(b.name))
	if c := strings.Compare(a.name[:n], b.name[:n]); c != 0 {
		return c
	}
	if c := cmp.Compare(a.at(n), b.at(n)); c != 0 {
		return c
	}
	return cmp.Compare(len(a.name), len(b.name))
}

// readNames returns the regular files and folders in f in the order of keys. It reads the records of getdents64(2) itself, since
// os.File.ReadDir makes three allocations for each name and a flat store has a million of them.
func readNames(f *os.File) ([]entry, error) {
	var out []entry
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			slices.SortFunc(out, compare)
			return out, nil
		}
		// One string for all names of this read: each name is a slice of it.
		text := string(buf[:n])
		for at := 0; at < n; {
			// struct linux_dirent64: inode 8 bytes, offset 8, length of the record 2, type 1, name up to a NUL.
			length := int(binary.NativeEndian.Uint16(buf[at+16:]))
			kind := buf[at+18]
			name := text[at+19 : at+length]
			at += length
			name = name[:strings.IndexByte(name, 0)]
			if name == "." || name == ".." {
				continue
			}
			if kind == unix.DT_UNKNOWN {
				kind = kindOf(f, name)
			}
			if kind == unix.DT_REG || kind == unix.DT_DIR {
				out = append(out, entry{name, kind == unix.DT_DIR})
			}
		}
	}
}

// kindOf asks for the type of a name on file systems whose folders do not tell.
func kindOf(f *os.File, name string) byte {
	var st unix.Stat_t
	if unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return unix.DT_UNKNOWN
	}
	return byte(st.Mode & unix.S_IFMT >> 12) // the types of folders are those of modes, shifted (getdents(2), dirent.h)
}

package dir

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/nixbase32"
	"narfold/internal/objstore"
)

// uncommitted is what the second name of an object that was put in a batch says about it.
type uncommitted struct {
	seq  uint64
	size int64
	sum  digest.SHA256
	key  objstore.Key
}

// fileName writes "SEQ.SIZE.SUM\KEY" with the slashes of the key turned to backslashes, which no key contains. It reports false if
// that is too long for a file name (255 bytes) or the digest is not known.
func (u uncommitted) fileName() (string, bool) {
	name := fmt.Sprintf(`%d.%d.%s\%s`, u.seq, u.size, u.sum.Base32(), strings.ReplaceAll(string(u.key), "/", `\`))
	return name, len(name) <= 255 && !u.sum.IsZero()
}

func parseUncommitted(name string) (u uncommitted, ok bool) {
	head, key, ok := strings.Cut(name, `\`)
	part := strings.Split(head, ".")
	if !ok || len(part) != 3 || len(part[2]) != nixbase32.EncodedLen(len(u.sum)) {
		return u, false
	}
	var err1, err2, err3 error
	u.seq, err1 = strconv.ParseUint(part[0], 10, 64)
	u.size, err2 = strconv.ParseInt(part[1], 10, 64)
	u.key, err3 = objstore.ParseKey(strings.ReplaceAll(key, `\`, "/"))
	return u, errors.Join(err1, err2, err3, nixbase32.Decode(u.sum[:], part[2])) == nil
}

// recover looks through the folders of processes that died. Unfinished bodies are removed. Objects of a batch that was not
// committed are kept if they are whole, and otherwise taken back: a file system may keep a name and lose the bytes.
func (s *Store) recover(all *os.File) error {
	entries, err := readNames(all)
	if err != nil {
		return fmt.Errorf("read %s: %w", tmpDir, err)
	}
	for _, e := range entries {
		if !e.dir || e.name == s.tmp.Name() {
			continue
		}
		if err := s.recoverFolder(all, e.name); err != nil {
			return fmt.Errorf("clean %s/%s: %w", tmpDir, e.name, err)
		}
	}
	return nil
}

func (s *Store) recoverFolder(all *os.File, folder string) error {
	f, err := openBelow(int(all.Fd()), folder, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil // its process lives
	} else if err != nil {
		return err
	}
	entries, err := readNames(f)
	if err != nil {
		return err
	}
	for _, e := range entries {
		u, ok := parseUncommitted(e.name)
		if !ok {
			continue
		}
		whole, err := u.whole(f, e.name)
		if err != nil {
			return err
		}
		if !whole && s.takeBack(u.key, int(f.Fd()), e.name) {
			s.withdrawn = append(s.withdrawn, u.key)
		}
	}
	if len(entries) > 0 {
		// What stays must be durable before the names that tell of it go.
		if err := s.flushAll(f, entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := unix.Unlinkat(int(f.Fd()), e.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := unix.Unlinkat(int(all.Fd()), folder, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// flushAll flushes everything, or, where the kernel cannot, the files and the folders of their keys.
func (s *Store) flushAll(f *os.File, entries []entry) error {
	err := durable.SyncFS(s.root)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	b := &batch{s: s, dirs: make(map[string]bool)}
	for _, e := range entries {
		if err := flushFile(int(f.Fd()), e.name); err != nil {
			return err
		}
		if u, ok := parseUncommitted(e.name); ok {
			dir, _ := split(u.key)
			b.dirs[dir] = true
		}
	}
	return b.flushEach(b.kept, b.dirs)
}

// whole reports whether the file has the size and the digest that its name tells.
func (u uncommitted) whole(folder *os.File, name string) (bool, error) {
	f, err := openBelow(int(folder.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil || n != u.size {
		return false, nil // bytes that cannot be read are lost bytes
	}
	return digest.SHA256(h.Sum(nil)) == u.sum, nil
}

// takeBack removes the object k if it is the file of that second name, and reports whether it was.
func (s *Store) takeBack(k objstore.Key, at int, name string) (was bool) {
	dir, base := split(k)
	s.locked(k, func() error {
		f, err := s.folder(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		var one, two unix.Stat_t
		if err := unix.Fstatat(at, name, &one, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if err := unix.Fstatat(int(f.Fd()), base, &two, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		// The second name keeps the inode from being used again, so equal numbers are one file.
		if one.Dev == two.Dev && one.Ino == two.Ino {
			was = unix.Unlinkat(int(f.Fd()), base, 0) == nil
		}
		return nil
	})
	return was
}

// Package durable writes files that survive a power cut whole: after success the new bytes are on the disk under their name, and
// at any moment before, a reader or a restarted machine finds the old file or the new one and never a part of either.
//
// The order is always the same: write beside the target, flush the file, give it its name, flush the directory. What the functions
// promise holds on Linux file systems that journal their metadata (ext4, XFS, btrfs, ZFS, F2FS) and as far as the disk honours
// flushes. A file that could not be flushed is never given its name: after a failed flush the kernel forgets the lost pages, and a
// second flush would report success (fsync(2), ERRORS).
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// IsFull reports whether err says that there is no room: the file system is full (ENOSPC), or the user's quota is (EDQUOT).
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// WriteFile makes name a file with these bytes and permissions (exactly perm: the umask does not apply). A file of
// that name is replaced in one step; a symbolic link of that name is replaced and not followed. It returns when the file would
// survive a power cut. After an error the name has its old contents or the new ones.
func WriteFile(name string, data []byte, perm fs.FileMode) error {
	return place(name, data, perm, os.Rename)
}

// CreateFile is WriteFile for a name that must not exist yet: it fails with fs.ErrExist, and changes nothing, if anything has the
// name already. Of several concurrent calls exactly one succeeds, also across processes and on NFS.
func CreateFile(name string, data []byte, perm fs.FileMode) error {
	return place(name, data, perm, os.Link)
}

// place writes a file beside name and lets enter give it the name.
func place(name string, data []byte, perm fs.FileMode, enter func(old, new string) error) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".narfold-tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		f.Close() // the file was flushed, or is of no use: there is nothing left that closing could lose
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	// After a rename the temporary name is gone and removing it does nothing.
	defer os.Remove(f.Name())
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := enter(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

// Remove removes a file and returns when its absence would survive a power cut. That it was not there is not an error.
func Remove(name string) error {
	err := os.Remove(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Also when it was absent: the call that removed it may have been cut off before its flush.
	if err := syncDir(filepath.Dir(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// MkdirAll makes a directory and the missing ones above it, and returns when all that it made would survive a power cut.
func MkdirAll(dir string, perm fs.FileMode) error {
	err := os.Mkdir(dir, perm)
	switch {
	case err == nil:
		return SyncDir(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return nil
		}
		return err
	case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
		if err := MkdirAll(filepath.Dir(dir), perm); err != nil {
			return err
		}
		if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return SyncDir(filepath.Dir(dir))
	}
	return err
}

// SyncDir flushes the names in dir: what was created, linked, renamed or removed in it before the call survives a power cut.
func SyncDir(dir string) error {
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("flush directory %s: %w", dir, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

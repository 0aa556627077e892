package deployment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// spool is a folder for this process alone. The lock on it tells other processes that it is in use, and ends with the process, so that
// what a killed one has left is cleaned up by the next.
type spool struct {
	dir  string
	lock *os.File
}

func openSpool(root string) (*spool, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	if err := cleanSpool(root); err != nil {
		return nil, err
	}
	for {
		dir, err := os.MkdirTemp(root, "run-")
		if err != nil {
			return nil, fmt.Errorf("make spool: %w", err)
		}
		lock, err := lockDir(dir)
		if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
			continue // another process took it for litter in the moment before the lock
		}
		if err != nil {
			return nil, fmt.Errorf("lock spool: %w", err)
		}
		if _, err := os.Stat(dir); err != nil {
			lock.Close()
			continue
		}
		return &spool{dir, lock}, nil
	}
}

func cleanSpool(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("clean spool: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		lock, err := lockDir(dir)
		if err != nil {
			continue // in use, or gone
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("clean spool: %w", err)
		}
	}
	return nil
}

var errLocked = errors.New("in use by another process")

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errLocked
	}
	return f, nil
}

func (s *spool) Close() error {
	return errors.Join(os.RemoveAll(s.dir), s.lock.Close())
}

package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"narfold/internal/durable"
)

// names returns what is in a directory, so that litter shows.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func holds(t *testing.T, name, want string, perm fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", filepath.Base(name), got, want)
	}
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != perm {
		t.Errorf("%s has mode %v, want %v", filepath.Base(name), fi.Mode(), perm)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "state")
	t.Run("creates with exactly the permissions asked for", func(t *testing.T) {
		defer syscall.Umask(syscall.Umask(0o077))
		if err := durable.WriteFile(name, []byte("one"), 0o644); err != nil {
			t.Fatal(err)
		}
		holds(t, name, "one", 0o644)
	})
	t.Run("replaces bytes and permissions", func(t *testing.T) {
		if err := durable.WriteFile(name, []byte("two"), 0o600); err != nil {
			t.Fatal(err)
		}
		holds(t, name, "two", 0o600)
	})
	t.Run("replaces a link and leaves its target alone", func(t *testing.T) {
		target, link := filepath.Join(dir, "state"), filepath.Join(dir, "link")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteFile(link, []byte("three"), 0o600); err != nil {
			t.Fatal(err)
		}
		holds(t, link, "three", 0o600)
		holds(t, target, "two", 0o600)
	})
	t.Run("an error leaves no litter and names the file", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(dir, "occupied"), 0o755); err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(names(t, dir))
		err := durable.WriteFile(filepath.Join(dir, "occupied"), []byte("x"), 0o600)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte("write "+filepath.Join(dir, "occupied"))) {
			t.Errorf("writing over a directory: %v", err)
		}
		if after := fmt.Sprint(names(t, dir)); after != before {
			t.Errorf("directory went from %s to %s", before, after)
		}
	})
	t.Run("a missing directory is fs.ErrNotExist", func(t *testing.T) {
		if err := durable.WriteFile(filepath.Join(dir, "no", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestCreateFileOfManyExactlyOneSucceeds(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "key")
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { errs[i] = durable.CreateFile(name, fmt.Append(nil, i), 0o600) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("both %d and %d succeeded", winner, i)
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("loser %d: %v, want fs.ErrExist", i, err)
		}
	}
	holds(t, name, fmt.Sprint(winner), 0o600)
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("litter: %v", got)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := durable.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"present", "absent"} {
		if err := durable.Remove(name); err != nil {
			t.Errorf("remove what is %s: %v", what, err)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if err := durable.Remove(filepath.Join(dir, "no", "such")); err != nil {
		t.Errorf("remove in a directory that is absent: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(deep, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(deep); err != nil || !fi.IsDir() {
		t.Fatalf("stat: %v, %v", fi, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(filepath.Join(dir, "f"), 0o750); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v, want fs.ErrExist", err)
	}
	if err := durable.MkdirAll(filepath.Join(dir, "f", "g"), 0o750); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v, want ENOTDIR", err)
	}
}

func TestSyncFS(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := durable.SyncFS(dir); err != nil {
		t.Errorf("flush: %v", err)
	}
	dir.Close()
	if err := durable.SyncFS(dir); err == nil {
		t.Error("a flush through a closed file succeeded")
	}
}

func TestIsFull(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Op: "write", Err: syscall.ENOSPC}: true,
		fmt.Errorf("put: %w", syscall.EDQUOT):           true,
		syscall.EIO:                                     false,
		nil:                                             false,
	} {
		if got := durable.IsFull(err); got != want {
			t.Errorf("IsFull(%v) = %v", err, got)
		}
	}
	t.Run("a full device is recognised", func(t *testing.T) {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write([]byte("x")); !durable.IsFull(err) {
			t.Errorf("write to /dev/full: %v", err)
		}
	})
}

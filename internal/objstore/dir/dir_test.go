package dir_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/objstoretest"
)

func open(t *testing.T, root string) *dir.Store {
	t.Helper()
	s, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return open(t, t.TempDir()) })
}

func TestReaderOfADirectoryThatOthersMade(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "nix-cache-info"), "info")
	write(filepath.Join(root, "nar", "x.nar"), "nar")
	write(filepath.Join(root, "not a key"), "")
	write(filepath.Join(root, ".narfold-tmp", "p1", "7"), "half")
	write(filepath.Join(outside, "secret"), "secret")
	for link, to := range map[string]string{"out": outside, "file": filepath.Join(outside, "secret"), "in": "nar"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := dir.OpenReader(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []objstore.Key
	for info, err := range r.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
	}
	if want := []objstore.Key{"nar/x.nar", "nix-cache-info"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	for k, want := range map[objstore.Key]error{
		"out/secret": objstore.ErrDenied, "file": objstore.ErrDenied, "in/x.nar": objstore.ErrDenied, "pipe": objstore.ErrNotFound, "nar": objstore.ErrNotFound,
		"nar/x.nar/below": objstore.ErrNotFound, ".narfold-tmp/p1/7": objstore.ErrKey,
	} {
		if _, err := r.Stat(t.Context(), k); !errors.Is(err, want) {
			t.Errorf("stat %s: %v, want %v", k, err, want)
		}
	}
	if _, ok := any(r).(objstore.Writer); ok {
		t.Error("a Reader can write")
	}
	if _, err := os.Stat(filepath.Join(root, ".narfold-tmp", "p1", "7")); err != nil {
		t.Errorf("a Reader has cleaned up: %v", err)
	}
	for _, k := range []objstore.Key{"out/new", "in/new"} {
		if _, err := open(t, root).Put(t.Context(), k, objstore.Bytes(nil), objstore.IfAbsent); !errors.Is(err, objstore.ErrDenied) {
			t.Errorf("put %s through a link: %v, want ErrDenied", k, err)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside there are now %v, %v", entries, err)
	}
}

func TestPathIsLinkedAndNotCopied(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	for i, w := range []objstore.Writer{s, s.Batch()} {
		path := filepath.Join(root, fmt.Sprintf("spool file %d", i))
		if err := os.WriteFile(path, []byte("body"), 0o600); err != nil {
			t.Fatal(err)
		}
		body := objstore.Body{Size: 4, SHA256: digest.Of([]byte("body")), Path: path, Open: func() (io.ReadCloser, error) {
			t.Error("the body was opened")
			return os.Open(path)
		}}
		k := objstore.Key(fmt.Sprintf("linked/%d", i))
		if _, err := w.Put(t.Context(), k, body, objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
		a, err1 := os.Stat(path)
		b, err2 := os.Stat(filepath.Join(root, string(k)))
		if err1 != nil || err2 != nil || !os.SameFile(a, b) {
			t.Errorf("%s is not the file: %v, %v", k, err1, err2)
		} else if b.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s has mode %v, which a web server of another user cannot read", k, b.Mode())
		}
		if path2 := filepath.Join(root, "spool link"); i == 0 {
			if err := os.Symlink(path, path2); err != nil {
				t.Fatal(err)
			}
			body := objstore.Body{Size: 4, Path: path2, Open: func() (io.ReadCloser, error) { return os.Open(path2) }}
			if _, err := s.Put(t.Context(), "copied", body, objstore.IfAbsent); err != nil {
				t.Errorf("a body whose Path is a link: %v", err)
			}
			if fi, err := os.Lstat(filepath.Join(root, "copied")); err != nil || !fi.Mode().IsRegular() {
				t.Errorf("stored as %v, %v", fi, err)
			}
		}
	}
	t.Run("or copied from another file system", func(t *testing.T) {
		elsewhere, err := os.MkdirTemp("/dev/shm", "narfold")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(elsewhere)
		path := filepath.Join(elsewhere, "body")
		if err := os.WriteFile(path, []byte("body"), 0o600); err != nil {
			t.Fatal(err)
		}
		body := objstore.Body{Size: 4, Path: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
		if _, err := s.Put(t.Context(), "from/elsewhere", body, objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "from/elsewhere")); err != nil || string(b) != "body" {
			t.Errorf("stored %q, %v", b, err)
		}
	})
}

func TestEmptyFoldersGoWithTheirLastObject(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	for _, k := range []objstore.Key{"a/b/c/one", "a/two"} {
		if _, err := s.Put(t.Context(), k, objstore.Bytes(nil), objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "a/b/c/one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a/b: %v, want that it is gone", err)
	}
	if _, err := os.Stat(filepath.Join(root, "a", "two")); err != nil {
		t.Error(err)
	}
}

// Conditions hold between stores on one directory as between processes: they share nothing but files.
func TestTwoStoresOnOneDirectory(t *testing.T) {
	root := t.TempDir()
	stores := []*dir.Store{open(t, root), open(t, root), open(t, root)}
	for round := range 20 {
		k := objstore.Key(fmt.Sprintf("shared/%d", round))
		old, err := stores[0].Put(t.Context(), k, objstore.Bytes([]byte("old")), objstore.IfAbsent)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var won atomic.Int32
		for i := range 9 {
			wg.Go(func() {
				_, err := stores[i%3].Put(t.Context(), k, objstore.Bytes(fmt.Append(nil, i)), objstore.Condition{IfMatch: old.ETag})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, objstore.ErrConflict) {
					t.Errorf("error is %v, want ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d won, want 1", won.Load())
		}
	}
}

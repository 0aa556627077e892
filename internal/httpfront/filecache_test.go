package httpfront

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func content(t *testing.T, f *OpenFile) string {
	t.Helper()
	b := make([]byte, f.Size)
	if _, err := f.File.ReadAt(b, 0); err != nil {
		t.Errorf("read %s: %v", f.path, err)
	}
	return string(b)
}

func open(t *testing.T, c *FileCache, name string) *OpenFile {
	t.Helper()
	f, err := c.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAFileStaysOpenBetweenUses(t *testing.T) {
	c := NewFileCache(2, time.Hour)
	defer c.Close()
	name := write(t, filepath.Join(t.TempDir(), "a"), "one")
	f := open(t, c, name)
	g := open(t, c, name)
	f.Release()
	g.Release()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	again := open(t, c, name)
	if again != f || again != g || content(t, again) != "one" {
		t.Error("the file was opened anew")
	}
	again.Release()
	c.Forget(name)
	if _, err := c.Open(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a forgotten, deleted file opens: %v", err)
	}
	if err := f.File.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a forgotten file was left open: %v", err)
	}
}

func TestAReplacedFileIsNoticedAndTheOldOneFinishes(t *testing.T) {
	c := NewFileCache(2, 0) // check every time
	defer c.Close()
	dir := t.TempDir()
	name := write(t, filepath.Join(dir, "a"), "one")
	old := open(t, c, name)
	if err := os.Rename(write(t, filepath.Join(dir, "b"), "longer"), name); err != nil {
		t.Fatal(err)
	}
	now := open(t, c, name)
	if content(t, now) != "longer" || content(t, old) != "one" {
		t.Errorf("new is %q, old is %q", content(t, now), content(t, old))
	}
	old.Release()
	if err := old.File.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the old file was left open: %v", err)
	}
	now.Release()
	same := open(t, c, name)
	if same != now {
		t.Error("an unchanged file was opened anew")
	}
	same.Release()
}

func TestAtMostSoManyUnusedFilesAreOpen(t *testing.T) {
	c := NewFileCache(3, time.Hour)
	dir := t.TempDir()
	var files []*OpenFile
	for i := range 6 {
		files = append(files, open(t, c, write(t, filepath.Join(dir, fmt.Sprint(i)), "x")))
	}
	for _, f := range files {
		if content(t, f) != "x" {
			t.Error("a file in use is closed")
		}
	}
	for _, f := range files {
		f.Release()
	}
	for i, f := range files {
		_, err := f.File.Stat()
		if closed := errors.Is(err, os.ErrClosed); closed != (i < 3) {
			t.Errorf("file %d: %v", i, err)
		}
	}
	c.Trim(time.Now().Add(-time.Hour))
	if len(c.byPath) != 3 {
		t.Errorf("%d files after trimming older ones", len(c.byPath))
	}
	c.Trim(time.Now().Add(time.Hour))
	if len(c.byPath) != 0 || c.idle != 0 {
		t.Errorf("%d files, %d unused after trimming all", len(c.byPath), c.idle)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	late := open(t, c, filepath.Join(dir, "1"))
	late.Release()
	if _, err := late.File.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed cache keeps files: %v", err)
	}
}

func TestOnlyRegularFilesAreServed(t *testing.T) {
	c := NewFileCache(1, 0)
	defer c.Close()
	dir := t.TempDir()
	if f, err := c.Open(dir); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a directory opens: %v, %v", f, err)
	}
	if f, err := c.Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file opens: %v, %v", f, err)
	}
}

func TestManyUsersOfTheFileCache(t *testing.T) {
	c := NewFileCache(4, time.Microsecond)
	dir := t.TempDir()
	for i := range 8 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint("content ", i))
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 500 {
				i := r.IntN(8)
				name := filepath.Join(dir, fmt.Sprint(i))
				f, err := c.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				if got := content(t, f); got != fmt.Sprint("content ", i) {
					t.Errorf("file %d holds %q", i, got)
				}
				if r.IntN(20) == 0 {
					c.Forget(name)
				}
				f.Release()
			}
		})
	}
	wg.Wait()
	if c.idle > 4 || len(c.byPath) != c.idle {
		t.Errorf("%d unused of %d files", c.idle, len(c.byPath))
	}
	if err := c.Close(); err != nil || c.idle != 0 {
		t.Errorf("%d files after Close, %v", c.idle, err)
	}
}

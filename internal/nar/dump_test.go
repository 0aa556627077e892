package nar

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDumpIsByteIdenticalToNixStore(t *testing.T) {
	root := sample(t)
	for _, path := range []string{"", "empty", "program", "length 0", "length 8", "read only", "dangling", "absolute", "link to dir", "big", "a-b/"} {
		t.Run(path, func(t *testing.T) {
			at := root + "/" + path
			// nix-store --dump does not take a trailing slash.
			differ(t, dumped(t, at), nixDump(t, filepath.Clean(at)), "Dump")
		})
	}
}

func TestDumpToEveryKindOfWriterIsTheSame(t *testing.T) {
	root := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(root, 0o755))
	must(t, os.WriteFile(filepath.Join(root, "a"), noise(directMin+3), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "b"), noise(2*directMin), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "c"), []byte("small"), 0o644))
	want := nixDump(t, root)

	t.Run("file", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "nar"))
		must(t, err)
		defer f.Close()
		must(t, Dump(t.Context(), f, root))
		got, err := os.ReadFile(f.Name())
		must(t, err)
		differ(t, got, want, "Dump")
	})
	t.Run("pipe", func(t *testing.T) {
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		done := make(chan error, 1)
		go func() {
			done <- Dump(t.Context(), w, root)
			w.Close()
		}()
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, <-done)
		differ(t, got, want, "Dump")
	})
	t.Run("hash", func(t *testing.T) {
		h := NewHasher()
		must(t, Dump(t.Context(), h, root))
		if want, err := Verify(bytes.NewReader(want)); err != nil || h.Sum() != want.Hash || h.Size() != want.Size {
			t.Errorf("hash %v of %d bytes, want %+v, %v", h.Sum(), h.Size(), want, err)
		}
	})
}

func TestWhatANarCannotHoldIsRefusedByName(t *testing.T) {
	root := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o644))
	for _, path := range []string{root, filepath.Join(root, "pipe"), "/dev/null"} {
		err := Dump(t.Context(), io.Discard, path)
		if !errors.Is(err, ErrFileType) || !strings.Contains(err.Error(), path) {
			t.Errorf("dump of %s: %v", path, err)
		}
	}
	if err := Dump(t.Context(), io.Discard, filepath.Join(root, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dump of nothing: %v", err)
	}
}

// changing is a writer that does something to the tree when it has received some bytes.
type changing struct {
	after int
	do    func()
}

func (c *changing) Write(p []byte) (int, error) {
	if c.after -= len(p); c.after <= 0 && c.do != nil {
		c.do()
		c.do = nil
	}
	return len(p), nil
}

func TestAFileThatChangesWhileBeingReadIsNamed(t *testing.T) {
	const size = 4 * bufferSize
	for name, do := range map[string]func(path string) error{
		"shrinks": func(path string) error { return os.Truncate(path, size-1) },
		"grows":   func(path string) error { return os.Truncate(path, size+1) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "file")
			must(t, os.WriteFile(path, noise(size), 0o644))
			err := Dump(t.Context(), &changing{after: bufferSize, do: func() { must(t, do(path)) }}, root)
			if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		})
	}
	// Entries whose directory was read before they were replaced.
	for name, do := range map[string]func(path string) error{
		"goes":             func(string) error { return nil },
		"becomes a link":   func(path string) error { return os.Symlink("a", path) },
		"becomes a pipe":   func(path string) error { return unix.Mkfifo(path, 0o644) },
		"becomes a folder": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "z")
			must(t, os.WriteFile(filepath.Join(root, "a"), noise(size), 0o644))
			must(t, os.WriteFile(path, nil, 0o644))
			err := Dump(t.Context(), &changing{after: 1, do: func() { must(t, os.Remove(path)); must(t, do(path)) }}, root)
			if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDumpObeysItsContext(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "file"), noise(4*bufferSize), 0o644))
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Dump(ctx, &changing{after: 1, do: func() { cancel(why) }}, root)
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestTheWritersErrorIsKept(t *testing.T) {
	root := sample(t)
	why := errors.New("no room")
	if err := Dump(t.Context(), failing{why}, root); !errors.Is(err, why) {
		t.Errorf("Dump: %v", err)
	}
}

func TestAPathDeeperThanReadersAcceptIsRefused(t *testing.T) {
	top := t.TempDir()
	t.Chdir(top)
	name := strings.Repeat("d", MaxName)
	for range MaxPath/(MaxName+1) + 2 {
		must(t, os.Mkdir(name, 0o755))
		must(t, os.Chdir(name))
	}
	must(t, os.Chdir(top))
	if err := Dump(t.Context(), io.Discard, name); err != nil {
		t.Errorf("%d bytes below the root: %v", MaxPath, err)
	}
	if err := Dump(t.Context(), io.Discard, "."); !errors.Is(err, ErrTooDeep) {
		t.Errorf("got %v", err)
	}
}

package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// modes describes the tree at root, one line a file.
func modes(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintf(&b, "%q %v", rel, info.Mode())
		if info.Mode().IsRegular() {
			fmt.Fprintf(&b, " %d", info.Size())
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func TestRestoreMakesWhatNixStoreMakes(t *testing.T) {
	root := sample(t)
	for _, path := range []string{"", "empty", "program", "length 0", "dangling", "big"} {
		nar := nixDump(t, filepath.Clean(root+"/"+path))
		for _, umask := range []int{0o022, 0o077, 0o000, 0o027} {
			t.Run(fmt.Sprintf("%s %03o", path, umask), func(t *testing.T) {
				old := unix.Umask(umask)
				defer unix.Umask(old)
				dir := t.TempDir()
				ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
				must(t, Restore(t.Context(), bytes.NewReader(nar), ours))
				must(t, nixRestore(t, nar, theirs))
				if got, want := modes(t, ours), modes(t, theirs); got != want {
					t.Errorf("restored\n%s\nwant\n%s", got, want)
				}
				differ(t, nixDump(t, ours), nar, "nix-store --dump of our Restore")
				differ(t, dumped(t, theirs), nar, "Dump of nix-store's restore")
			})
		}
	}
}

func TestRestoreReadsAnyReader(t *testing.T) {
	root := sample(t)
	nar := dumped(t, root)
	for name, r := range map[string]io.Reader{
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(nar)),
		"half":          iotest.HalfReader(bytes.NewReader(nar)),
		"data with end": iotest.DataErrReader(bytes.NewReader(nar)),
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			must(t, Restore(t.Context(), r, target))
			differ(t, dumped(t, target), nar, "Dump of Restore")
		})
	}
}

func TestTheDeepestTreeGoesBothWays(t *testing.T) {
	const levels = (MaxPath + 1) / 2 // names of one letter, and slashes between them
	nar := []byte(tokMagic + strings.Repeat(tokDirectory+tokEntry+encoded("d")+tokNode, levels) + tokDirectory + tokClose +
		strings.Repeat(tokCloseTwice, levels))
	target := filepath.Join(t.TempDir(), "out")
	must(t, Restore(t.Context(), bytes.NewReader(nar), target))
	differ(t, dumped(t, target), nar, "Dump of Restore")
}

func TestAFailedRestoreLeavesNothing(t *testing.T) {
	nar := dumped(t, sample(t))
	why := errors.New("line cut")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"truncated":     {t.Context(), bytes.NewReader(nar[:len(nar)-1]), ErrTruncated},
		"half":          {t.Context(), bytes.NewReader(nar[:len(nar)/2]), ErrTruncated},
		"trailing":      {t.Context(), bytes.NewReader(append(bytes.Clone(nar), 0)), ErrTrailing},
		"reader's":      {t.Context(), io.MultiReader(bytes.NewReader(nar[:len(nar)/2]), iotest.ErrReader(why)), why},
		"cancelled":     {ended, bytes.NewReader(nar), why},
		"nothing":       {t.Context(), strings.NewReader(""), ErrTruncated},
		"bad file root": {t.Context(), strings.NewReader(tokMagic + tokFile + encoded("x") + tokNode), ErrToken},
		"bad link root": {t.Context(), strings.NewReader(tokMagic + tokSymlink + encoded("x") + tokNode), ErrToken},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := Restore(c.ctx, c.r, filepath.Join(dir, "out")); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if left := modes(t, dir); strings.Count(left, "\n") != 1 {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

func TestCancellationStopsWithinALargeFile(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	dir := t.TempDir()
	// The contents never end.
	r := io.MultiReader(strings.NewReader(tokMagic+tokFile+"\x00\x00\x00\x00\x00\x00\x00\x40"), &endless{after: 10, do: func() { cancel(why) }})
	if err := Restore(ctx, r, filepath.Join(dir, "out")); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if left := modes(t, dir); strings.Count(left, "\n") != 1 {
		t.Errorf("left behind:\n%s", left)
	}
}

type endless struct {
	after int
	do    func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.after--; e.after == 0 {
		e.do()
	}
	return len(p), nil
}

func TestRestoreTouchesNothingThatExists(t *testing.T) {
	nar := dumped(t, sample(t))
	link := []byte(tokMagic + tokSymlink + encoded("x") + tokClose)
	file := []byte(tokMagic + tokFile + encoded("x") + tokClose)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("mine"), 0o644))
	must(t, os.Symlink("absent", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("dir", filepath.Join(dir, "link")))
	before := modes(t, dir)
	for _, name := range []string{"dir", "dir/", "file", "dangling", "link", "."} {
		for _, nar := range [][]byte{nar, link, file} {
			if err := Restore(t.Context(), bytes.NewReader(nar), dir+"/"+name); !errors.Is(err, fs.ErrExist) {
				t.Errorf("restore to %s: %v", name, err)
			}
		}
	}
	if err := Restore(t.Context(), bytes.NewReader(nar), dir+"/absent/out"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restore without a parent: %v", err)
	}
	if err := Restore(t.Context(), bytes.NewReader(nar), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restore to no name: %v", err)
	}
	if after := modes(t, dir); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
}

// appearing puts something in the way of the rest of a nar when the rest is asked for.
type appearing struct {
	first, rest io.Reader
	do          func()
}

func (a *appearing) Read(p []byte) (int, error) {
	n, err := a.first.Read(p)
	if err == io.EOF {
		if a.do != nil {
			a.do()
			a.do = nil
		}
		return a.rest.Read(p)
	}
	return n, err
}

func TestAnEntryThatTheFileSystemHasAlreadyIsACollision(t *testing.T) {
	// What a file system that ignores case does with "A" and "a" is done here by a hand from outside: when the second
	// entry is due, something of its name is there.
	outside := t.TempDir()
	for name, node := range map[string]string{
		"file":      tokFile + encoded("second") + tokClose,
		"link":      tokSymlink + encoded("second") + tokClose,
		"directory": tokDirectory + tokEntry + encoded("x") + tokNode + tokFile + encoded("") + tokCloseTwice + tokClose,
	} {
		for kind, put := range map[string]func(path string) error{
			"file":         func(path string) error { return os.WriteFile(path, []byte("first"), 0o644) },
			"link outside": func(path string) error { return os.Symlink(outside, path) },
			"link to new":  func(path string) error { return os.Symlink(outside+"/new", path) },
		} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				dir := t.TempDir()
				target := filepath.Join(dir, "out")
				r := &appearing{
					first: strings.NewReader(tokMagic + tokDirectory + tokEntry + encoded("A") + tokNode + tokFile + encoded("") + tokCloseTwice),
					rest:  strings.NewReader(tokEntry + encoded("a") + tokNode + node + tokClose + tokClose),
					do:    func() { must(t, put(filepath.Join(target, "a"))) },
				}
				if err := Restore(t.Context(), r, target); !errors.Is(err, ErrCollision) {
					t.Errorf("got %v", err)
				}
				for _, dir := range []string{dir, outside} {
					if left := modes(t, dir); strings.Count(left, "\n") != 1 {
						t.Errorf("left behind:\n%s", left)
					}
				}
			})
		}
	}
}

package nar

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestListFindsEveryFileInTheNar(t *testing.T) {
	root := sample(t)
	nar := dumped(t, root)
	tree, err := List(bytes.NewReader(nar))
	must(t, err)
	count := 0
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(root, path)
		if rel == "." {
			rel = ""
		}
		count++
		n := tree.Find(rel)
		if n == nil {
			t.Fatalf("%q is not listed", rel)
		}
		switch {
		case d.IsDir():
			if n.Type != Directory {
				t.Errorf("%q: %+v", rel, n)
			}
		case d.Type() == fs.ModeSymlink:
			if target, err := os.Readlink(path); err != nil || n.Type != Symlink || n.Target != target {
				t.Errorf("%q: %+v, %v", rel, n, err)
			}
		default:
			want, err := os.ReadFile(path)
			must(t, err)
			got, err := io.ReadAll(n.Section(bytes.NewReader(nar)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("the section of %q differs, %v", rel, err)
			}
			h, r, err := Open(bytes.NewReader(nar), rel)
			must(t, err)
			got, err = io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) || h.Path != rel || h.Size != n.Size || h.Offset != n.Offset || h.Executable != n.Executable {
				t.Errorf("Open(%q) gives another file: %+v, %v", rel, h, err)
			}
		}
		return nil
	}))
	s, err := Verify(bytes.NewReader(nar))
	if err != nil || int64(count) != s.Files+s.Symlinks+s.Directories {
		t.Errorf("%d files, %+v, %v", count, s, err)
	}
	for _, path := range []string{"absent", "a/", "a//b", "/", "a/b/absent", "program/x", "link to dir/c"} {
		if n := tree.Find(path); n != nil {
			t.Errorf("Find(%q) = %+v", path, n)
		}
		if _, _, err := Open(bytes.NewReader(nar), path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v", path, err)
		}
	}
	for _, path := range []string{"", "a", "dangling"} {
		if _, _, err := Open(bytes.NewReader(nar), path); !errors.Is(err, ErrNotFile) {
			t.Errorf("Open(%q): %v", path, err)
		}
	}
}

func TestAListingIsWhatNixPrints(t *testing.T) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Fatal("nix is missing: install the Debian package nix-bin")
	}
	root := sample(t)
	// Neither JSON nor nix can write this name.
	must(t, os.Remove(filepath.Join(root, "not\xffUTF-8\xfe")))
	must(t, os.Remove(filepath.Join(root, "bytes")))
	for _, path := range []string{"", "empty", "program"} {
		nar := dumped(t, filepath.Join(root, path))
		file := filepath.Join(t.TempDir(), "nar")
		must(t, os.WriteFile(file, nar, 0o644))
		cmd := exec.CommandContext(t.Context(), nix, "--extra-experimental-features", "nix-command", "nar", "ls", "--json", "--recursive", file, "/")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("nix nar ls: %v\n%s", err, &errs)
		}
		tree, err := List(bytes.NewReader(nar))
		must(t, err)
		ours, err := json.Marshal(tree)
		must(t, err)
		var got, want any
		must(t, json.Unmarshal(ours, &got))
		must(t, json.Unmarshal(out, &want))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got\n%s\nwant\n%s", path, ours, out)
		}
	}
}

func TestOpenOfARootFile(t *testing.T) {
	nar := tokMagic + tokProgram + encoded("all of it") + tokClose
	h, r, err := Open(strings.NewReader(nar), "")
	must(t, err)
	b, err := io.ReadAll(r)
	if err != nil || string(b) != "all of it" || !h.Executable {
		t.Errorf("%+v %q, %v", h, b, err)
	}
	if _, _, err := Open(strings.NewReader(nar), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a file: %v", err)
	}
	_, r, err = Open(strings.NewReader(nar[:len(nar)-30]), "")
	must(t, err)
	if _, err := io.ReadAll(r); !errors.Is(err, ErrTruncated) {
		t.Errorf("contents cut short: %v", err)
	}
}

func TestOpenKnowsAbsenceWithoutTheRestOfTheNar(t *testing.T) {
	nar := tokMagic + tokDirectory + entry("a", dirOf(entry("x", emptyFile))) + entry("a-b", emptyFile) + entry("c", emptyFile)
	for _, path := range []string{"a/w", "a/y", "a-a", "a-", "b", "a.", "a0/b"} {
		if _, _, err := Open(strings.NewReader(nar), path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v", path, err)
		}
	}
	if _, _, err := Open(strings.NewReader(nar), "d"); !errors.Is(err, ErrTruncated) {
		t.Errorf("what the cut hides: %v", err)
	}
}

func TestListHoldsABoundedNumberOfNodes(t *testing.T) {
	nar := tokMagic + dirOf(entry("a", emptyFile), entry("b", emptyFile))
	tree, err := list(strings.NewReader(nar), 3)
	if err != nil || len(tree.Entries) != 2 {
		t.Errorf("as many as allowed: %v", err)
	}
	// The nar ends badly after the third node, which is not reached.
	if _, err := list(strings.NewReader(nar[:len(nar)-8]), 2); !errors.Is(err, ErrTooMany) || errors.Is(err, ErrInvalid) {
		t.Errorf("one too many: %v", err)
	}
}

func TestTheOrderOfPathsIsThatOfANar(t *testing.T) {
	paths := []string{"", "a", "a/b", "a/b/c", "a/b-c", "a/z", "a-b", "a.b", "aa", "b"}
	got := slices.Clone(paths)
	slices.SortFunc(got, func(a, b string) int {
		switch {
		case after(a, b):
			return 1
		case after(b, a):
			return -1
		}
		return 0
	})
	if !slices.Equal(got, paths) {
		t.Errorf("got %q", got)
	}
}

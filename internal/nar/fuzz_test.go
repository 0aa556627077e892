package nar

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seeds are nars that hold everything, and some that only nearly are nars.
func seeds(f *testing.F) {
	f.Helper()
	link := tokSymlink + encoded("../../etc") + tokClose
	for _, s := range []string{
		"", tokMagic, tokMagic + emptyFile, tokMagic + tokProgram + encoded("x") + tokClose, tokMagic + link, tokMagic + dirOf(),
		tokMagic + dirOf(entry("a", dirOf(entry("b", dirOf()), entry("c", emptyFile))), entry("l", link), entry("z", tokProgram+encoded("run\n")+tokClose)),
		tokMagic + dirOf(entry("a", link), entry("a", dirOf(entry("passwd", emptyFile)))),
		tokMagic + dirOf(entry("..", dirOf(entry("out", emptyFile)))),
		tokMagic + dirOf(entry("/tmp/x", emptyFile)),
		tokMagic + dirOf(entry("a/../../x", emptyFile)),
		tokMagic + dirOf(entry("b", emptyFile), entry("a", emptyFile)),
	} {
		f.Add([]byte(s))
	}
}

// FuzzReader: what is accepted is written again byte for byte, and every reader agrees on what is accepted.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, nar []byte) {
		var out bytes.Buffer
		r := NewReader(bytes.NewReader(nar))
		err := rewrite(&out, r)
		if err == nil && !bytes.Equal(out.Bytes(), nar[:r.Pos()]) {
			t.Fatalf("%q was written again as %q", nar[:r.Pos()], &out)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("error of another kind: %v", err)
		}
		s, verr := Verify(bytes.NewReader(nar))
		if (verr == nil) != (err == nil && r.End() == nil) {
			t.Fatalf("Reader: %v; Verify: %v", err, verr)
		}
		if verr != nil && !errors.Is(verr, ErrInvalid) {
			t.Fatalf("error of another kind: %v", verr)
		}
		tree, lerr := List(bytes.NewReader(nar))
		if (lerr == nil) != (verr == nil) {
			t.Fatalf("List: %v; Verify: %v", lerr, verr)
		}
		if lerr == nil {
			if _, err := tree.MarshalJSON(); err != nil {
				t.Fatalf("list as JSON: %v", err)
			}
		}
		out.Reset()
		src := bufio.NewReaderSize(bytes.NewReader(nar), 16)
		cs, cerr := Copy(&out, src)
		if (cerr == nil) != (err == nil) {
			t.Fatalf("Reader: %v; Copy: %v", err, cerr)
		}
		if cerr != nil {
			return
		}
		if verr == nil && cs != s {
			t.Fatalf("Copy: %+v; Verify: %+v", cs, s)
		}
		rest, _ := io.ReadAll(src)
		if !bytes.Equal(append(out.Bytes(), rest...), nar) {
			t.Fatal("Copy lost or changed bytes")
		}
	})
}

// FuzzRestore: whatever the bytes, nothing beside the target changes, and what a failure made is gone.
func FuzzRestore(f *testing.F) {
	seeds(f)
	top := f.TempDir()
	must(f, os.WriteFile(filepath.Join(top, "outside"), []byte("mine"), 0o644))
	inner := filepath.Join(top, "inner")
	must(f, os.Mkdir(inner, 0o755))
	must(f, os.WriteFile(filepath.Join(inner, "beside"), []byte("mine"), 0o644))
	before := modes(f, top)
	target := filepath.Join(inner, "out")
	f.Fuzz(func(t *testing.T, nar []byte) {
		err := Restore(t.Context(), bytes.NewReader(nar), target)
		if err == nil {
			if !bytes.Equal(dumped(t, target), nar) {
				t.Fatal("the restored tree is another")
			}
			must(t, os.RemoveAll(target))
		} else if !errors.Is(err, ErrInvalid) {
			t.Fatalf("error of another kind: %v", err)
		}
		if after := modes(t, top); after != before {
			t.Fatalf("was\n%s\nis\n%s", before, after)
		}
		if strings.HasPrefix(string(nar), tokMagic) && err == nil {
			if _, err := Verify(bytes.NewReader(nar)); err != nil {
				t.Fatalf("restored, but: %v", err)
			}
		}
	})
}

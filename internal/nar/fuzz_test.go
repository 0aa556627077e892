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

// assemble makes something close to a nar, with whatever names, order and nesting the lines of script ask for: d NAME opens a
// directory and u closes it; f NAME, x NAME and l NAME=TARGET are a file, a program and a link.
func assemble(script []byte) []byte {
	nar, depth := tokMagic+tokDirectory, 1
	for line := range strings.SplitSeq(string(script), "\n") {
		if line == "" {
			continue
		}
		name := strings.TrimPrefix(line[1:], " ")
		begin := tokEntry + encoded(name) + tokNode
		switch line[0] {
		case 'd':
			nar += begin + tokDirectory
			depth++
		case 'u':
			if depth > 1 {
				nar += tokCloseTwice
				depth--
			}
		case 'f':
			nar += begin + tokFile + encoded("written by a nar") + tokCloseTwice
		case 'x':
			nar += begin + tokProgram + encoded("written by a nar") + tokCloseTwice
		case 'l':
			name, target, _ := strings.Cut(name, "=")
			nar += tokEntry + encoded(name) + tokNode + tokSymlink + encoded(target) + tokCloseTwice
		}
	}
	return []byte(nar + strings.Repeat(tokCloseTwice, depth-1) + tokClose)
}

// island is a place to restore to, and files around it that must not change.
type island struct{ top, target, before string }

func newIsland(f *testing.F) island {
	f.Helper()
	top := f.TempDir()
	inner := filepath.Join(top, "inner")
	must(f, os.Mkdir(inner, 0o755))
	must(f, os.WriteFile(filepath.Join(top, "outside"), []byte("mine"), 0o644))
	must(f, os.WriteFile(filepath.Join(inner, "beside"), []byte("mine"), 0o644))
	return island{top, filepath.Join(inner, "out"), modes(f, top)}
}

// restore checks that whatever the bytes, nothing beside the target changes, what a success made is what the nar says, and
// what a failure made is gone.
func (is island) restore(t *testing.T, nar []byte) {
	err := Restore(t.Context(), bytes.NewReader(nar), is.target)
	if err == nil {
		if !bytes.Equal(dumped(t, is.target), nar) {
			t.Fatal("the restored tree is another")
		}
		must(t, os.RemoveAll(is.target))
	} else if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error of another kind: %v", err)
	}
	if after := modes(t, is.top); after != is.before {
		t.Fatalf("was\n%s\nis\n%s", is.before, after)
	}
	if _, verr := Verify(bytes.NewReader(nar)); (verr == nil) != (err == nil) {
		t.Fatalf("Restore: %v; Verify: %v", err, verr)
	}
}

func FuzzRestore(f *testing.F) {
	seeds(f)
	is := newIsland(f)
	f.Fuzz(func(t *testing.T, nar []byte) { is.restore(t, nar) })
}

// FuzzRestoreNames spends its time on names and nesting rather than on the encoding.
func FuzzRestoreNames(f *testing.F) {
	for _, s := range []string{
		"", "f a\nf b", "d a\nf b\nu\nf c", "d a\nd a\nd a\nl z=..", "f ../outside", "d ..\nf outside", "f /tmp/x", "d a/..\nf b",
		"l a=..\nd a\nf outside", "l a=..\nf a/outside", "l a=../beside\nf a", "l a=../beside\nx b", "x beside\nl outside=../../outside",
		"l a=../..\nd b\nl a=../../..\nf a", "f b\nf a", "f .\nf ..", "d .\nf a", "d \nf a", "f a\x00b", "l a=\nf b", "u\nu\nf a",
	} {
		f.Add([]byte(s))
	}
	is := newIsland(f)
	f.Fuzz(func(t *testing.T, script []byte) { is.restore(t, assemble(script)) })
}

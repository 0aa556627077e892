package nar

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestWriterWritesWhatNixStoreDumps(t *testing.T) {
	nar := nixDump(t, sample(t))
	var out bytes.Buffer
	must(t, rewrite(&out, NewReader(bytes.NewReader(nar))))
	differ(t, out.Bytes(), nar, "Writer")
}

// rewrite gives what r reads to a Writer.
func rewrite(out io.Writer, r *Reader) error {
	w := NewWriter(out)
	defer w.Close()
	for {
		h, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

func TestWriterRefusesWhatAReaderWould(t *testing.T) {
	root := func(w *Writer) error { return w.Directory("") }
	for name, c := range map[string]struct {
		steps []func(w *Writer) error
		want  error
	}{
		"nothing":           {nil, ErrSequence},
		"no root":           {[]func(*Writer) error{func(w *Writer) error { return w.Directory("a") }}, ErrSequence},
		"second root":       {[]func(*Writer) error{root, root}, ErrName},
		"second file root":  {[]func(*Writer) error{func(w *Writer) error { return w.File("", 0, false) }, root}, ErrSequence},
		"absolute":          {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("/a") }}, ErrName},
		"dot dot":           {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("..") }}, ErrName},
		"empty name":        {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("a") }, func(w *Writer) error { return w.Directory("a/") }}, ErrName},
		"NUL":               {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("a\x00") }}, ErrName},
		"long name":         {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory(strings.Repeat("n", MaxName+1)) }}, ErrLength},
		"long target":       {[]func(*Writer) error{root, func(w *Writer) error { return w.Symlink("l", strings.Repeat("n", MaxTarget+1)) }}, ErrLength},
		"empty target":      {[]func(*Writer) error{root, func(w *Writer) error { return w.Symlink("l", "") }}, ErrTarget},
		"negative size":     {[]func(*Writer) error{root, func(w *Writer) error { return w.File("f", -1, false) }}, ErrLength},
		"endless size":      {[]func(*Writer) error{root, func(w *Writer) error { return w.File("f", math.MaxInt64, false) }}, ErrLength},
		"no type":           {[]func(*Writer) error{root, func(w *Writer) error { return w.WriteHeader(Header{Path: "f"}) }}, ErrToken},
		"no directory":      {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("a/b") }}, ErrSequence},
		"in a file":         {[]func(*Writer) error{root, func(w *Writer) error { return w.File("a", 0, false) }, func(w *Writer) error { return w.Directory("a/b") }}, ErrSequence},
		"closed directory":  {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("a") }, func(w *Writer) error { return w.Directory("b") }, func(w *Writer) error { return w.Directory("a/b") }}, ErrSequence},
		"duplicate":         {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("a") }, func(w *Writer) error { return w.File("a", 0, false) }}, ErrDuplicate},
		"unsorted":          {[]func(*Writer) error{root, func(w *Writer) error { return w.Directory("b") }, func(w *Writer) error { return w.Symlink("a", "b") }}, ErrUnsorted},
		"file too short":    {[]func(*Writer) error{root, func(w *Writer) error { return w.File("b", 1, false) }, func(w *Writer) error { return w.Directory("c") }}, ErrSequence},
		"last file short":   {[]func(*Writer) error{func(w *Writer) error { return w.File("", 1, false) }}, ErrSequence},
		"file too long":     {[]func(*Writer) error{func(w *Writer) error { return w.File("", 1, false) }, func(w *Writer) error { _, err := w.Write([]byte("ab")); return err }}, ErrSequence},
		"contents nowhere":  {[]func(*Writer) error{root, func(w *Writer) error { _, err := w.Write([]byte("a")); return err }}, ErrSequence},
		"write after close": {[]func(*Writer) error{root, (*Writer).Close, func(w *Writer) error { return w.Directory("a") }}, errClosed},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(io.Discard)
			for i, step := range c.steps {
				err := step(w)
				if i < len(c.steps)-1 && err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			if err := w.Close(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("a closed Writer takes contents")
			}
		})
	}
}

func TestWriterKeepsTheWritersError(t *testing.T) {
	why := errors.New("no room")
	w := NewWriter(failing{why})
	must(t, w.Directory(""))
	if err := w.Close(); !errors.Is(err, why) {
		t.Errorf("Close: %v", err)
	}
	if err := w.Directory("a"); !errors.Is(err, why) {
		t.Errorf("Directory after it: %v", err)
	}
}

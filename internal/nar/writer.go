package nar

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrSequence says that a Writer was given an entry whose directory is not open, contents that are not of the announced
// size, or was closed before there was a root.
var ErrSequence = errors.New("out of sequence")

// Writer writes a nar from its nodes, given in the order of the nar: a directory before its entries, and these sorted by the
// bytes of their names. Directories close by themselves when a node outside them follows.
//
// It refuses what a Reader would, with the same *Error; so what it has written without an error, Close included, is a nar. It
// gathers small writes. The first error stays. A Writer is for one goroutine.
type Writer struct {
	enc   *encoder
	trail trail
	begun bool
	file  bool  // a file is open
	size  int64 // of that file
	left  int64 // bytes of its contents still due
	err   error
}

// NewWriter returns a Writer to w. Close it, also after an error.
func NewWriter(w io.Writer) *Writer { return &Writer{enc: newEncoder(w, nil)} }

// Directory begins the directory path.
func (w *Writer) Directory(path string) error {
	return w.WriteHeader(Header{Path: path, Type: Directory})
}

// File begins the regular file path, whose contents of size bytes are then to be written with Write.
func (w *Writer) File(path string, size int64, executable bool) error {
	return w.WriteHeader(Header{Path: path, Type: Regular, Size: size, Executable: executable})
}

// Symlink writes the symbolic link path.
func (w *Writer) Symlink(path, target string) error {
	return w.WriteHeader(Header{Path: path, Type: Symlink, Target: target})
}

// WriteHeader begins the node h, as Reader.Next described it.
func (w *Writer) WriteHeader(h Header) error {
	if w.err != nil {
		return w.err
	}
	w.err = w.begin(h)
	return w.err
}

func (w *Writer) begin(h Header) error {
	switch {
	case h.Type == Regular && h.Size < 0:
		return w.refuse(h.Path, ErrLength, fmt.Sprintf("file of %d bytes", h.Size))
	case h.Type == Symlink:
		if detail, reason := checkTarget([]byte(h.Target)); reason != nil {
			return w.refuse(h.Path, reason, detail)
		}
	}
	if err := w.closeFile(); err != nil {
		return err
	}
	if err := w.moveTo(h.Path); err != nil {
		return err
	}
	switch h.Type {
	case Directory:
		w.trail.open()
		return w.enc.tokens(tokDirectory)
	case Symlink:
		if err := w.enc.tokens(tokSymlink); err != nil {
			return err
		}
		if err := w.enc.text(h.Target); err != nil {
			return err
		}
		return w.closeNode()
	case Regular:
		open := tokFile
		if h.Executable {
			open = tokProgram
		}
		if err := w.enc.tokens(open); err != nil {
			return err
		}
		if h.Size > maxSize(w.Size()+8) {
			return w.refuse(h.Path, ErrLength, fmt.Sprintf("file of %d bytes", h.Size))
		}
		w.file, w.size, w.left = true, h.Size, h.Size
		return w.enc.length(h.Size)
	}
	return w.refuse(h.Path, ErrToken, h.Type.String())
}

// moveTo closes the directories that do not hold path, and begins its entry.
func (w *Writer) moveTo(path string) error {
	t := &w.trail
	if !w.begun {
		if path != "" {
			return w.refuse(path, ErrSequence, "the first node is the root")
		}
		w.begun = true
		return w.enc.tokens(tokMagic)
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
		if dir == "" {
			return w.refuse(path, ErrName, "empty")
		}
	}
	for len(t.dirs) > 0 && string(t.path[:t.dirs[len(t.dirs)-1]]) != dir {
		if err := w.closeDirectory(); err != nil {
			return err
		}
	}
	if len(t.dirs) == 0 {
		return w.refuse(path, ErrSequence, "its directory is not open")
	}
	if detail, reason := t.enter([]byte(name)); reason != nil {
		return w.refuse(path, reason, detail)
	}
	if err := w.enc.tokens(tokEntry); err != nil {
		return err
	}
	if err := w.enc.text(name); err != nil {
		return err
	}
	return w.enc.tokens(tokNode)
}

func (w *Writer) refuse(path string, reason error, detail string) error {
	return &Error{Reason: reason, Offset: w.enc.done + int64(w.enc.n), Path: path, Detail: detail}
}

// Write writes contents of the file that was begun last. More than its size is ErrSequence, and nothing of it is written.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		w.err = w.refuse(string(w.trail.path), ErrSequence, fmt.Sprintf("%d bytes beyond the end of the file", int64(len(p))-w.left))
		return 0, w.err
	}
	if w.err = w.enc.write(p); w.err != nil {
		return 0, w.err
	}
	w.left -= int64(len(p))
	return len(p), nil
}

func (w *Writer) closeFile() error {
	if !w.file {
		return nil
	}
	if w.left > 0 {
		return w.refuse(string(w.trail.path), ErrSequence, fmt.Sprintf("%d bytes of the file are missing", w.left))
	}
	w.file = false
	if err := w.enc.pad(w.size); err != nil {
		return err
	}
	return w.closeNode()
}

// closeNode ends the latest node and the entry that holds it.
func (w *Writer) closeNode() error {
	if len(w.trail.dirs) == 0 {
		return w.enc.tokens(tokClose)
	}
	return w.enc.tokens(tokCloseTwice)
}

func (w *Writer) closeDirectory() error {
	w.trail.close()
	return w.closeNode()
}

// Close ends the nar and gives everything to the underlying writer, which it does not close. It returns the Writer's first
// error. A second Close does nothing and returns the same.
func (w *Writer) Close() error {
	if w.enc.buf == nil {
		return w.err
	}
	if w.err == nil {
		w.err = w.finish()
	}
	w.enc.release()
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

var errClosed = errors.New("write to a closed nar.Writer")

func (w *Writer) finish() error {
	if !w.begun {
		return w.refuse("", ErrSequence, "closed without a root")
	}
	if err := w.closeFile(); err != nil {
		return err
	}
	for len(w.trail.dirs) > 0 {
		if err := w.closeDirectory(); err != nil {
			return err
		}
	}
	return w.enc.flush()
}

// Size returns how many bytes of the nar have been given to the Writer or gathered by it; after Close, the size of the nar.
func (w *Writer) Size() int64 { return w.enc.done + int64(w.enc.n) }

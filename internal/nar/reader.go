package nar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Reader goes through a nar node by node, in the order of the nar: a directory before its entries, and these sorted.
//
// It accepts only what a Writer given the same nodes would write, and takes from its stream no byte beyond the end of the
// nar. Its memory is a buffer and a path. The first error stays. A Reader is for one goroutine.
type Reader struct {
	source
	trail
	begun  bool
	inFile bool  // contents, padding and closing tokens of a file are still to be taken
	size   int64 // of that file
	left   int64 // bytes of its contents not yet taken
	err    error
}

// NewReader returns a Reader of the nar that begins at r. If r is a *bufio.Reader then it is read directly, and stands just
// after the nar when Next has returned io.EOF, as is needed where a nar has no other mark of its end. Any other r is read ahead.
func NewReader(r io.Reader) *Reader {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 64<<10)
	}
	return &Reader{source: source{br: br}}
}

// Next skips what is left of the current file and describes the next node. After the root has closed it returns io.EOF.
// Any other error is an *Error if the bytes are not a nar, or wraps the stream's own.
func (r *Reader) Next() (Header, error) {
	h, err := r.next()
	if err == nil {
		h.Path = string(r.path)
	}
	return h, err
}

// next is Next without the path, which costs an allocation.
func (r *Reader) next() (Header, error) {
	if r.err != nil {
		return Header{}, r.err
	}
	h, err := r.advance()
	if err != nil {
		return Header{}, r.stop(err)
	}
	return h, nil
}

// stop keeps the first error, and adds the path to it.
func (r *Reader) stop(err error) error {
	if e, ok := err.(*Error); ok && e.Path == "" {
		e.Path = string(r.path[:min(len(r.path), MaxPath)])
	}
	r.err = err
	return err
}

func (r *Reader) advance() (Header, error) {
	if !r.begun {
		r.begun = true
		if err := r.expect(tokMagic); err != nil {
			return Header{}, err
		}
		return r.node()
	}
	if r.inFile {
		if err := r.closeFile(); err != nil {
			return Header{}, err
		}
	}
	for len(r.dirs) > 0 {
		at := r.off
		word, err := r.token()
		if err != nil {
			return Header{}, err
		}
		switch string(word) {
		case "entry":
			return r.entry()
		case ")":
			r.trail.close()
			if err := r.closeEntry(); err != nil {
				return Header{}, err
			}
		default:
			return Header{}, r.invalid(at, ErrToken, fmt.Sprintf("%q in a directory", word))
		}
	}
	return Header{}, io.EOF
}

// closeEntry takes the end of the entry that held the latest node, if an entry did.
func (r *Reader) closeEntry() error {
	if len(r.dirs) == 0 {
		return nil
	}
	return r.expect(tokClose)
}

func (r *Reader) entry() (Header, error) {
	if err := r.expect(tokName); err != nil {
		return Header{}, err
	}
	at := r.off
	name, err := r.text("name", MaxName)
	if err != nil {
		return Header{}, err
	}
	if detail, reason := r.enter(name); reason != nil {
		return Header{}, r.invalid(at, reason, detail)
	}
	if err := r.expect(tokNode); err != nil {
		return Header{}, err
	}
	return r.node()
}

func (r *Reader) node() (Header, error) {
	if err := r.expect(tokType); err != nil {
		return Header{}, err
	}
	at := r.off
	word, err := r.token()
	if err != nil {
		return Header{}, err
	}
	switch string(word) {
	case "regular":
		return r.regular()
	case "symlink":
		return r.symlink()
	case "directory":
		r.trail.open()
		return Header{Type: Directory}, nil
	}
	return Header{}, r.invalid(at, ErrToken, fmt.Sprintf("type %q", word))
}

func (r *Reader) regular() (Header, error) {
	h := Header{Type: Regular}
	at := r.off
	word, err := r.token()
	if err != nil {
		return Header{}, err
	}
	switch string(word) {
	case "contents":
	case "executable":
		h.Executable = true
		if err := r.expect(tokExecutable); err != nil {
			return Header{}, err
		}
	default:
		return Header{}, r.invalid(at, ErrToken, fmt.Sprintf("%q in a regular file", word))
	}
	if h.Size, err = r.source.size(); err != nil {
		return Header{}, err
	}
	h.Offset = r.off
	r.inFile, r.size, r.left = true, h.Size, h.Size
	return h, nil
}

func (r *Reader) symlink() (Header, error) {
	if err := r.expect(tokTarget); err != nil {
		return Header{}, err
	}
	at := r.off
	target, err := r.text("target", MaxTarget)
	if err != nil {
		return Header{}, err
	}
	if detail, reason := checkTarget(target); reason != nil {
		return Header{}, r.invalid(at, reason, detail)
	}
	h := Header{Type: Symlink, Target: string(target)}
	if err := r.expect(tokClose); err != nil {
		return Header{}, err
	}
	return h, r.closeEntry()
}

// closeFile takes what is left of a file and of the entry that held it.
func (r *Reader) closeFile() error {
	if r.tee != nil {
		if _, err := r.WriteTo(r.tee); err != nil {
			return err
		}
	}
	for r.left > 0 {
		n, err := r.br.Discard(int(min(r.left, 1<<30)))
		r.left -= int64(n)
		r.off += int64(n)
		if err != nil {
			return r.broken(endOf(err))
		}
	}
	if err := r.pad(r.size); err != nil {
		return err
	}
	r.inFile = false
	if len(r.dirs) == 0 {
		return r.expect(tokClose)
	}
	return r.expect(tokCloseTwice)
}

// Read reads the contents of the file that Next described, and returns io.EOF after them, or at once if it was no file.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.br.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	r.off += int64(n)
	if err != nil && r.left > 0 {
		return n, r.stop(r.broken(endOf(err)))
	}
	return n, nil
}

// WriteTo writes what is left of the current file's contents to w, straight from the buffer. An error of w is returned as it
// is, and what w did not take can still be read.
func (r *Reader) WriteTo(w io.Writer) (total int64, err error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	for r.left > 0 {
		if r.br.Buffered() == 0 {
			if _, err := r.br.Peek(1); err != nil {
				return total, r.stop(r.broken(endOf(err)))
			}
		}
		b, _ := r.br.Peek(int(min(r.left, int64(r.br.Buffered()))))
		n, err := w.Write(b)
		if n < 0 || n > len(b) {
			return total, errors.New("write contents: the writer claims to have written another number of bytes than it was given")
		}
		_, _ = r.br.Discard(n)
		total += int64(n)
		r.left -= int64(n)
		r.off += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// End returns nil if the stream ends where the nar did, and an *Error with ErrTrailing if it does not. It is for streams that
// hold a nar and nothing else, and is called after Next has returned io.EOF.
func (r *Reader) End() error {
	if r.err != io.EOF {
		return fmt.Errorf("nar: end of stream asked for at byte %d, within the nar", r.off)
	}
	switch _, err := r.br.Peek(1); err {
	case nil:
		return r.invalid(r.off, ErrTrailing, "")
	case io.EOF:
		return nil
	default:
		return r.broken(err)
	}
}

// Pos returns how many bytes of the nar have been taken. After Next has returned io.EOF that is the size of the nar.
func (r *Reader) Pos() int64 { return r.off }

// endOf replaces the end of the stream, which is not due.
func endOf(err error) error {
	if err == io.EOF {
		return errEnd
	}
	return err
}

package nar

import (
	"encoding/binary"
	"hash"
	"io"
	"sync"
)

// bufferSize is what is read and written at once: large enough that system calls cost little beside copying, small enough
// to stay in a core's second-level cache between the reading and the hashing or writing of the same bytes.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// encoder gathers strings of the format in a large buffer on their way to a writer.
type encoder struct {
	w    io.Writer
	hash hash.Hash // if not nil, receives what w does
	buf  *[bufferSize]byte
	n    int   // bytes in buf
	done int64 // bytes given to w
}

// writeError marks an error of the writer, so that it is not taken for one of a reader beside it.
type writeError struct{ cause error }

func (e *writeError) Error() string { return "write nar: " + e.cause.Error() }
func (e *writeError) Unwrap() error { return e.cause }

func newEncoder(w io.Writer, h hash.Hash) *encoder {
	return &encoder{w: w, hash: h, buf: buffers.Get().(*[bufferSize]byte)}
}

// release gives the buffer back, with what is in it.
func (e *encoder) release() {
	if e.buf != nil {
		buffers.Put(e.buf)
		e.buf = nil
	}
}

// flush gives the buffer's bytes to the writer.
func (e *encoder) flush() error {
	n := e.n
	e.n = 0
	return e.through(e.buf[:n])
}

// through gives p to the writer; the buffer is empty.
func (e *encoder) through(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if e.hash != nil {
		e.hash.Write(p)
	}
	n, err := e.w.Write(p)
	e.done += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// room makes sure that n more bytes fit into the buffer, n being less than its size.
func (e *encoder) room(n int) error {
	if bufferSize-e.n >= n {
		return nil
	}
	return e.flush()
}

// Write is write, for those who want an io.Writer.
func (e *encoder) Write(p []byte) (int, error) {
	if err := e.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// write appends p.
func (e *encoder) write(p []byte) error {
	if len(p) > bufferSize-e.n {
		if err := e.flush(); err != nil {
			return err
		}
		if len(p) >= bufferSize {
			return e.through(p)
		}
	}
	e.n += copy(e.buf[e.n:], p)
	return nil
}

// tokens appends encoded tokens.
func (e *encoder) tokens(s string) error {
	if err := e.room(len(s)); err != nil {
		return err
	}
	e.n += copy(e.buf[e.n:], s)
	return nil
}

// length appends the length of a string.
func (e *encoder) length(n int64) error {
	if err := e.room(8); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(e.buf[e.n:], uint64(n))
	e.n += 8
	return nil
}

// pad appends the zero bytes after n bytes of contents.
func (e *encoder) pad(n int64) error { return e.write(zeros[:padding(n)]) }

// text appends a whole string of at most MaxTarget bytes.
func (e *encoder) text(s string) error {
	if err := e.room(8 + len(s) + 7); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(e.buf[e.n:], uint64(len(s)))
	e.n += 8
	e.n += copy(e.buf[e.n:], s)
	e.n += copy(e.buf[e.n:], zeros[:padding(int64(len(s)))])
	return nil
}

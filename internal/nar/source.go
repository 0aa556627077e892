package nar

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// source takes the strings of the format off a stream, and never a byte more than the grammar requires next.
type source struct {
	br      *bufio.Reader
	off     int64    // bytes taken
	tee     *encoder // if not nil, receives every byte taken
	scratch []byte
}

// take returns the next n bytes, which are valid until the next call. If the stream ends before, it returns what there was
// and io.ErrUnexpectedEOF; any other error is the stream's own.
func (s *source) take(n int) ([]byte, error) {
	var b []byte
	if s.br.Buffered() >= n {
		b, _ = s.br.Peek(n)
		_, _ = s.br.Discard(n)
	} else {
		if len(s.scratch) < n {
			s.scratch = make([]byte, max(n, 512))
		}
		got, err := readFull(s.br, s.scratch[:n])
		if err != nil {
			return s.scratch[:got], err
		}
		b = s.scratch[:n]
	}
	s.off += int64(n)
	if s.tee != nil {
		if err := s.tee.write(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// errEnd is the stream's end where it may not be. It is told apart from an io.ErrUnexpectedEOF that the stream itself returned,
// for which not the nar but what carried it is to blame.
var errEnd = fmt.Errorf("end of stream: %w", io.ErrUnexpectedEOF)

func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	switch {
	case n == len(p):
		return n, nil
	case err == io.EOF:
		return n, errEnd
	}
	return n, err
}

// invalid makes the error that tells of the string which began at off.
func (s *source) invalid(off int64, reason error, detail string) error {
	return &Error{Reason: reason, Offset: off, Detail: detail}
}

// broken turns an error of take into what callers see.
func (s *source) broken(err error) error {
	if err == errEnd {
		return s.invalid(s.off, ErrTruncated, "")
	}
	if _, ok := err.(*writeError); ok {
		return err
	}
	return fmt.Errorf("read nar at byte %d: %w", s.off, err)
}

// expect takes the encoded tokens want, and nothing else.
func (s *source) expect(want string) error {
	at := s.off
	got, err := s.take(len(want))
	if string(got) == want {
		return nil
	}
	if err != nil && want[:len(got)] == string(got) {
		return s.broken(err)
	}
	if err != nil && err != errEnd {
		return s.broken(err)
	}
	return s.differs(at, got, want)
}

// differs tells why got, which was taken at the offset at, is not want.
func (s *source) differs(at int64, got []byte, want string) error {
	if want == tokMagic {
		return s.invalid(at, ErrMagic, "")
	}
	for len(want) > 0 {
		n := int64(binary.LittleEndian.Uint64([]byte(want)))
		token, whole := want[8:8+n], 8+int(n)+padding(n)
		if len(got) < 8 {
			break
		}
		if m := binary.LittleEndian.Uint64(got); m > maxToken {
			return s.invalid(at, ErrLength, fmt.Sprintf("token of %d bytes", m))
		} else if m != uint64(n) {
			return s.invalid(at, ErrToken, fmt.Sprintf("%d bytes long where %q is due", m, token))
		}
		if len(got) < whole {
			break
		}
		if string(got[8:8+n]) != token {
			return s.invalid(at, ErrToken, fmt.Sprintf("%q where %q is due", got[8:8+n], token))
		}
		if string(got[8+n:whole]) != want[8+n:whole] {
			return s.invalid(at, ErrPadding, "")
		}
		got, want, at = got[whole:], want[whole:], at+int64(whole)
	}
	return s.invalid(at, ErrTruncated, "")
}

// length takes the length of a string.
func (s *source) length() (uint64, error) {
	b, err := s.take(8)
	if err != nil {
		return 0, s.broken(err)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// text takes a string of at most limit bytes; it is valid until the next call.
func (s *source) text(what string, limit int) ([]byte, error) {
	at := s.off
	n, err := s.length()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, s.invalid(at, ErrLength, fmt.Sprintf("%s of %d bytes", what, n))
	}
	b, err := s.take(int(n) + padding(int64(n)))
	if err != nil {
		return nil, s.broken(err)
	}
	if !bytes.Equal(b[n:], zeros[:len(b)-int(n)]) {
		return nil, s.invalid(at, ErrPadding, "")
	}
	return b[:n], nil
}

// token takes a word of the grammar.
func (s *source) token() ([]byte, error) { return s.text("token", maxToken) }

// maxSize returns how large a file may be whose contents begin at off, so that every offset in the nar is an int64; the
// padding and closing tokens that must follow are 39 bytes.
func maxSize(off int64) int64 { return math.MaxInt64 - 64 - off }

// size takes the length of a file's contents.
func (s *source) size() (int64, error) {
	at := s.off
	n, err := s.length()
	if err != nil {
		return 0, err
	}
	if n > uint64(maxSize(s.off)) {
		return 0, s.invalid(at, ErrLength, fmt.Sprintf("file of %d bytes", n))
	}
	return int64(n), nil
}

// pad takes the zero bytes after n bytes of contents.
func (s *source) pad(n int64) error {
	at := s.off
	b, err := s.take(padding(n))
	if err != nil {
		return s.broken(err)
	}
	if !bytes.Equal(b, zeros[:len(b)]) {
		return s.invalid(at, ErrPadding, "")
	}
	return nil
}

package httpfront

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

const (
	inSize  = 32 << 10 // the longest header that the fast loop reads, and the most it reads at once
	outSize = 64 << 10 // answers gathered into one write
	copyMax = 16 << 10 // bodies up to this size are copied into the batch, larger ones follow it
)

var (
	inPool  = sync.Pool{New: func() any { return new([inSize]byte) }}
	outPool = sync.Pool{New: func() any { return new([outSize]byte) }}
)

// input is what was read and not yet parsed: buf[r:w]. The buffer is held only while there is something in it.
type input struct {
	buf  *[inSize]byte
	r, w int
}

func (in *input) unread() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf[in.r:in.w]
}

// room makes space behind w if it can and returns it; none is left if a header fills the buffer.
func (in *input) room() []byte {
	if in.buf == nil {
		in.buf = inPool.Get().(*[inSize]byte)
		in.r, in.w = 0, 0
	}
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
	if in.r > 0 && in.w > inSize/2 {
		in.w = copy(in.buf[:], in.buf[in.r:in.w])
		in.r = 0
	}
	return in.buf[in.w:]
}

// rest gives the buffer back if nothing is in it.
func (in *input) rest() {
	if in.buf != nil && in.r == in.w {
		inPool.Put(in.buf)
		in.buf = nil
	}
}

// sock moves bytes between a connection and the kernel. Sends block until everything was taken or the connection is closed,
// and keep c.sent up to date; while they wait they mark c as writing.
type sock interface {
	// read waits for input and adds it to in.
	read(in *input) error
	// send sends p; more says that something follows at once, so that the kernel may fill a segment with it.
	send(p []byte, more bool) error
	// sendFile sends n bytes of f from off.
	sendFile(f *os.File, off, n int64) error
}

// portable is a sock for every net.Conn.
type portable struct {
	c  *conn
	nc net.Conn
}

func (s *portable) read(in *input) error {
	n, err := s.nc.Read(in.room())
	in.w += n
	if n > 0 {
		return nil
	}
	in.rest()
	return err
}

func (s *portable) send(p []byte, _ bool) error {
	s.c.setPhase(phaseWrite)
	defer s.c.setPhase(phaseBusy)
	for len(p) > 0 {
		n, err := s.nc.Write(p[:min(len(p), copyMax)])
		s.c.sent.Add(int64(n))
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (s *portable) sendFile(f *os.File, off, n int64) error {
	buf := outPool.Get().(*[outSize]byte)
	defer outPool.Put(buf)
	for n > 0 {
		got, err := f.ReadAt(buf[:min(n, outSize)], off)
		if got == 0 {
			return short(f, off, err)
		}
		if err := s.send(buf[:got], false); err != nil {
			return err
		}
		off += int64(got)
		n -= int64(got)
	}
	return nil
}

func short(f *os.File, off int64, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s at %d: %w", f.Name(), off, err)
}

package compress

import (
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Level is how much work to spend on size. What it means depends on the method:
//
//	          Fastest                     Default                     Best
//	zstd      like zstd -1, window 4 MiB  like -3, window 8 MiB       like -11, window 8 MiB
//	gzip      -1                          -6                          -9
//	lzip, xz  dictionary 1 MiB,           8 MiB,                      32 MiB,
//	          pieces of 4 MiB             pieces of 16 MiB            pieces of 64 MiB
//	program   lzip/xz -0                  -6                          -9
//
// The library that writes lzip and xz does not search deeper at a higher level; it only looks further back.
type Level int

// The levels.
const (
	Default Level = iota
	Fastest
	Best
)

// Options say how to compress. The zero value is what NewWriter uses. The bytes written depend on the input, Level, Frames,
// Programs (and the version of the program) and the version of this program; they do not depend on Workers or on how the input is
// divided into Writes.
type Options struct {
	Level Level

	// Workers is how many pieces are compressed at once; 0 means GOMAXPROCS. A worker of lzip or xz takes about 20 MiB at
	// Fastest, 110 MiB at Default and 330 MiB at Best, its piece and result included.
	Workers int

	// Frames lets zstd write one frame for each 16 MiB, compressed in parallel and with its size in its header, in place of one
	// frame for all. Every Guix and Nix client reads both. Frames came out 0.3 % (Fastest) to 0.9 % (Default) larger.
	Frames bool

	// Programs lets the lzip and xz programs compress, which must be in PATH; NewWriter fails with exec.ErrNotFound if they
	// are not. At Fastest they take a fraction of the processor time; at Default they take several times as much as the library
	// and write files that are a quarter smaller. Other methods ignore this.
	Programs bool
}

// NewWriter compresses to w at level with default Options.
func NewWriter(m Method, w io.Writer, level Level) (io.WriteCloser, error) {
	return Options{Level: level}.NewWriter(m, w)
}

// NewWriter returns a writer that compresses to w by m, which must be one that Narfold writes. What it writes suits every client,
// as Reader.Servable tells.
//
// Output may lag behind input by some pieces; Close writes the rest and the end, waits for all goroutines, and does not close w. A
// writer must be closed also if it is given up. An error of w is returned, wrapped, by this or a later Write or by Close; after it
// nothing more is written to w.
//
// zstd is one frame with a checksum and a window of at most 8 MiB. gzip is one member with no name and no time. lzip is a member,
// and xz a stream, for each piece of the input, compressed in parallel; each has its check (CRC32, CRC64).
func (o Options) NewWriter(m Method, w io.Writer) (io.WriteCloser, error) {
	if o.Level < Default || o.Level > Best {
		return nil, fmt.Errorf("write %s: level %d is not known", m, o.Level)
	}
	if o.Workers < 0 {
		return nil, fmt.Errorf("write %s: %d workers", m, o.Workers)
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	out := &sink{w: w}
	var enc io.WriteCloser
	var err error
	switch m {
	case None:
		enc = plain{out}
	case Zstd:
		if o.Frames {
			enc = newPieces(out, zstdFrame, o.Workers, o.Level.zstdFrameEncoder())
		} else {
			enc, err = newZstdWriter(out, o)
		}
	case Gzip:
		enc = newGzipWriter(out, o.Level)
	case Lzip, Xz:
		var encode encodeFunc
		encode, err = o.lzmaEncoder(m)
		enc = newPieces(out, o.Level.lzmaPiece(), o.Workers, encode)
	default:
		return nil, fmt.Errorf("write %s: Narfold does not write this compression", m)
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", m, err)
	}
	return &writer{method: m, out: out, enc: enc}, nil
}

// writer gives every encoder the same manners: a sticky error, and one Close.
type writer struct {
	method Method
	out    *sink
	enc    io.WriteCloser
	err    error
	closed bool
}

func (w *writer) Write(p []byte) (int, error) {
	if w.closed {
		return 0, ErrClosed
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.enc.Write(p)
	if err != nil {
		w.err = w.explain(err)
	}
	return n, w.err
}

func (w *writer) Close() error {
	if w.closed {
		return w.err
	}
	w.closed = true
	if err := w.enc.Close(); err != nil && w.err == nil {
		w.err = w.explain(err)
	}
	return w.err
}

func (w *writer) explain(err error) error {
	if cause := w.out.failure(); cause != nil {
		err = cause
	}
	return fmt.Errorf("write %s: %w", w.method, err)
}

// sink is where an encoder writes to, from one goroutine or another. It remembers the first error, and writes nothing after it.
type sink struct {
	w   io.Writer
	mu  sync.Mutex
	err error // guarded by mu
}

func (s *sink) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.err = err
	return n, err
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

package compress

import (
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// Errors on which callers decide. A Reader wraps them with the method and the cause.
var (
	// ErrCorrupt says that the input is not what its format demands: a wrong check or size, an impossible code, or bytes
	// after the end.
	ErrCorrupt = errors.New("compressed data is corrupt")
	// ErrTruncated says that the input ended before the format says that it does. An empty input is truncated in every
	// format but none. An input of several frames, members or streams that was cut between two of them cannot be told from
	// a whole one; compare sizes or hashes of what was read.
	ErrTruncated = errors.New("compressed data is truncated")
	// ErrWindow says that reading needs a larger window than MaxWindow.
	ErrWindow = errors.New("compressed data needs too large a window")
	// ErrUnsuited says that not every client can read the compressed bytes as they are.
	ErrUnsuited = errors.New("compressed data does not suit every client")
	// ErrClosed is returned by a Reader or writer that is used after Close.
	ErrClosed = errors.New("compress: use after Close")
)

// MaxWindow is how far back, in bytes, data may refer: the dictionary of lzip and xz, the window of zstd. Nix reads zstd up to
// this size; lzip -9 needs 32 MiB and xz -9 needs 64 MiB. lzip, zstd and xz allocate what a header asks for, up to this bound
// (lzip less for a small item that arrives whole); memory new to the process stays virtual until data fills it. The other methods
// stay below 20 MiB.
const MaxWindow = 128 << 20

// Reader decompresses. It is used by one goroutine at a time.
type Reader struct {
	method Method
	src    *source
	dec    decoder
	frames *zstdInspector // nil unless the method is zstd
	err    error          // what every further Read returns
}

// decoder is a decompressor and the way to give its memory back.
type decoder interface {
	io.Reader
	release()
}

// NewReader decompresses r, which it does not close. Frames, members and streams that follow each other are read as one, and
// skippable frames are skipped. Reading ends with io.EOF only if all checks held and r was read to its end without error. It
// fails with ErrCorrupt, ErrTruncated or ErrWindow, and with r's own error unchanged if r fails. Bytes that Read gave before an
// error may be wrong: use none of them until io.EOF.
//
// Close releases memory to a pool; a Reader has no goroutines. NewReader reads nothing yet, and fails only if m is not known.
func NewReader(m Method, r io.Reader) (*Reader, error) {
	z := &Reader{method: m, src: &source{r: r}}
	switch m {
	case None:
		z.dec = foreign{z.src}
	case Zstd:
		z.frames = new(zstdInspector)
		z.src.tee = z.frames
		z.dec = newZstdDecoder(z.src)
	case Gzip:
		z.dec = newGzipDecoder(z.src)
	case Lzip:
		z.dec = newLzipDecoder(z.src)
	case Xz:
		z.dec = &xzDecoder{src: z.src}
	case Bzip2:
		z.dec = foreign{bzip2.NewReader(z.src)}
	case Brotli:
		z.dec = foreign{newBrotliDecoder(z.src)}
	case Lz4:
		z.dec = foreign{lz4.NewReader(z.src)}
	default:
		_, err := ParseMethod(string(m))
		return nil, err
	}
	return z, nil
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := z.dec.Read(p)
	if err != nil {
		z.err = z.explain(err)
	}
	return n, z.err
}

// Close releases the memory. It does not close what is read from.
func (z *Reader) Close() error {
	if z.dec != nil {
		z.dec.release()
		z.dec = nil
		if z.err == nil {
			z.err = ErrClosed
		}
	}
	return nil
}

// explain turns what a decoder said into what this package promises.
func (z *Reader) explain(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = z.atEnd()
	}
	switch {
	case err == io.EOF:
		return io.EOF
	case z.src.err != nil:
		return z.src.err
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrTruncated), errors.Is(err, ErrWindow):
		return fmt.Errorf("read %s: %w", z.method, err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, xz.ErrBuf):
		return fmt.Errorf("read %s: %w", z.method, ErrTruncated)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, xz.ErrMemlimit):
		return fmt.Errorf("read %s: %w: more than %d bytes", z.method, ErrWindow, MaxWindow)
	}
	return fmt.Errorf("read %s: %w: %w", z.method, ErrCorrupt, err)
}

// atEnd checks what some decoders do not: that there was anything, and that nothing is left.
func (z *Reader) atEnd() error {
	if z.method == None {
		return io.EOF
	}
	if z.src.n == 0 || z.frames != nil && z.frames.frames == 0 {
		return ErrTruncated
	}
	var b [1]byte
	n, err := io.ReadFull(z.src, b[:])
	if n > 0 {
		return fmt.Errorf("%w: bytes after the end", ErrCorrupt)
	}
	return err
}

// Servable tells whether the compressed bytes, as they were read, may be served unchanged to every client. It is asked after
// Read returned io.EOF, and may be asked after Close. Nil means yes. ErrUnsuited, wrapped with the reason, means that the data
// is whole but must be compressed again; any other error is the one with which reading ended, or says that it has not ended.
//
// Guix clients know none, zstd, lzip, gzip and xz only. Their gzip reader stops without error after the first member. Their zstd
// reader leaves unread what follows the last frame that holds data, so that the connection serves the next request wrongly,
// and a window of 8 MiB is what every zstd decoder must be able to allocate (RFC 8878 section 3.1.1.1.2).
func (z *Reader) Servable() error {
	switch {
	case z.err == nil:
		return fmt.Errorf("judge %s: not read to its end", z.method)
	case z.err != io.EOF:
		return z.err
	}
	unsuited := func(why string) error { return fmt.Errorf("judge %s: %w: %s", z.method, ErrUnsuited, why) }
	switch z.method {
	case None, Lzip, Xz:
		return nil
	case Zstd:
		if why := z.frames.verdict(); why != "" {
			return unsuited(why)
		}
		return nil
	case Gzip:
		if z.src.members != 1 {
			return unsuited(fmt.Sprintf("%d members, where Guix reads the first only", z.src.members))
		}
		return nil
	}
	return unsuited("Guix clients do not know the method")
}

// source is the input of a decoder. It remembers how the input ended, since decoders report that in many ways.
type source struct {
	r       io.Reader
	tee     *zstdInspector // told of every byte if not nil
	n       int64          // bytes read
	members int            // gzip members begun
	eof     bool
	err     error // the first error of r that is not io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.eof {
		return 0, io.EOF
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.tee != nil {
		s.tee.write(p[:n])
	}
	if err == io.EOF {
		s.eof = true
	} else if err != nil {
		s.err = err
	}
	return n, err
}

// foreign is a decoder whose memory the garbage collector takes.
type foreign struct{ io.Reader }

func (foreign) release() {}

// xzDecoder puts off reading the header until the first Read, since the library reads it when it makes a reader.
type xzDecoder struct {
	src io.Reader
	z   *xz.Reader
}

func (d *xzDecoder) Read(p []byte) (int, error) {
	if d.z == nil {
		z, err := xz.NewReader(d.src, MaxWindow)
		if err != nil {
			return 0, err
		}
		d.z = z
	}
	return d.z.Read(p)
}

func (d *xzDecoder) release() { d.z = nil }

package nar

import (
	"bufio"
	"crypto/sha256"
	"hash"
	"io"
	"sync"

	"narfold/internal/digest"
)

// Summary is what one pass over a nar tells.
type Summary struct {
	Hash        digest.SHA256 // of the nar's bytes: NarHash
	Size        int64         // of the nar in bytes: NarSize
	Files       int64         // regular files, programs included
	Executables int64         // regular files that are programs
	Directories int64         // the root included, if it is one
	Symlinks    int64
	Contents    int64 // bytes of all the files' contents
}

func (s *Summary) count(h Header) {
	switch h.Type {
	case Regular:
		s.Files++
		s.Contents += h.Size
		if h.Executable {
			s.Executables++
		}
	case Symlink:
		s.Symlinks++
	case Directory:
		s.Directories++
	}
}

// Verify reads a nar which r must hold and nothing else, and describes it. The error is an *Error (ErrTrailing among the
// reasons) if r holds anything else, or wraps r's own. Nothing of the Summary is to be used with an error.
func Verify(r io.Reader) (Summary, error) {
	h := sha256.New()
	br := borrowReader(&hashedReader{r, h})
	defer returnReader(br)
	nr := NewReader(br)
	s, err := walk(nr)
	if err == nil {
		err = nr.End()
	}
	if err != nil {
		return Summary{}, err
	}
	s.Size = nr.Pos()
	h.Sum(s.Hash[:0])
	return s, nil
}

// walk goes to the end of the nar and counts.
func walk(r *Reader) (s Summary, err error) {
	for {
		h, err := r.next()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.count(h)
	}
}

// Copy copies exactly one nar from src to dst, checks it and describes it, and leaves src just after it: for connections on
// which a nar is followed by something else and has no other mark of its end, as nix-daemon answers NarFromPath. src should
// have a large buffer. After an error, which is as for Verify or wraps dst's, dst may have received part of the nar and the
// place of src is not known.
func Copy(dst io.Writer, src *bufio.Reader) (Summary, error) {
	h := sha256.New()
	enc := newEncoder(dst, h)
	defer enc.release()
	nr := NewReader(src)
	nr.tee = enc
	s, err := walk(nr)
	if err == nil {
		err = enc.flush()
	}
	if err != nil {
		return Summary{}, err
	}
	s.Size = nr.Pos()
	h.Sum(s.Hash[:0])
	return s, nil
}

// hashedReader hashes what is read through it.
type hashedReader struct {
	r io.Reader
	h hash.Hash
}

func (r *hashedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.h.Write(p[:n])
	}
	return n, err
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}

func borrowReader(r io.Reader) *bufio.Reader {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	return br
}

func returnReader(br *bufio.Reader) {
	br.Reset(nil)
	readers.Put(br)
}

// Hasher is a writer that tells the NarHash and NarSize of what was written to it, for use beside Dump or a Writer.
type Hasher struct {
	h    hash.Hash
	size int64
}

// NewHasher returns a Hasher of nothing yet.
func NewHasher() *Hasher { return &Hasher{h: sha256.New()} }

// Write never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	return h.h.Write(p)
}

// Sum returns the hash of what was written so far.
func (h *Hasher) Sum() (d digest.SHA256) {
	h.h.Sum(d[:0])
	return d
}

// Size returns how many bytes were written so far.
func (h *Hasher) Size() int64 { return h.size }

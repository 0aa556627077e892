package publish

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// contextReader stops a long copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// spooled is a compressed nar on its way: in memory while it is small, then in a file. What lies elsewhere is only hashed.
type spooled struct {
	elsewhere func() (io.ReadCloser, error)

	dir   string
	small []byte
	file  *os.File
	size  int64
	hash  hash.Hash
	err   error // of the spool itself, as opposed to the source
}

// smallSpool is how many bytes stay in memory: half of the nars are smaller when compressed. At most 4*ahead and three
// batches are on their way, so at most 110 MiB.
const smallSpool = 32 << 10

func newSpooled(dir string) *spooled { return &spooled{dir: dir, hash: sha256.New()} }

// Write implements io.Writer. An error is kept in s.err too, since a reader in between may hide it.
func (s *spooled) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.elsewhere != nil {
		s.hash.Write(p)
		s.size += int64(len(p))
		return len(p), nil
	}
	if s.file == nil && len(s.small)+len(p) > smallSpool {
		if s.file, s.err = os.CreateTemp(s.dir, "nar-"); s.err == nil {
			_, s.err = s.file.Write(s.small)
			s.small = nil
		}
	}
	if s.err == nil {
		if s.file != nil {
			_, s.err = s.file.Write(p)
		} else {
			s.small = append(s.small, p...)
		}
	}
	if s.err != nil {
		s.err = fmt.Errorf("write to spool: %w", s.err)
		return 0, s.err
	}
	s.hash.Write(p)
	s.size += int64(len(p))
	return len(p), nil
}

func (s *spooled) finish() error {
	if s.file != nil {
		if err := s.file.Chmod(0o444); err != nil {
			return fmt.Errorf("finish spool file: %w", err)
		}
		if err := s.file.Close(); err != nil {
			return fmt.Errorf("finish spool file: %w", err)
		}
	}
	return nil
}

func (s *spooled) open() (io.ReadCloser, error) {
	return s.body().Open()
}

// body gives the bytes to an object store.
func (s *spooled) body() objstore.Body {
	if s.elsewhere != nil {
		return objstore.Body{Size: s.size, SHA256: s.sum(), Open: s.elsewhere}
	}
	if s.file == nil {
		return objstore.Bytes(s.small)
	}
	name := s.file.Name()
	return objstore.Body{Size: s.size, SHA256: s.sum(), Path: name, Open: func() (io.ReadCloser, error) { return os.Open(name) }}
}

// room is how many bytes it takes here.
func (s *spooled) room() int64 {
	if s.elsewhere != nil {
		return 0
	}
	return s.size
}

func (s *spooled) sum() (d digest.SHA256) {
	s.hash.Sum(d[:0])
	return d
}

func (s *spooled) remove() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name()) // a directory store may have taken it; the rest is removed at the next start
	}
}

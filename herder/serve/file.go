package serve

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// file serves /file/NAME/sha256/HASH: a flat fixed-output file, such as a source tarball, out of its nar. The hash is of the file's
// bytes, in nix-base32 as Guix writes it or in hexadecimal. Name and hash make the store path, so that no index is needed; and the
// path is one that only a file with this hash may have.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("algorithm") != "sha256" {
		s.fail(w, r, fmt.Errorf("algorithm %q: %w", r.PathValue("algorithm"), catalog.ErrNotFound))
		return
	}
	sum, err := digest.Parse("sha256:" + r.PathValue("hash"))
	if err != nil {
		s.fail(w, r, errors.Join(catalog.ErrNotFound, err))
		return
	}
	for _, dir := range s.fileDirs(r) {
		path, err := storepath.FlatFile(dir, r.PathValue("name"), sum)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		p, err := s.lookUp(r.Context(), path.HashPart())
		if errors.Is(err, catalog.ErrNotFound) {
			continue
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.sendFile(w, r, p, sum)
		return
	}
	s.fail(w, r, catalog.ErrNotFound)
}

// fileDirs are the store directories in which a file may lie.
func (s *Server) fileDirs(r *http.Request) []storepath.Dir {
	dirs := []storepath.Dir{storepath.Guix, storepath.Nix}
	sum, err := s.summary.get(r.Context(), s.Catalogue)
	if err != nil {
		return dirs
	}
	for d := range sum.Dirs {
		if d != storepath.Guix && d != storepath.Nix {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, p *prepared, sum digest.SHA256) {
	n := cheapest(p.nars)
	o, err := s.Objects.Get(r.Context(), n.Key, objstore.Range{})
	if err != nil {
		s.fail(w, r, lost(n.Key, err))
		return
	}
	defer o.Close()
	z, err := compress.NewReader(n.Compression, o)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer z.Close()
	h, body, err := nar.Open(z, "")
	if errors.Is(err, nar.ErrNotFile) {
		err = errors.Join(catalog.ErrNotFound, err)
	}
	if err != nil {
		s.fail(w, r, fmt.Errorf("open %s as a flat file: %w", p.item.Path, err))
		return
	}
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Cache-Control", maxAge(s.ttl()))
	head.Set("ETag", `"`+sum.Base32()+`"`)
	s.counters.files.Add(1)
	// A slow client gets on with a range where it was cut: what comes before is expanded and dropped. Several ranges would have to
	// go back, and are answered with the whole, as HTTP allows.
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, &forward{r: body, size: h.Size})
}

// cheapest is the form that costs least to expand.
func cheapest(nars []preparedNar) *preparedNar {
	for _, m := range []compress.Method{compress.None, compress.Zstd, compress.Gzip, compress.Xz, compress.Lzip} {
		for i := range nars {
			if nars[i].Compression == m {
				return &nars[i]
			}
		}
	}
	return &nars[0]
}

// forward is a stream of known size that can be sought before it is read, and forwards after.
type forward struct {
	r    io.Reader
	size int64
	at   int64 // where the next Read is to begin
	read int64 // how much of r was read
}

func (f *forward) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < f.read {
		return 0, errors.New("seek back in a stream")
	}
	f.at = offset
	return offset, nil
}

func (f *forward) Read(p []byte) (int, error) {
	if skip := f.at - f.read; skip > 0 {
		n, err := io.CopyN(io.Discard, f.r, skip)
		f.read += n
		if err != nil {
			return 0, err
		}
	}
	n, err := f.r.Read(p)
	f.read += int64(n)
	f.at = f.read
	return n, err
}

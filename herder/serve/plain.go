package serve

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"

	"narfold/internal/catalog"
	"narfold/internal/httpfront"
	"narfold/internal/storepath"
)

var (
	narinfoSuffix = []byte(".narinfo")
	narPrefix     = []byte("/nar/")
	notFoundBytes = []byte(notFoundBody)
)

// Answer implements httpfront.Plain: /<hash part>.narinfo, and /nar/<compression>/<item> from a directory store. It says no to
// whatever it cannot decide at once, and Handler decides.
func (s *Server) Answer(r *httpfront.Request, a *httpfront.Answer) bool {
	if len(r.Path) == 1+storepath.HashLen+len(narinfoSuffix) && bytes.HasSuffix(r.Path, narinfoSuffix) {
		return s.answerNarinfo(r.Path[1:1+storepath.HashLen], a)
	}
	if s.Root != "" && bytes.HasPrefix(r.Path, narPrefix) {
		return s.answerNar(string(r.Path[len(narPrefix):]), r.Head, a)
	}
	return false
}

func (s *Server) answerNarinfo(hash []byte, a *httpfront.Answer) bool {
	p := s.prepared.find(hash)
	if p == nil {
		h, err := storepath.ParseHashPart(string(hash))
		if err != nil {
			return false
		}
		p, err = s.lookUp(context.Background(), h) // a point look-up in a local file: nothing to cancel
		if errors.Is(err, catalog.ErrNotFound) {
			if s.coming(h) != nil {
				return false // Handler waits for it
			}
			s.counters.narinfoMisses.Add(1)
			a.Header, a.Body = s.notFound, notFoundBytes
			return true
		}
		if err != nil {
			return false // Handler meets the same error, and says it
		}
	}
	s.counters.narinfoHits.Add(1)
	a.Header, a.Body = p.head, p.narinfo
	return true
}

func (s *Server) answerNar(rest string, head bool, a *httpfront.Answer) bool {
	method, base := splitNar(rest)
	if strings.Contains(base, "%") {
		var ok bool
		if base, ok = unescape(base); !ok {
			return false
		}
	}
	b, err := storepath.ParseBase(base)
	if err != nil {
		return false
	}
	p, err := s.lookUp(context.Background(), b.HashPart())
	if err != nil {
		return false
	}
	n := p.nar(method, base)
	if n == nil {
		return false
	}
	f, err := s.files.Open(filepath.Join(s.Root, filepath.FromSlash(string(n.Key))))
	if err != nil || f.Size != n.Size {
		if err == nil {
			f.Release()
		}
		return false
	}
	s.counters.narHits.Add(1)
	if s.Served != nil && !head {
		s.Served(b.HashPart())
	}
	a.Header, a.File, a.Length, a.Release = n.head, f.File, f.Size, f.Release
	return true
}

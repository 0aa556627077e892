package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Handler answers everything that a substitute server is asked for.
func (s *Server) Handler() http.Handler { return s.mux }

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("GET /{$}", s.landing)
	s.mux.HandleFunc("GET /index.html", s.landing)
	s.mux.HandleFunc("GET /nix-cache-info", s.nixCacheInfo)
	s.mux.HandleFunc("GET /signing-key.pub", s.guixKey)
	s.mux.HandleFunc("GET /nix-key.pub", s.nixKeys)
	s.mux.HandleFunc("GET /nar/{rest...}", s.nar)
	s.mux.HandleFunc("GET /file/{name}/{algorithm}/{hash}", s.file)
	s.mux.HandleFunc("GET /log/{of}", s.log)
	s.mux.HandleFunc("GET /{file}", s.narinfo)
}

// narinfo answers what Answer could not: cold, with a query, or over HTTP/2.
func (s *Server) narinfo(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".narinfo")
	if !ok {
		s.fail(w, r, catalog.ErrNotFound)
		return
	}
	h, err := storepath.ParseHashPart(name)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	p, err := s.lookUp(r.Context(), h)
	if err != nil {
		if errors.Is(err, catalog.ErrNotFound) {
			s.counters.narinfoMisses.Add(1)
		}
		s.fail(w, r, err)
		return
	}
	s.counters.narinfoHits.Add(1)
	w.Header().Set("Content-Type", narinfoType)
	w.Header().Set("Cache-Control", maxAge(s.ttl()))
	w.Header().Set("Content-Length", fmt.Sprint(len(p.narinfo)))
	w.Write(p.narinfo)
}

// nar serves one compressed form of a nar, with ranges and conditions.
func (s *Server) nar(w http.ResponseWriter, r *http.Request) {
	method, name := splitNar(r.PathValue("rest"))
	base, err := storepath.ParseBase(name)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	p, err := s.lookUp(r.Context(), base.HashPart())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	n := p.nar(method, name)
	if n == nil {
		s.fail(w, r, catalog.ErrNotFound)
		return
	}
	if s.Presign != nil && followsRedirects(r) {
		s.redirect(w, r, n)
		return
	}
	s.counters.narHits.Add(1)
	o := &object{ctx: r.Context(), store: s.Objects, key: n.Key, size: n.Size}
	defer o.Close()
	// Asked for before the header is written, so that an object that cannot be had is an answer and not a cut.
	if err := o.open(); err != nil {
		s.fail(w, r, lost(n.Key, err))
		return
	}
	for _, f := range narFields(n.etag, maxAge(s.ttl())) {
		w.Header().Set(f.Name, f.Value)
	}
	if o.file() != nil {
		http.ServeContent(w, r, "", time.Time{}, o.file())
		return
	}
	http.ServeContent(w, r, "", time.Time{}, o)
}

// lost says that an object of a published item is not there: damage, which must not look like absence, since that is kept by clients.
func lost(k objstore.Key, err error) error {
	if errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("object %s of a published item is lost; run narfold check", k)
	}
	return err
}

// followsRedirects tells whether the client is known to follow a redirected nar. Guix did not before March 2022, and cannot be told
// by its User-Agent from later ones, so that it is always served from here.
func followsRedirects(r *http.Request) bool {
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl/") || strings.Contains(agent, " Nix/")
}

func (s *Server) redirect(w http.ResponseWriter, r *http.Request, n *preparedNar) {
	const life = time.Hour
	u, err := s.Presign.PresignGet(r.Context(), n.Key, life)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.counters.redirects.Add(1)
	w.Header().Set("Cache-Control", "private, max-age=300")
	http.Redirect(w, r, u, http.StatusFound)
}

// object reads an object of any store as http.ServeContent wants it: with Seek. It opens the store's object where reading begins.
type object struct {
	ctx   context.Context
	store objstore.Reader
	key   objstore.Key
	size  int64

	at    int64
	open_ *objstore.Object
	from  int64 // where open_ stands
}

func (o *object) open() error {
	r := objstore.Range{Offset: o.at}
	got, err := o.store.Get(o.ctx, o.key, r)
	if err != nil {
		return err
	}
	if got.Info.Size != o.size {
		got.Close()
		return fmt.Errorf("object %s has %d bytes, the catalogue says %d; run narfold check", o.key, got.Info.Size, o.size)
	}
	o.open_, o.from = &got, o.at
	return nil
}

func (o *object) file() io.ReadSeeker {
	if o.open_ == nil || o.open_.File == nil {
		return nil
	}
	return o.open_.File
}

func (o *object) Close() {
	if o.open_ != nil {
		o.open_.Close()
	}
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	o.at = offset
	return offset, nil
}

func (o *object) Read(p []byte) (int, error) {
	if o.at >= o.size {
		return 0, io.EOF
	}
	if o.open_ == nil || o.from != o.at {
		o.Close()
		o.open_ = nil
		if err := o.open(); err != nil {
			return 0, err
		}
	}
	n, err := o.open_.Read(p)
	o.at += int64(n)
	o.from = o.at
	return n, err
}

// log serves a build log as it was stored.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	of, err := storepath.ParseBase(r.PathValue("of"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	k, err := s.Catalogue.Log(r.Context(), of)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	o, err := s.Objects.Get(r.Context(), k, objstore.Range{})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer o.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", maxAge(s.ttl()))
	body, encoding, err := sniff(o)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if encoding == "" {
		w.Header().Set("Content-Length", fmt.Sprint(o.Info.Size))
	} else {
		w.Header().Set("Content-Encoding", encoding)
	}
	if r.Method != http.MethodHead {
		io.Copy(w, body)
	}
}

// sniff tells by its first bytes how a log is compressed: gzip by Guix, bzip2 by Nix, or not at all.
func sniff(r io.Reader) (io.Reader, string, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", err
	}
	head = head[:n]
	body := io.MultiReader(strings.NewReader(string(head)), r)
	switch {
	case strings.HasPrefix(string(head), "\x1f\x8b"):
		return body, "gzip", nil
	case strings.HasPrefix(string(head), "BZh"):
		return body, "application/x-bzip2", nil
	}
	return body, "", nil
}

func (s *Server) nixCacheInfo(w http.ResponseWriter, r *http.Request) {
	dir := s.StoreDir
	if dir == "" {
		sum, err := s.summary.get(r.Context(), s.Catalogue)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		dir = mainDir(sum.Dirs)
	}
	w.Header().Set("Content-Type", "text/x-nix-cache-info")
	w.Header().Set("Cache-Control", maxAge(s.ttl()))
	fmt.Fprintf(w, "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", dir, s.Priority)
}

// mainDir chooses whom nix-cache-info speaks to. Guix never asks for it, so that a directory that Nix may use goes first.
func mainDir(dirs map[storepath.Dir]int64) storepath.Dir {
	best, most := storepath.Dir(""), int64(0)
	for d, n := range dirs {
		if d != storepath.Guix && (n > most || n == most && d < best) {
			best, most = d, n
		}
	}
	switch {
	case best != "":
		return best
	case dirs[storepath.Guix] > 0:
		return storepath.Guix
	}
	return storepath.Nix
}

func (s *Server) guixKey(w http.ResponseWriter, r *http.Request) {
	if s.Keys.Guix == nil {
		s.fail(w, r, catalog.ErrNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(s.Keys.Guix)
}

func (s *Server) nixKeys(w http.ResponseWriter, r *http.Request) {
	if len(s.Keys.Nix) == 0 {
		s.fail(w, r, catalog.ErrNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, k := range s.Keys.Nix {
		fmt.Fprintln(w, k)
	}
}

// unescape decodes percent escapes of a base name.
func unescape(base string) (string, bool) {
	b, err := url.PathUnescape(base)
	return b, err == nil
}

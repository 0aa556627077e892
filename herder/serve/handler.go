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
	if errors.Is(err, catalog.ErrNotFound) {
		p, err = s.await(r.Context(), h)
	}
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
	if errors.Is(err, catalog.ErrNotFound) {
		p, err = s.lookUpWithdrawn(r.Context(), base.HashPart())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	n := p.nar(method, name)
	if n == nil {
		s.fail(w, r, catalog.ErrNotFound)
		return
	}
	if s.Served != nil && r.Method == http.MethodGet && fromTheBeginning(r) {
		s.Served(base.HashPart())
	}
	if s.Presign != nil && r.Method == http.MethodGet && followsRedirects(r) { // the bucket's URL is good for GET alone
		s.redirect(w, r, n)
		return
	}
	s.counters.narHits.Add(1)
	o := &object{ctx: r.Context(), store: s.Objects, key: n.Key, size: n.Size}
	defer o.Close()
	// Asked for before the header is written, so that an object that cannot be had is an answer and not a cut.
	if err := o.find(r, s.Root != ""); err != nil {
		s.fail(w, r, lost(n.Key, err))
		return
	}
	for _, f := range narFields(n.etag, maxAge(s.ttl())) {
		w.Header().Set(f.Name, f.Value)
	}
	if file := o.file(); file != nil {
		http.ServeContent(w, r, "", time.Time{}, file)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, o)
}

// lookUpWithdrawn returns an item whose narinfo is not served any more. Whoever was told of it may keep that for as long as he was told,
// and so finds its nar until it is deleted.
func (s *Server) lookUpWithdrawn(ctx context.Context, h storepath.HashPart) (*prepared, error) {
	c, ok := s.Catalogue.(interface {
		Condemned(ctx context.Context, h storepath.HashPart) (catalog.Item, error)
	})
	if !ok {
		return nil, catalog.ErrNotFound
	}
	it, err := c.Condemned(ctx, h)
	if err != nil {
		return nil, err
	}
	return s.prepare(it)
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

// fromTheBeginning reports whether a client begins to fetch, and does not go on with what it has a part of.
func fromTheBeginning(r *http.Request) bool {
	asked := r.Header.Get("Range")
	return asked == "" || strings.HasPrefix(asked, "bytes=0-")
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

	at     int64
	opened *objstore.Object
	from   int64 // where opened stands
}

// find makes sure that the object is there and as long as it should be. It opens a local one; one in a bucket only if all of it is
// asked for, since the bucket would begin to send what nobody reads.
func (o *object) find(r *http.Request, local bool) error {
	h := r.Header
	if local || r.Method == http.MethodGet && h.Get("Range") == "" && h.Get("If-None-Match") == "" && h.Get("If-Match") == "" {
		return o.open()
	}
	info, err := o.store.Stat(o.ctx, o.key)
	if err != nil {
		return err
	}
	return o.check(info)
}

func (o *object) check(info objstore.Info) error {
	if info.Size != o.size {
		return fmt.Errorf("object %s has %d bytes, the catalogue says %d; run narfold check", o.key, info.Size, o.size)
	}
	return nil
}

func (o *object) open() error {
	got, err := o.store.Get(o.ctx, o.key, objstore.Range{Offset: o.at})
	if err != nil {
		return err
	}
	if err := o.check(got.Info); err != nil {
		got.Close()
		return err
	}
	o.opened, o.from = &got, o.at
	return nil
}

func (o *object) file() io.ReadSeeker {
	if o.opened == nil || o.opened.File == nil {
		return nil
	}
	return o.opened.File
}

func (o *object) Close() {
	if o.opened != nil {
		o.opened.Close()
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
	if o.opened == nil || o.from != o.at {
		o.Close()
		o.opened = nil
		if err := o.open(); err != nil {
			return 0, err
		}
	}
	n, err := o.opened.Read(p)
	o.at += int64(n)
	o.from = o.at
	return n, err
}

// cacheInfoTTL bounds how long nix-cache-info may be kept, since the first import changes what it says.
const cacheInfoTTL = time.Hour

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
	w.Header().Set("Cache-Control", maxAge(min(s.ttl(), cacheInfoTTL)))
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

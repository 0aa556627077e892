// Package serve is the substitute server: narinfos, nars, logs and fixed-output files for Guix and Nix clients.
//
// What is asked most - a narinfo, a nar in a directory store - is answered from prepared headers, without net/http, by Answer. All
// else goes through Handler: ranges and conditions, nars from a bucket, files out of nars, logs, keys and the landing page.
// Only what the catalogue has published is answered, so that a narinfo is never seen without its nar and its closure.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/httpfront"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Config says what is served and how long clients may keep it.
type Config struct {
	Catalogue Catalogue
	Objects   objstore.Reader
	// Root is the folder of a directory store, from which nars are sent by sendfile; "" if the objects are elsewhere.
	Root string
	// Presign, if not nil, makes nar requests from clients that follow redirects go to the bucket. Narinfos never redirect.
	Presign objstore.Presigner

	// TTL is how long clients may keep a narinfo; what is withdrawn stays fetchable for at least that long. NewTTL, if not
	// zero, is what clients are told instead: lower it first, and TTL when the old one has run out. NegativeTTL is for 404s.
	TTL, NewTTL, NegativeTTL time.Duration
	// StoreDir is what nix-cache-info names; if "" it is the directory of most of the items that are not Guix's, else Guix's.
	StoreDir storepath.Dir
	// Priority is nix-cache-info's: a lower number is asked first by Nix; cache.nixos.org has 40.
	Priority int
	// Prefer lists compressions with the one that Nix takes first; others follow. Default: zstd.
	Prefer []compress.Method
	// Quarantine has the objects that are not served, because they were found damaged. May be nil.
	Quarantine *Quarantine
	// Missed, if not nil, is told of each item whose narinfo is asked for in vain. It is called by many at once, and must not wait.
	// If it returns a channel the item may come, and is waited for a while; when the channel closes that is decided.
	Missed func(h storepath.HashPart) <-chan struct{}
	// Served, if not nil, is told of each nar that somebody begins to fetch.
	Served func(storepath.HashPart)
	// Keys are shown to visitors.
	Keys PublicKeys
	// CacheBytes bounds the memory for prepared narinfos. Default: 256 MiB.
	CacheBytes int64
	Log        *slog.Logger
}

// PublicKeys are the keys with which this server's operator signs.
type PublicKeys struct {
	Guix []byte   // the signing-key.pub file, or nil
	Nix  []string // name:base64
}

// Catalogue is what serving needs.
type Catalogue interface {
	Item(ctx context.Context, h storepath.HashPart) (catalog.Item, error)
	Counts(ctx context.Context) (catalog.Counts, error)
	Version(ctx context.Context) (int64, error)
	EachHashPart(ctx context.Context, after int64, f func([20]byte)) (last int64, err error)
	Log(ctx context.Context, of storepath.Base) (objstore.Key, error)
}

// Server answers. Make it with New; Run keeps its caches true.
type Server struct {
	Config
	prepared *preparedCache
	known    absence
	files    *httpfront.FileCache
	notFound []byte // the prepared head of a 404 for a narinfo
	summary  summaryCache
	mux      *http.ServeMux
	counters counters
}

// New checks cfg and prepares what does not change.
func New(cfg Config) (*Server, error) {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 256 << 20
	}
	if cfg.Priority == 0 {
		cfg.Priority = 50
	}
	if len(cfg.Prefer) == 0 {
		cfg.Prefer = []compress.Method{compress.Zstd}
	}
	if cfg.NewTTL > cfg.TTL {
		return nil, fmt.Errorf("serve: new-ttl %v is longer than ttl %v, for which nars are kept", cfg.NewTTL, cfg.TTL)
	}
	s := &Server{Config: cfg, known: absenceOf(cfg.Catalogue), prepared: newPreparedCache(cfg.CacheBytes), files: httpfront.NewFileCache(4096, 5*time.Second)}
	var err error
	s.notFound, err = httpfront.Head(http.StatusNotFound, int64(len(notFoundBody)), httpfront.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
		httpfront.Field{Name: "Cache-Control", Value: maxAge(cfg.NegativeTTL)})
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s.routes()
	return s, nil
}

// Run keeps the caches true until ctx ends: what another process publishes is noticed within a fifth of a second, and files that
// nobody asks for are closed.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	defer s.files.Close()
	var filling sync.WaitGroup
	defer filling.Wait()
	filling.Go(func() {
		if err := s.known.Remember(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("misses are looked up one by one", "error", err)
		}
	})
	trim := time.Now()
	last, quarantined := int64(-1), int64(-1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			v, err := s.Catalogue.Version(ctx)
			switch {
			case err != nil && ctx.Err() == nil:
				s.Log.Warn("catalogue cannot be watched", "error", err)
			case err == nil && (v != last || s.Quarantine.version() != quarantined):
				// Also the first time: what was prepared before may be older than this version.
				quarantined = s.Quarantine.version()
				s.prepared.clear()
				s.summary.changed()
				last = v
			}
			if now.Sub(trim) > time.Minute {
				s.files.Trim(now.Add(-time.Minute))
				trim = now
			}
		}
	}
}

func (s *Server) ttl() time.Duration {
	if s.NewTTL > 0 {
		return s.NewTTL
	}
	return s.TTL
}

func maxAge(d time.Duration) string {
	return fmt.Sprintf("public, max-age=%d", int64(d/time.Second))
}

const notFoundBody = "not found\n"

// status turns an error into an HTTP status: the one table.
func status(err error) int {
	switch {
	case errors.Is(err, catalog.ErrNotFound), errors.Is(err, objstore.ErrNotFound), errors.Is(err, storepath.ErrInvalid), errors.Is(err, objstore.ErrKey):
		return http.StatusNotFound
	case errors.Is(err, objstore.ErrRange):
		return http.StatusRequestedRangeNotSatisfiable
	case errors.Is(err, objstore.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fail answers a request that cannot be served. Absence is said, and may be remembered, only when it is certain; ignorance is not
// for keeping.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	switch code {
	case http.StatusNotFound:
		h.Set("Cache-Control", maxAge(s.NegativeTTL))
		w.WriteHeader(code)
		fmt.Fprint(w, notFoundBody)
		return
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	}
	h.Set("Cache-Control", "no-store")
	if r.Context().Err() == nil {
		s.Log.Error("request cannot be answered", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	w.WriteHeader(code)
	fmt.Fprintln(w, http.StatusText(code))
}

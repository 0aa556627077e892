package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"narfold/herder/check"
	"narfold/herder/serve"
	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// crashObjects is what looking needs of a store: it cannot change it.
type crashObjects interface {
	objstore.Reader
	objstore.Lister
}

// crashState is one deployment that imports are killed in.
type crashState struct {
	*testing.T
	cache   *crashCache
	flags   []string // that name the deployment
	dir     string
	open    func() (crashObjects, io.Closer)
	looked  map[objstore.Key]bool // objects that were read and found right; keys are write-once
	asked   map[storepath.Base]bool
	watcher *sqlite.DB // a connection that stays open over crashes, as a running herder's, or nil
	drop    func()     // frees the room that it takes
}

// seen is how far the state has come.
type seen struct {
	published int // items
	uploads   int // objects that are not part of a published item
}

// look checks what a crash has left, without changing it: everything published is whole, closed and served, and no object is
// unaccounted for.
func (s *crashState) look() (found seen) {
	s.Helper()
	name := filepath.Join(s.dir, "catalogue.db")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return found // killed before there was anything
	}
	cat := s.watcher
	if cat == nil {
		var err error
		if cat, err = sqlite.Open(s.Context(), name); err != nil {
			s.Fatal(err)
		}
		defer cat.Close()
	}
	objects, closer := s.open()
	defer closer.Close()
	server, err := serve.New(serve.Config{Catalogue: cat, Objects: objects, TTL: time.Hour, NegativeTTL: time.Minute, CacheBytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.Fatal(err)
	}
	published := make(map[storepath.Base]bool)
	for it, err := range cat.Items(s.Context(), 0) {
		if err != nil {
			s.Fatal(err)
		}
		for _, r := range it.References {
			if r != it.Path.Base && !published[r] {
				s.Errorf("%s is published before its reference %s", it.Path, r)
			}
		}
		published[it.Path.Base] = true
		s.item(it, objects)
		if !s.asked[it.Path.Base] {
			s.asked[it.Path.Base] = true
			s.served(it.Path.Base, server.Handler())
		}
	}
	r, err := check.Run(s.Context(), check.Config{Catalogue: cat, Objects: objects})
	if err != nil {
		s.Fatal(err)
	}
	for _, f := range r.Findings[:min(len(r.Findings), 3)] {
		s.Errorf("check found: %+v", *f)
	}
	if int(r.Items) != len(published) || r.Objects != r.Files+r.UploadObjects || len(r.Found) > 0 {
		s.Errorf("published are %d items, and check counts %d with %d files, %d objects, %d of them uploads, and found %v",
			len(published), r.Items, r.Files, r.Objects, r.UploadObjects, r.Found)
	}
	return seen{len(published), int(r.UploadObjects)}
}

// item checks a published item against what is known of the cache, and its objects.
func (s *crashState) item(it catalog.Item, objects objstore.Reader) {
	s.Helper()
	known, ok := s.cache.items[it.Path.Base]
	if !ok || it.NarHash != known.nar || len(it.References) != len(known.references) || len(it.Files) == 0 {
		s.Errorf("published as %+v", it)
	}
	for _, f := range it.Files {
		if s.cache.files[f.SHA256] != it.NarHash {
			s.Errorf("%s: file %s has the hash %s, which is no file of its nar", it.Path, f.Key, f.SHA256)
		}
		if s.looked[f.Key] && f.Size > 64<<10 {
			info, err := objects.Stat(s.Context(), f.Key)
			if err != nil || info.Size != f.Size {
				s.Errorf("%s: %+v, %v, want %d bytes", it.Path, info, err, f.Size)
			}
			continue
		}
		s.looked[f.Key] = true
		o, err := objects.Get(s.Context(), f.Key, objstore.Range{})
		if err != nil {
			s.Errorf("%s: %v", it.Path, err)
			continue
		}
		var body hashed
		_, err = io.Copy(&body, o)
		o.Close()
		if err != nil || body.sum() != f.SHA256 || body.size != f.Size {
			s.Errorf("%s: %s has %d bytes with the hash %s, %v; want %d with %s", it.Path, f.Key, body.size, body.sum(), err, f.Size, f.SHA256)
		}
	}
}

// served asks a herder for an item as a client does.
func (s *crashState) served(b storepath.Base, h http.Handler) {
	s.Helper()
	get := func(url string, body io.Writer) {
		w := &streamed{header: make(http.Header), status: http.StatusOK, body: body}
		h.ServeHTTP(w, httptest.NewRequestWithContext(s.Context(), http.MethodGet, "/"+url, nil))
		if w.status != http.StatusOK {
			s.Errorf("GET /%s: %d", url, w.status)
		}
	}
	var text bytes.Buffer
	get(string(b.HashPart())+".narinfo", &text)
	n, err := narinfo.Parse(text.Bytes())
	if err != nil {
		s.Errorf("narinfo of %s: %v", b, err)
		return
	}
	if n.StorePath.Base != b || n.NarHash != s.cache.items[b].nar || len(n.Sigs) == 0 {
		s.Errorf("served %s", n.Raw)
	}
	for _, f := range n.Files {
		var body hashed
		if get(f.URL, &body); s.cache.files[body.sum()] != n.NarHash {
			s.Errorf("%s of %s is served with %d bytes that are no file of its nar", f.URL, b, body.size)
		}
	}
}

// streamed is a ResponseWriter that keeps no body.
type streamed struct {
	header http.Header
	status int
	body   io.Writer
}

func (r *streamed) Header() http.Header         { return r.header }
func (r *streamed) WriteHeader(status int)      { r.status = status }
func (r *streamed) Write(p []byte) (int, error) { return r.body.Write(p) }

// hashed is a body of which only the size and the hash are kept.
type hashed struct {
	hash hash.Hash
	size int64
}

func (h *hashed) Write(p []byte) (int, error) {
	if h.hash == nil {
		h.hash = sha256.New()
	}
	h.size += int64(len(p))
	return h.hash.Write(p)
}

func (h *hashed) sum() (d digest.SHA256) {
	if h.hash == nil {
		return digest.Of(nil)
	}
	h.hash.Sum(d[:0])
	return d
}

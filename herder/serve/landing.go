package serve

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/httpfront"
	"narfold/internal/storepath"
)

//go:embed landing.html
var landingText string

var landingPage = template.Must(template.New("landing").Parse(landingText))

// landing tells a person how to use this server.
func (s *Server) landing(w http.ResponseWriter, r *http.Request) {
	sum, err := s.summary.get(r.Context(), s.Catalogue)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	scheme := "http"
	// Whoever forges this field deceives only himself: the page is not kept by caches.
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	page := struct {
		URL          string
		Items        int64
		Bytes, Nars  string
		Guix         bool
		GuixKey      string
		NixKeys      []string
		NixDirs      []storepath.Dir
		UnusualStore bool
	}{URL: scheme + "://" + r.Host, Items: sum.Items, Bytes: size(sum.Bytes), Nars: size(sum.NarBytes), NixKeys: s.Keys.Nix, GuixKey: string(s.Keys.Guix)}
	// A kind of client is told of if there is something for it, or while there is nothing at all.
	page.Guix = sum.Dirs[storepath.Guix] > 0 || sum.Items == 0 && s.Keys.Guix != nil
	for d := range sum.Dirs {
		if d != storepath.Guix {
			page.NixDirs = append(page.NixDirs, d)
			page.UnusualStore = page.UnusualStore || d != storepath.Nix
		}
	}
	if sum.Items == 0 && len(s.Keys.Nix) > 0 {
		page.NixDirs = []storepath.Dir{storepath.Nix}
	}
	var b bytes.Buffer
	if err := landingPage.Execute(&b, page); err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	w.Write(b.Bytes())
}

// size writes bytes for people, in powers of 1024.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, units := float64(n)/1024, "KMGTP"
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", v, units[0])
}

// summaryCache keeps the counts, which are a walk over whole tables: one at a time, and at most one in ten seconds, however much is
// published and asked meanwhile. Only an empty catalogue is counted again as soon as it changes, since the first import decides
// what clients are told of the store directory.
type summaryCache struct {
	mu       sync.Mutex
	at       time.Time // of last; zero if there is none
	last     catalog.Counts
	stale    bool // an empty catalogue that has changed
	counting bool
}

func (c *summaryCache) get(ctx context.Context, from Catalogue) (catalog.Counts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && !c.stale && (c.counting || time.Since(c.at) < 10*time.Second) {
		return c.last, nil
	}
	c.counting, c.stale = true, false
	c.mu.Unlock()
	sum, err := from.Counts(ctx)
	c.mu.Lock()
	c.counting = false
	if err != nil {
		c.at = time.Time{}
		return catalog.Counts{}, err
	}
	c.last, c.at = sum, time.Now()
	return sum, nil
}

// changed says that something was published or withdrawn.
func (c *summaryCache) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = c.stale || c.last.Items == 0
}

// counters count what was served since the start.
type counters struct {
	narinfoHits, narinfoMisses, narHits, redirects, files atomic.Int64
}

// Counters is a reading of what was served since New.
type Counters struct {
	NarinfoHits, NarinfoMisses, Nars, Redirects, Files int64
}

// Counters reads the counters.
func (s *Server) Counters() Counters {
	c := &s.counters
	return Counters{NarinfoHits: c.narinfoHits.Load(), NarinfoMisses: c.narinfoMisses.Load(), Nars: c.narHits.Load(), Redirects: c.redirects.Load(), Files: c.files.Load()}
}

var _ httpfront.Plain = (*Server)(nil)

// Plus adds two readings.
func (c Counters) Plus(d Counters) Counters {
	return Counters{NarinfoHits: c.NarinfoHits + d.NarinfoHits, NarinfoMisses: c.NarinfoMisses + d.NarinfoMisses, Nars: c.Nars + d.Nars,
		Redirects: c.Redirects + d.Redirects, Files: c.Files + d.Files}
}

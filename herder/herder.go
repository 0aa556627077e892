// Package herder is the nar store: it keeps what was published, takes what publishers put, and serves it to Guix and Nix.
package herder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"narfold/herder/check"
	"narfold/herder/feedserver"
	"narfold/herder/publish"
	"narfold/herder/room"
	"narfold/herder/serve"
	"narfold/herder/tally"
	"narfold/herder/upload"
	"narfold/internal/httpfront"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// Herder is a running nar store. Make it with New.
type Herder struct {
	server     *switchboard
	quarantine *serve.Quarantine
	tally      *tally.Tally                             // nil if nobody is told
	missed     func(storepath.HashPart) <-chan struct{} // may be nil
	uploads    *upload.Uploads
	queue      *publish.Queue
	feed       *feedserver.Server // nil if none is served
	scrub      *scrubbing         // nil if nothing is checked
	front      *httpfront.Server
	metrics    *prometheus.Registry
	debug      net.Listener
	log        *slog.Logger
}

// Parts are what a herder is made of.
type Parts struct {
	Serve     serve.Config
	Publisher *publish.Publisher
	Uploads   *upload.Uploads // its Queue is set here
	// Feed, if not nil, keeps the change feed and serves it below /feed.
	Feed *feedserver.Server
	// Check, if not nil, is run again and again. What it finds is told here.
	Check *check.Scrub
	// Popularity, if not nil, is told what is asked for.
	Popularity tally.Recorder
	// Debug, if not nil, serves pprof and metrics beside; it is for a loopback address.
	Debug net.Listener
	// Missed, if not nil, is told of each item whose narinfo is asked for in vain: see serve.Config.
	Missed func(storepath.HashPart) <-chan struct{}
	// Metrics are those of what works beside: /metrics shows them too.
	Metrics []prometheus.Collector
	Log     *slog.Logger
}

// New builds a herder.
func New(p Parts) (*Herder, error) {
	var counting *tally.Tally
	if p.Popularity != nil {
		counting = tally.New(p.Popularity, p.Log)
		p.Serve.Served = counting.Served
	}
	quarantine := new(serve.Quarantine)
	p.Serve.Quarantine, p.Serve.Missed = quarantine, p.Missed
	first, err := serve.New(p.Serve)
	if err != nil {
		return nil, err
	}
	server := newSwitchboard(first)
	h := &Herder{server: server, quarantine: quarantine, tally: counting, missed: p.Missed, uploads: p.Uploads, queue: publish.NewQueue(p.Publisher), feed: p.Feed, debug: p.Debug, log: p.Log}
	h.uploads.Queue = h.queue
	if p.Check != nil {
		h.scrub = newScrubbing(p.Check, quarantine, p.Log)
	}
	mux := http.NewServeMux()
	h.metrics = prometheus.NewRegistry()
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.ready(p.Serve.Catalogue))
	if h.feed != nil {
		h.feed.Register(mux)
	}
	mux.Handle("/", publishapi.Handler(h.uploads, server, p.Log))
	h.front, err = httpfront.New(httpfront.Config{
		Plain: server,
		HTTP:  &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)},
		Log:   p.Log,
	})
	if err != nil {
		return nil, err
	}
	if h.scrub != nil {
		h.metrics.MustRegister(h.scrub)
	}
	h.metrics.MustRegister(&collector{server: server, front: h.front, catalogue: p.Serve.Catalogue, uploads: p.Uploads})
	for _, c := range p.Metrics {
		h.metrics.MustRegister(c)
	}
	return h, nil
}

// ready answers whether requests can be answered: the catalogue is asked. It tells too if there is little room for uploads.
func (h *Herder) ready(c serve.Catalogue) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if _, err := c.Version(ctx); err != nil {
			h.log.Error("not ready", "error", err)
			http.Error(w, "catalogue cannot be read", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
		// Reading goes on without room, so that this does not change the status.
		if v, _, err := h.uploads.Room(); err == nil && v.Level() != room.Plenty {
			fmt.Fprintf(w, "uploads are %s: %s\n", map[room.Level]string{room.Scarce: "slowed", room.None: "refused"}[v.Level()], v.Message())
		}
	}
}

// Run serves on the listeners until ctx ends, lets what has begun finish, and returns when everything has ended. It closes the
// listeners. Uploads are finished before publishing stops.
func (h *Herder) Run(ctx context.Context, listeners ...net.Listener) error {
	// What publishes must outlive what hands in: the server stops first.
	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublishing()
	behind, _ := errgroup.WithContext(publishing)
	behind.Go(func() error { return h.queue.Run(publishing) })
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.server.Run(gctx) })
	g.Go(func() error { return h.uploads.Run(gctx) })
	if h.feed != nil {
		g.Go(func() error { return h.feed.Run(gctx) })
	}
	if h.scrub != nil {
		g.Go(func() error { return h.scrub.run(gctx) })
	}
	if h.tally != nil {
		// Until nothing is served any more.
		behind.Go(func() error { return h.tally.Run(publishing) })
	}
	g.Go(func() error { return h.front.Serve(gctx, listeners...) })
	if h.debug != nil {
		g.Go(func() error { return h.serveDebug(gctx) })
	}
	err := g.Wait()
	stopPublishing()
	return errors.Join(err, behind.Wait())
}

package herder

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	"narfold/herder/serve"
	"narfold/internal/httpfront"
)

// switchboard hands requests to the server in force, so that what clients are told may change while it runs.
type switchboard struct {
	current atomic.Pointer[serve.Server]
	changed chan struct{} // has room for one: a change that Run has not seen

	mu   sync.Mutex
	past serve.Counters // of servers that are no longer in force
}

func newSwitchboard(s *serve.Server) *switchboard {
	b := &switchboard{changed: make(chan struct{}, 1)}
	b.current.Store(s)
	return b
}

// Answer implements httpfront.Plain.
func (b *switchboard) Answer(r *httpfront.Request, a *httpfront.Answer) bool {
	return b.current.Load().Answer(r, a)
}

// ServeHTTP implements http.Handler.
func (b *switchboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.current.Load().Handler().ServeHTTP(w, r)
}

func (b *switchboard) change(s *serve.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.current.Swap(s)
	b.past = b.past.Plus(old.Counters())
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *switchboard) counters() serve.Counters {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.past.Plus(b.current.Load().Counters())
}

// Run keeps the caches of the server in force true until ctx ends.
func (b *switchboard) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- b.current.Load().Run(running) }()
		select {
		case <-b.changed:
		case <-ctx.Done():
		}
		stop()
		if err := <-ended; err != nil {
			return err
		}
	}
	return nil
}

// Reload changes what clients are told from now on. Requests that have begun end as they began.
func (h *Herder) Reload(cfg serve.Config) error {
	cfg.Quarantine, cfg.Missed = h.quarantine, h.missed
	if h.tally != nil {
		cfg.Served = h.tally.Served
	}
	s, err := serve.New(cfg)
	if err != nil {
		return err
	}
	h.server.change(s)
	return nil
}

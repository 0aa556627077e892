package serve

import (
	"context"
	"errors"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

const (
	// missWait is how long a request for a narinfo waits for what is being brought. Nix remembers for an hour that an item is not
	// there, so that to wait is worth while; Guix says after five seconds that it waits, and goes on waiting.
	missWait = 10 * time.Second
	// missLook is how often it looks meanwhile.
	missLook = 200 * time.Millisecond
)

// coming tells whoever may bring it that an item was asked for in vain, and returns what closes when it is here, or not to be had; nil
// if nobody brings it.
func (s *Server) coming(h storepath.HashPart) <-chan struct{} {
	if s.Missed == nil {
		return nil
	}
	return s.Missed(h)
}

// await looks up an item that is not here yet and may be brought.
func (s *Server) await(ctx context.Context, h storepath.HashPart) (*prepared, error) {
	settled := s.coming(h)
	if settled == nil {
		return nil, catalog.ErrNotFound
	}
	patience, look := time.NewTimer(missWait), time.NewTicker(missLook)
	defer patience.Stop()
	defer look.Stop()
	for last := false; ; {
		select {
		case <-settled:
			last = true
		case <-patience.C:
			last = true
		case <-look.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		p, err := s.lookUp(ctx, h)
		if !errors.Is(err, catalog.ErrNotFound) || last {
			return p, err
		}
	}
}

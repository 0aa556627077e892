package httpfront

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Serve answers on the listeners until ctx is cancelled or a listener fails, and returns after every goroutine and connection of
// it has ended. It closes the listeners. When ctx is cancelled idle connections are closed at once, answers that have begun may
// finish within Grace, then everything is cut; Serve then returns nil. Handlers that do not return when their request's context
// is done keep Serve from returning.
//
// A listener of tls.NewListener gives its connections to net/http directly, with HTTP/2 if its configuration has "h2" in
// NextProtos. A handler that hijacks a TLS connection has to close it itself, as with net/http.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	if s.served.Swap(true) {
		return ErrServed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	stopSweep, swept := make(chan struct{}), make(chan struct{})
	go func() { defer close(swept); s.sweep(stopSweep) }()
	httpDone := make(chan error, 1)
	go func() { httpDone <- s.http.Serve(s.toHTTP) }()
	accepts := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			err := s.accept(ctx, l)
			if err != nil {
				cancel(err)
			}
			accepts <- err
		}()
	}
	<-ctx.Done()
	s.stopping.Store(true)
	for _, l := range listeners {
		l.Close()
	}
	var failed []error
	for range listeners {
		if err := <-accepts; err != nil {
			failed = append(failed, err)
		}
	}
	s.drain(context.WithoutCancel(ctx))
	if err := <-httpDone; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		failed = append(failed, fmt.Errorf("serve through net/http: %w", err))
	}
	close(stopSweep)
	<-swept
	return errors.Join(failed...)
}

// drain lets answers finish, then cuts what is left, and waits for all of it.
func (s *Server) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Grace)
	defer cancel()
	s.closeIdle()
	ended := make(chan struct{})
	go func() { s.wg.Wait(); close(ended) }()
	err := s.http.Shutdown(ctx)
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.log.Warn("connections cut at the end of the grace", "connections", s.stats.open.Load(), "grace", s.cfg.Grace)
	}
	close(s.dead)
	s.http.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	<-ended
	s.handlers.Wait()
}

// accept takes connections from l until ctx is done.
func (s *Server) accept(ctx context.Context, l net.Listener) error {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.welcome(nc)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		// Out of descriptors or memory: what is idle can give some back.
		s.evict()
		pause = min(max(5*time.Millisecond, 2*pause), time.Second)
		s.log.Warn("accept is held up", "listen", l.Addr(), "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// passing says whether an error of Accept may be over in a while.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// welcome starts a connection, or refuses it.
func (s *Server) welcome(nc net.Conn) {
	n := s.stats.accepted.Add(1)
	if s.stats.open.Load() >= int64(s.cfg.MaxConns) && !s.evict() {
		s.stats.refused.Add(1)
		select {
		case s.refusing <- struct{}{}:
			s.wg.Go(func() {
				var in input
				refuse(nc, &in, s.cfg.LingerTimeout)
				in.rest()
				<-s.refusing
			})
		default:
			nc.Close()
		}
		return
	}
	c := &conn{s: s, nc: nc, shard: &s.stats.shards[n%shards]}
	_, c.tls = nc.(*tls.Conn)
	c.setPhase(phaseBusy)
	s.wg.Add(1) // ended by forget
	s.stats.open.Add(1)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	if c.tls {
		s.byNet[nc] = c
	}
	s.mu.Unlock()
	if !c.tls {
		c.sock = newSock(c, nc)
		go c.run()
		return
	}
	s.stats.shards[n%shards].lent.Add(1)
	if !s.toHTTP.give(nc) {
		nc.Close()
		s.connState(nc, http.StateClosed)
	}
}

// forget ends the account of c.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.stats.open.Add(-1)
	s.wg.Done()
}

const refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n" +
	"Retry-After: 1\r\nConnection: close\r\n\r\nbusy\n"

// refuse tells the client to come back later, and closes.
func refuse(nc net.Conn, in *input, d time.Duration) {
	defer nc.Close()
	if nc.SetWriteDeadline(time.Now().Add(d)) != nil {
		return
	}
	if _, err := nc.Write([]byte(refusal)); err == nil {
		linger(nc, in, d)
	}
}

package httpfront

import (
	"net"
	"time"
)

// The sweep is one goroutine that moves the clock and enforces every time limit of the fast loop, so that requests set no
// deadlines. Limits are therefore kept to within one interval of it.

// watch is what the sweep knows of a client with unread answers.
type watch struct {
	next  int64 // when to ask the kernel again, by Server.now
	since int64 // when it was found with unread answers; 0 if it was not
	taken int64 // what it had taken then
}

// interval is how often the sweep runs: often enough for the date, and for each limit to be exact to a quarter.
func (s *Server) interval() time.Duration {
	d := min(500*time.Millisecond, s.cfg.HeaderTimeout/4, s.cfg.IdleTimeout/4, s.cfg.StallTimeout/4)
	return max(d, time.Millisecond)
}

func (s *Server) tick(now time.Time) {
	s.now.Store(max(1, now.Sub(s.start).Milliseconds()))
	if t := s.tail.Load(); t == nil || t.second != now.Unix() {
		s.tail.Store(newTails(now))
	}
}

// sweep runs until stop is closed.
func (s *Server) sweep(stop <-chan struct{}) {
	t := time.NewTicker(s.interval())
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			s.tick(time.Now())
			s.sweepOnce()
		}
	}
}

func (s *Server) sweepOnce() {
	now := s.now.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		mark := c.mark.Load()
		age := time.Duration(now-mark>>3) * time.Millisecond
		switch p := phase(mark & 7); p {
		case phaseIdle, phaseHeader:
			c.watch = watch{}
			limit := s.cfg.IdleTimeout
			if p == phaseHeader {
				limit = s.cfg.HeaderTimeout
			}
			if age >= limit && c.mark.CompareAndSwap(mark, int64(phaseClosing)) {
				if p == phaseHeader {
					s.stats.slow.Add(1)
				}
				c.nc.Close()
			}
		case phaseBusy, phaseWrite:
			s.watchWrites(c, p, now)
		}
	}
}

// watchWrites closes c if its client has taken less than it must in the time that it has.
func (s *Server) watchWrites(c *conn, p phase, now int64) {
	w := &c.watch
	if now < w.next {
		return
	}
	pause := s.cfg.StallTimeout
	defer func() { w.next = now + pause.Milliseconds() }()
	taken, waiting, known := acknowledged(c.socket())
	if !known {
		taken, waiting = c.sent.Load(), p == phaseWrite
	}
	if !waiting {
		w.since = 0
		pause /= 4 // answers may begin at any time, and the kernel is not to be asked too often
		return
	}
	if w.since != 0 && taken-w.taken < s.cfg.StallBytes {
		s.stats.stalled.Add(1)
		s.log.Info("connection cut", "remote", c.nc.RemoteAddr(), "reason", "client takes nothing", "sent", c.sent.Load())
		c.cut()
		return
	}
	w.since, w.taken = now, taken
}

// socket is what the kernel knows c by.
func (c *conn) socket() net.Conn {
	if t, ok := c.nc.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c.nc
}

// cut closes c at once and throws away what the kernel still holds for it.
func (c *conn) cut() {
	nc := c.socket()
	if l, ok := nc.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	nc.Close()
}

// closeIdle closes the connections that wait for a request.
func (s *Server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.closeIf(phaseIdle)
	}
}

// closeIf closes c if it is in phase p, and says whether it did.
func (c *conn) closeIf(p phase) bool {
	mark := c.mark.Load()
	if phase(mark&7) != p || !c.mark.CompareAndSwap(mark, int64(phaseClosing)) {
		return false
	}
	c.nc.Close()
	return true
}

// evictSample is how many idle connections are compared to find an old one.
const evictSample = 32

// evict closes a connection that has been idle for long, among a random sample, and says whether there was one.
func (s *Server) evict() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *conn
	seen, looked := 0, 0
	for c := range s.conns {
		if looked++; looked > 64*evictSample {
			break
		}
		if c.phase() != phaseIdle {
			continue
		}
		if oldest == nil || c.mark.Load() < oldest.mark.Load() {
			oldest = c
		}
		if seen++; seen == evictSample {
			break
		}
	}
	if oldest == nil || !oldest.closeIf(phaseIdle) {
		return false
	}
	s.stats.evicted.Add(1)
	return true
}

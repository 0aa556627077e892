package httpfront

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// handoff is the listener from which net/http takes the connections that are lent to it.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff { return &handoff{conns: make(chan net.Conn), done: make(chan struct{})} }

// give offers nc to net/http and says whether it was taken.
func (l *handoff) give(nc net.Conn) bool {
	select {
	case l.conns <- nc:
		return true
	case <-l.done:
		return false
	}
}

func (l *handoff) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *handoff) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *handoff) Addr() net.Addr { return handoffAddr{} }

type handoffAddr struct{}

func (handoffAddr) Network() string { return "internal" }
func (handoffAddr) String() string  { return "httpfront" }

// lent is a connection in net/http's hands. For good, it is the connection with what the fast loop had read in front. For one
// request, it holds only that request, and what the client sends meanwhile is kept. When net/http has answered and would read
// the next request, it is given that if it is there already and is not for the fast loop either, because lending costs as much
// as several answers of net/http; otherwise it is told that the input has ended. It then closes lent, but not the connection.
type lent struct {
	net.Conn
	c        *conn  // waits in handOver; next works on it meanwhile
	pre      []byte // still to be read by net/http
	single   bool
	in       input // what follows the one request
	idle     atomic.Bool
	back     atomic.Bool // the connection returns to the fast loop
	hijacked atomic.Bool
	taken    chan struct{} // closed when hijacked
	wake     chan struct{}
	done     chan struct{}
	ended    sync.Once
}

// handOver has net/http answer: the next size bytes, which are one whole request, or everything from here on if size is 0. It
// says whether the connection came back.
func (c *conn) handOver(size int) bool {
	h := &lent{Conn: c.nc, c: c, single: size > 0, wake: make(chan struct{}, 1), done: make(chan struct{}), taken: make(chan struct{})}
	unread := c.in.unread()
	if h.single {
		h.pre = bytes.Clone(unread[:size])
		c.in.r += size
		h.in, c.in = c.in, input{}
		h.in.rest()
	} else {
		h.pre = bytes.Clone(unread)
		c.in.r = c.in.w
		c.in.rest()
	}
	c.seen, c.from = 0, 0
	c.tally.lent++
	c.tallyUp()
	c.setPhase(phaseBusy)
	c.s.wg.Add(1) // ended by connState
	if !c.s.toHTTP.give(h) {
		c.s.wg.Done()
		refuse(c.nc, &c.in, c.s.cfg.LingerTimeout)
		return false
	}
	select {
	case <-h.done:
	case <-c.s.dead: // the connection has been, or is being, closed: net/http ends, or its hijacker does in his own time
		select {
		case <-h.done:
		case <-h.taken:
			return false
		}
	}
	if !h.back.Load() || c.nc.SetDeadline(time.Time{}) != nil {
		h.in.r = h.in.w
		h.in.rest()
		return false
	}
	c.in = h.in
	return true
}

// connState follows what net/http does with what was lent to it.
func (s *Server) connState(nc net.Conn, st http.ConnState) {
	h, ok := nc.(*lent)
	switch {
	case ok && st == http.StateIdle:
		h.idle.Store(true)
	case ok && st == http.StateHijacked:
		h.hijacked.Store(true)
		close(h.taken)
		s.wg.Done()
	case ok && st == http.StateClosed:
		h.end()
		s.wg.Done()
	case !ok && (st == http.StateHijacked || st == http.StateClosed):
		s.mu.Lock()
		c := s.byNet[nc]
		delete(s.byNet, nc)
		s.mu.Unlock()
		if c != nil {
			s.forget(c)
		}
	}
}

func (h *lent) end() { h.ended.Do(func() { close(h.done) }) }

func (h *lent) Read(p []byte) (int, error) {
	if len(h.pre) > 0 {
		n := copy(p, h.pre)
		h.pre = h.pre[n:]
		return n, nil
	}
	if !h.single {
		return h.Conn.Read(p)
	}
	if h.hijacked.Load() {
		if len(h.in.unread()) > 0 {
			n := copy(p, h.in.unread())
			h.in.r += n
			return n, nil
		}
		return h.Conn.Read(p)
	}
	if h.idle.Load() {
		if size := h.next(); size > 0 {
			h.pre = append(h.pre[:0], h.in.unread()[:size]...)
			h.in.r += size
			h.idle.Store(false)
			return h.Read(p)
		}
		h.back.Store(true)
		return 0, io.EOF
	}
	return 0, h.watch()
}

// next is the size of the request that was kept, if it is complete and for net/http again; 0 if the fast loop goes on. If Plain
// answers it, the fast loop finds the answer ready.
func (h *lent) next() int {
	c := h.c
	var p parsed
	switch parse(h.in.unread(), &p, &c.memo) {
	case once:
	case plain:
		c.req = Request{Head: p.head, Path: p.path, Host: p.host}
		if c.ready = c.s.cfg.Plain.Answer(&c.req, &c.ans); c.ready {
			return 0
		}
		c.ans = Answer{}
	default:
		return 0
	}
	c.shard.lent.Add(1)
	return p.size
}

// watch reads on behalf of net/http while a handler runs, to notice when the client goes away, and keeps what it reads. It
// returns when net/http no longer wants to know, or when the connection has ended.
func (h *lent) watch() error {
	var buf [512]byte
	for {
		room := h.in.room()
		if len(room) == 0 {
			<-h.wake
			return os.ErrDeadlineExceeded
		}
		h.in.rest()
		n, err := h.Conn.Read(buf[:min(len(buf), len(room))])
		if n > 0 {
			h.in.w += copy(h.in.room(), buf[:n])
		}
		if err != nil {
			return err
		}
	}
}

func (h *lent) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := h.Conn.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{h.Conn}, r)
}

func (h *lent) CloseWrite() error {
	if w, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

func (h *lent) SetReadDeadline(t time.Time) error {
	err := h.Conn.SetReadDeadline(t)
	if !t.IsZero() && !t.After(time.Now()) {
		h.rouse()
	}
	return err
}

func (h *lent) Close() error {
	h.rouse()
	if h.back.Load() {
		return nil
	}
	err := h.Conn.Close()
	if h.hijacked.Load() {
		h.end()
	}
	return err
}

func (h *lent) rouse() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

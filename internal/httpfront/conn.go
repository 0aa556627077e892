package httpfront

import (
	"net"
	"sync/atomic"
	"time"
)

// phase says what a connection is waiting for, which decides how long it may.
type phase uint8

const (
	phaseBusy    phase = iota // for us: Plain, or net/http with limits of its own
	phaseIdle                 // for a request to begin
	phaseHeader               // for the rest of a header
	phaseWrite                // for the client to take what was sent
	phaseClosing              // for nothing: the sweep or the stop has closed it
)

// conn is a connection in the fast loop, or lent to net/http. Everything but the atomics belongs to the goroutine in run.
type conn struct {
	s    *Server
	nc   net.Conn
	sock sock
	tls  bool

	mark atomic.Int64 // since when (Server.now) << 3 | phase
	sent atomic.Int64

	in   input
	out  *[outSize]byte
	n    int   // bytes in out
	seen int   // bytes of a partial header that parse has seen
	from int64 // when that header began, by Server.now; 0 if there is none

	memo memo
	req  Request
	ans  Answer
	ex   Exchange

	ready bool // ans is the answer to the first request in in, which lent.next asked for

	shard *shard
	tally tally

	watch watch // the sweep's
}

func (c *conn) phase() phase { return phase(c.mark.Load() & 7) }

func (c *conn) setPhase(p phase) { c.mark.Store(c.s.now.Load()<<3 | int64(p)) }

// claim leaves phase p for busy, and fails if the sweep was faster and has closed the connection.
func (c *conn) claim(p phase) bool {
	old := c.mark.Load()
	return phase(old&7) == p && c.mark.CompareAndSwap(old, int64(phaseBusy))
}

// run answers requests until the connection ends.
func (c *conn) run() {
	defer c.s.forget(c)
	defer c.nc.Close()
	for c.step() {
	}
	c.tallyUp()
	if c.ready && c.ans.Release != nil {
		c.ans.Release()
	}
	if c.in.buf != nil {
		c.in.r, c.in.w = 0, 0
		c.in.rest()
	}
	c.dropOut()
}

// step answers everything complete that was read, and reads more. It says whether the connection goes on.
func (c *conn) step() bool {
	for c.in.r < c.in.w {
		b := c.in.unread()
		if c.seen > 2048 && len(b) < inSize && !ended(b, c.seen) {
			c.seen = len(b)
			break
		}
		var p parsed
		switch v := parse(b, &p, &c.memo); v {
		case partial:
			c.seen = len(b)
			if len(b) == inSize {
				return c.flush(false) == nil && c.handOver(0)
			}
		case plain:
			c.seen, c.from = 0, 0
			c.req = Request{Head: p.head, Path: p.path, Host: p.host}
			if ready := c.ready; ready {
				c.ready = false
			} else if !c.s.cfg.Plain.Answer(&c.req, &c.ans) {
				c.ans = Answer{}
				if c.flush(false) != nil || !c.handOver(p.size) {
					return false
				}
				continue
			}
			c.in.r += p.size
			end := p.close || c.s.stopping.Load()
			if c.answer(end) != nil {
				return false
			}
			if end {
				c.linger()
				return false
			}
			continue
		case once:
			c.seen, c.from = 0, 0
			if c.flush(false) != nil || !c.handOver(p.size) {
				return false
			}
			continue
		case forGood:
			return c.flush(false) == nil && c.handOver(0)
		}
		break
	}
	if c.flush(false) != nil {
		return false
	}
	return c.more()
}

// more waits for input. The time of a header is counted from its first byte.
func (c *conn) more() bool {
	waiting := phaseIdle
	if c.in.r < c.in.w {
		waiting = phaseHeader
		if c.from == 0 {
			c.from = c.s.now.Load()
		}
		c.mark.Store(c.from<<3 | int64(phaseHeader))
	} else {
		c.seen = 0
		c.setPhase(phaseIdle)
		if c.s.stopping.Load() {
			return false
		}
	}
	return c.sock.read(&c.in) == nil && c.claim(waiting)
}

// answer queues c.ans, sends what cannot wait, and releases it.
func (c *conn) answer(end bool) error {
	a := &c.ans
	t := c.s.tail.Load()
	tail := t.keep
	if end {
		tail = t.end
	}
	body, file := a.Body, a.File
	if c.req.Head {
		body, file = nil, nil
	}
	before := c.sent.Load() + int64(c.n)
	err := c.queue(a.Header, tail, body)
	if err == nil && file != nil {
		err = c.queueFile(a)
	}
	size := c.sent.Load() + int64(c.n) - before
	if err == nil && end {
		err = c.flush(false)
	}
	if a.Release != nil {
		a.Release()
	}
	status := statusOf(a.Header)
	c.tally.add(status, size)
	if f := c.s.cfg.OnAnswer; f != nil {
		c.ex = Exchange{Remote: c.nc.RemoteAddr(), Head: c.req.Head, Path: c.req.Path, Status: status, Bytes: size, Cut: err != nil}
		f(&c.ex)
	}
	*a = Answer{}
	return err
}

// queue adds a header and a body in memory to the batch.
func (c *conn) queue(header, tail, body []byte) error {
	for _, p := range [...][]byte{header, tail} {
		if err := c.queueBytes(p); err != nil {
			return err
		}
	}
	return c.queueBytes(body)
}

func (c *conn) queueBytes(p []byte) error {
	if len(p) > outSize-c.n {
		if err := c.flush(true); err != nil {
			return err
		}
	}
	if len(p) > copyMax {
		if err := c.flush(true); err != nil {
			return err
		}
		return c.sock.send(p, false)
	}
	if c.out == nil {
		c.out = outPool.Get().(*[outSize]byte)
	}
	c.n += copy(c.out[c.n:], p)
	return nil
}

// queueFile adds a small file to the batch, and sends a large one behind it.
func (c *conn) queueFile(a *Answer) error {
	if a.Length <= copyMax && a.Length <= outSize-int64(c.n) {
		n, err := a.File.ReadAt(c.out[c.n:c.n+int(a.Length)], a.Offset)
		if int64(n) < a.Length {
			return short(a.File, a.Offset+int64(n), err)
		}
		c.n += n
		return nil
	}
	if err := c.flush(true); err != nil {
		return err
	}
	if c.s.cfg.OnAnswer == nil { // which is shown the path
		c.in.rest()
	}
	return c.sock.sendFile(a.File, a.Offset, a.Length)
}

// flush sends the batch.
func (c *conn) flush(more bool) error {
	if c.n == 0 {
		return nil
	}
	p := c.out[:c.n]
	c.n = 0
	err := c.sock.send(p, more)
	if !more {
		c.dropOut()
		c.tallyUp()
	}
	return err
}

func (c *conn) dropOut() {
	if c.out != nil {
		outPool.Put(c.out)
		c.out = nil
	}
	c.n = 0
}

// lingerMax bounds what is read from a client that was told that the connection closes.
const lingerMax = 256 << 10

// linger closes the sending side and reads until the client closes too, because the kernel answers unread input with a reset,
// which may overtake the answer.
func (c *conn) linger() {
	linger(c.nc, &c.in, c.s.cfg.LingerTimeout)
}

func linger(nc net.Conn, in *input, d time.Duration) {
	w, ok := nc.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	if nc.SetReadDeadline(time.Now().Add(d)) != nil {
		return
	}
	in.r, in.w = 0, 0
	for buf, got := in.room(), 0; got < lingerMax; {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		got += n
	}
}

package main

import (
	"fmt"
	"sync"
	"time"
)

const (
	// drawEvery is how often a terminal's line is drawn: fast enough to look alive, slow enough to be read.
	drawEvery = 250 * time.Millisecond
	// sayEvery is how often a line is written where there is no terminal.
	sayEvery = 10 * time.Second
)

// work is an amount of what a command does.
type work struct {
	items int64
	bytes int64
}

// progress tells people how far a command has come. On a terminal it draws one line, elsewhere it writes a line (an event if the
// log is JSON) every ten seconds, and with --quiet it is silent. Its methods may be called by several goroutines.
type progress struct {
	inv  *invocation
	what string

	mu    sync.Mutex
	meter meter
	why   string    // it stands still
	until time.Time // when that is over

	stopOnce sync.Once
	stopped  chan struct{}
	drawer   sync.WaitGroup
}

// progress begins to tell of what, a verb such as "import". Call stop on it before the command's last words.
func (inv *invocation) progress(what string) *progress {
	p := &progress{inv: inv, what: what, stopped: make(chan struct{})}
	p.meter.observe(time.Now())
	if inv.quiet {
		return p
	}
	p.drawer.Go(p.run)
	return p
}

// expect adds to the work that is known to lie ahead, done parts included. Without it no time left is told.
func (p *progress) expect(w work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meter.total.items += w.items
	p.meter.total.bytes += w.bytes
}

// did adds to the work that is done.
func (p *progress) did(w work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meter.done.items += w.items
	p.meter.done.bytes += w.bytes
}

// waits says that the work, or part of it, stands still for a while, and why.
func (p *progress) waits(why error, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why, p.until = why.Error(), time.Now().Add(pause)
}

// stop ends the telling, clears the line, and waits until that is done. It may be called again.
func (p *progress) stop() {
	p.stopOnce.Do(func() { close(p.stopped) })
	p.drawer.Wait()
}

// run draws until stop. It is the only one to call observe after the beginning.
func (p *progress) run() {
	every := sayEvery
	if p.inv.stderr.terminal {
		every = drawEvery
		defer p.inv.stderr.draw("")
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.stopped:
			return
		case now := <-ticker.C:
			p.tell(now)
		}
	}
}

func (p *progress) tell(now time.Time) {
	p.mu.Lock()
	p.meter.observe(now)
	m := p.meter
	text, waiting := m.text(p.what), ""
	if now.Before(p.until) {
		waiting = p.why
		text += ", waiting: " + waiting
	}
	p.mu.Unlock()
	switch {
	case p.inv.stderr.terminal:
		p.inv.stderr.draw(fit(text, p.inv.stderr.width()-1)) // in the last column some terminals wrap
	case p.inv.jsonLog:
		left, _ := m.left()
		p.inv.log.Info("progress", "what", p.what, "items", m.done.items, "items_total", m.total.items,
			"bytes", m.done.bytes, "bytes_total", m.total.bytes, "bytes_per_second", int64(m.rate().bytes), "seconds_left", int64(left.Seconds()), "waiting", waiting)
	default:
		fmt.Fprintln(p.inv.stderr, text)
	}
}

// counted adds what is read or written through it to the bytes done.
func (p *progress) counted() countingWriter { return countingWriter{p} }

type countingWriter struct{ p *progress }

func (c countingWriter) Write(b []byte) (int, error) {
	c.p.did(work{bytes: int64(len(b))})
	return len(b), nil
}

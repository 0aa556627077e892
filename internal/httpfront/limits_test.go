package httpfront

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// closedAfter reports how long after now the server closes c, reading what comes before.
func closedAfter(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("read %q, %v", got, err)
	}
	return time.Since(start)
}

func within(t *testing.T, what string, got, want, slack time.Duration) {
	t.Helper()
	if got < want || got > want+slack {
		t.Errorf("%s after %s, want %s", what, got, want)
	}
}

func TestAHeaderThatDripsIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s, _, stop := start(t, Config{Plain: newTwin(t), HeaderTimeout: 8 * time.Second}, l)
		defer stop()
		c := l.dial()
		begin := time.Now()
		for _, b := range get("/a") {
			if _, err := io.WriteString(c, string(b)); err != nil {
				break
			}
			time.Sleep(time.Second) // the bubble's clock
		}
		within(t, "cut", time.Since(begin), 8*time.Second, 2*time.Second)
		if st := s.Stats(); st.Slow != 1 {
			t.Errorf("stats are %+v", st)
		}
	})
}

func TestAnIdleConnectionIsClosedAndOneInUseIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		_, _, stop := start(t, Config{Plain: newTwin(t), IdleTimeout: 20 * time.Second}, l)
		defer stop()
		fresh := l.dial()
		within(t, "closed before a request", closedAfter(t, fresh), 20*time.Second, time.Second)
		c := l.dial()
		r := bufio.NewReader(c)
		for range 10 {
			time.Sleep(19 * time.Second)
			send(t, c, get("/a"))
			reply(t, r, "GET")
			send(t, c, get("/a?slow"))
			reply(t, r, "GET")
		}
		within(t, "closed after requests", closedAfter(t, c), 20*time.Second, time.Second)
	})
}

func TestAClientMayBeSlowButNotStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		st := newTwin(t)
		const size = 20 * copyMax
		st.file(t, "/long.nar", bytes.Repeat([]byte("l"), size))
		s, _, stop := start(t, Config{Plain: st, StallTimeout: 60 * time.Second}, l)
		defer stop()
		c := l.dial()
		send(t, c, get("/long.nar"))
		r := bufio.NewReaderSize(c, copyMax)
		got := 0
		for got < size/2 {
			time.Sleep(30 * time.Second)
			n, err := r.Read(make([]byte, copyMax))
			if err != nil {
				t.Fatalf("cut after %d bytes: %v", got, err)
			}
			got += n
		}
		time.Sleep(3 * time.Minute)
		rest, err := io.ReadAll(r)
		if err != nil || len(rest)+got >= size {
			t.Errorf("read %d bytes and %v after standing still", len(rest), err)
		}
		if st := s.Stats(); st.Stalled != 1 {
			t.Errorf("stats are %+v", st)
		}
	})
}

func TestAClientThatStopsReadingIsCut(t *testing.T) {
	st := newTwin(t)
	st.file(t, "/long.nar", make([]byte, 64<<20))
	cut := make(chan Exchange, 1)
	_, addr, _ := start(t, Config{Plain: st, StallTimeout: 50 * time.Millisecond, OnAnswer: func(e *Exchange) { cut <- *e }})
	c := dial(t, addr)
	send(t, c, get("/long.nar"))
	if e := <-cut; !e.Cut || e.Bytes >= 64<<20 || e.Status != 200 {
		t.Errorf("exchange is %+v", e)
	}
	// net/http's answers are under the same rule, without a WriteTimeout.
	slow := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.CopyN(w, zeros{}, 1<<30)
		slow <- err
	})
	_, addr, _ = start(t, Config{Plain: st, StallTimeout: 50 * time.Millisecond, HTTP: &http.Server{Handler: handler}})
	send(t, dial(t, addr), get("/unknown"))
	if err := <-slow; err == nil {
		t.Error("a gigabyte was sent to nobody")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// count is how many connections are in phase p.
func (s *Server) count(p phase) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.conns {
		if c.phase() == p {
			n++
		}
	}
	return n
}

func TestTooManyConnections(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, 9)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { held <- struct{}{}; <-hold })
	s, addr, _ := start(t, Config{Plain: newTwin(t), MaxConns: 2, HTTP: &http.Server{Handler: handler}})
	idle := dial(t, addr)
	send(t, idle, get("/a"))
	r := bufio.NewReader(idle)
	reply(t, r, "GET")
	busy := dial(t, addr)
	send(t, busy, get("/busy"))
	<-held
	for s.count(phaseIdle) == 0 { // the answer is read before the loop has come round
		runtime.Gosched()
	}

	t.Run("an idle one makes room", func(t *testing.T) {
		next := dial(t, addr)
		send(t, next, get("/busy"))
		<-held
		if n, err := r.Read(make([]byte, 1)); err == nil {
			t.Errorf("the idle connection gives %d bytes", n)
		}
	})
	t.Run("or a 503 is sent", func(t *testing.T) {
		c := dial(t, addr)
		send(t, c, get("/a"))
		resp, _ := reply(t, bufio.NewReader(c), "GET")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !resp.Close {
			t.Errorf("answer is %s %v", resp.Status, resp.Header)
		}
	})
	close(hold)
	if st := s.Stats(); st.Evicted != 1 || st.Refused != 1 {
		t.Errorf("stats are %+v", st)
	}
}

func TestAFileShorterThanItsAnswerEndsTheConnection(t *testing.T) {
	for _, size := range []int64{100, copyMax, 10 * copyMax} {
		st := newTwin(t)
		st.file(t, "/short.nar", make([]byte, size))
		st.heads["/short.nar"] = mustHead(t, 200, 2*size)
		long := longer(st)
		var got Exchange
		done := make(chan struct{})
		_, addr, _ := start(t, Config{Plain: long, HTTP: &http.Server{Handler: st}, OnAnswer: func(e *Exchange) { got = *e; close(done) }})
		c := dial(t, addr)
		send(t, c, get("/short.nar")+get("/a"))
		b, err := io.ReadAll(c)
		<-done
		if err == nil && int64(len(b)) > 2*size+300 || bytes.Contains(b, []byte("StorePath")) || !got.Cut {
			t.Errorf("size %d: %d bytes, %v, %+v", size, len(b), err, got)
		}
	}
}

// longer promises twice what its files hold.
type longer struct{ *store }

func (l longer) Answer(r *Request, a *Answer) bool {
	ok := l.store.Answer(r, a)
	a.Length *= 2
	return ok
}

func TestAnswersAllocateNothing(t *testing.T) {
	st := newTwin(t)
	_, addr, _ := start(t, Config{Plain: st})
	c := dial(t, addr)
	burst := []byte(strings.Repeat(get("/a"), 16) + strings.Repeat(get("/small.nar"), 4) + get("/big.nar"))
	send(t, c, string(burst))
	size := 0
	r := bufio.NewReader(io.TeeReader(c, writerFunc(func(p []byte) { size += len(p) })))
	for range 21 {
		reply(t, r, "GET")
	}
	buf := make([]byte, size)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(burst); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 4 { // the race detector makes pools forget a quarter of what they are given
		t.Errorf("%.1f allocations for 21 answers", allocs)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestConfigIsChecked(t *testing.T) {
	ok := Config{Plain: newStore(t), HTTP: &http.Server{Handler: http.NotFoundHandler()}}
	for name, change := range map[string]func(*Config){
		"no Plain": func(c *Config) { c.Plain = nil }, "no HTTP": func(c *Config) { c.HTTP = nil }, "no handler": func(c *Config) { c.HTTP = &http.Server{} },
		"negative time": func(c *Config) { c.Grace = -1 }, "negative number": func(c *Config) { c.MaxConns = -1 },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil || !strings.HasPrefix(err.Error(), "make front: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(ok); err != nil {
		t.Error(err)
	}
}

package httpfront

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

// twin is a store whose slow half gives the same answers as its Plain half, so that front and net/http can be compared.
type twin struct{ *store }

func newTwin(t *testing.T) twin {
	s := newStore(t)
	s.text(t, "/a", "StorePath: /gnu/store/a\n")
	s.text(t, "/nar/gtk%2B", "escaped")
	s.text(t, "//a", "two slashes")
	s.file(t, "/small.nar", bytes.Repeat([]byte("s"), 500))
	s.file(t, "/big.nar", bytes.Repeat([]byte("b"), 3*copyMax))
	s.heads["/none"] = mustHead(t, 404, 5, Field{"Content-Type", "text/plain"})
	s.body["/none"] = []byte("none\n")
	return twin{s}
}

func (s twin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var a Answer
	if r.Header.Get("Range") != "" || r.Body != http.NoBody || !s.Answer(&Request{Path: []byte(r.RequestURI)}, &a) {
		s.store.ServeHTTP(w, r)
		return
	}
	if a.Release != nil {
		defer a.Release()
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(a.Header)), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(statusOf(a.Header))
	w.Write(a.Body)
	if a.File != nil {
		io.Copy(w, io.NewSectionReader(a.File, a.Offset, a.Length))
	}
}

var dateLine = regexp.MustCompile(`Date: [^\r]*\r\n`)

// talk sends raw in pieces of at most piece bytes and returns all that comes back, without the dates.
func talk(t *testing.T, c net.Conn, raw string, piece int) string {
	t.Helper()
	sent := make(chan struct{})
	go func() { // a refusal may close the connection before all is sent
		defer close(sent)
		for b := raw; len(b) > 0; {
			n, err := io.WriteString(c, b[:min(piece, len(b))])
			if err != nil {
				return
			}
			b = b[n:]
		}
		if w, ok := c.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
	}()
	got, err := io.ReadAll(c)
	if err != nil && len(got) == 0 {
		t.Errorf("%q: %v", raw, err)
	}
	<-sent
	return string(dateLine.ReplaceAll(got, nil))
}

// conversations are sent as they are to the front and to plain net/http.
func conversations() []string {
	const a, bye = "GET /a HTTP/1.1\r\nHost: c\r\n\r\n", "GET /none HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n"
	list := []string{
		a + a + bye,
		bye + a, // what follows a close is not answered
		a + "HEAD /a HTTP/1.1\r\nHost: c\r\n\r\nHEAD /big.nar HTTP/1.1\r\nHost: c\r\n\r\n" + bye,
		"GET /big.nar HTTP/1.1\r\nHost: c\r\n\r\nGET /small.nar HTTP/1.1\r\nHost: c\r\n\r\n" + a + bye,
		"GET /nar/gtk%2B HTTP/1.1\r\nHost: c\r\n\r\nGET /nar/gtk%2b HTTP/1.1\r\nHost: c\r\n\r\nGET //a HTTP/1.1\r\nHost: c\r\n\r\n" + bye,
		"GET /a/../a HTTP/1.1\r\nHost: c\r\n\r\nGET /./a HTTP/1.1\r\nHost: c\r\n\r\nGET /%61 HTTP/1.1\r\nHost: c\r\n\r\n" + bye,
		"POST /x HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhello" + a + bye,
		"POST /x HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + a + bye,
		"PUT /x HTTP/1.1\r\nHost: c\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi" + bye,
		a + "GET /a HTTP/1.0\r\n\r\n",
		a + "GET /a HTTP/1.0\r\nHost: c\r\nConnection: keep-alive\r\n\r\n" + bye,
		// Smuggling: two framings in one message, or a message within a body.
		"POST /a HTTP/1.1\r\nHost: c\r\nContent-Length: 35\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + a + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nContent-Length: 30\r\n\r\nGET /none HTTP/1.1\r\nHost: c\r\n\r\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nContent-Length: +5\r\n\r\nhello" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: xchunked\r\n\r\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n" + bye,
		"GET /a HTTP/1.1\nHost: c\n\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\n\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nX: " + strings.Repeat("y", inSize) + "\r\n\r\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\nX: " + strings.Repeat("y", 2<<20) + "\r\n\r\n" + bye,
		"GET /a HTTP/1.1\r\nHost: c\r\n" + strings.Repeat("X-Many: y\r\n", 500) + "\r\n" + bye,
		"nonsense\r\n\r\n",
	}
	for _, v := range verdicts {
		if v.want != partial && !strings.HasPrefix(v.raw, "PRI ") {
			list = append(list, v.raw+bye, a+v.raw+a+bye)
		}
	}
	return list
}

func TestOddRequestsAreAnsweredAsByNetHTTP(t *testing.T) {
	st := newTwin(t)
	_, addr, _ := start(t, Config{Plain: st})
	alone := httptest.NewServer(st)
	defer alone.Close()
	for i, raw := range conversations() {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			want := talk(t, dial(t, alone.Listener.Addr().String()), raw, len(raw))
			if got := talk(t, dial(t, addr), raw, len(raw)); got != want {
				t.Errorf("%.300q\nis answered   %.600q\nby net/http   %.600q", raw, got, want)
			}
		})
	}
}

// pipes is a listener of synchronous connections in memory: each write is one read of the other side.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipes) Addr() net.Addr { return handoffAddr{} }

func (l *pipes) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

func TestWhereTheInputIsSplitDoesNotMatter(t *testing.T) {
	st := newTwin(t)
	l := newPipes()
	_, _, _ = start(t, Config{Plain: st}, l)
	const raw = "GET /a HTTP/1.1\r\nHost: c\r\n\r\nHEAD /big.nar HTTP/1.1\r\nHost: c\r\n\r\nGET /a?slow HTTP/1.1\r\nHost: c\r\n\r\n" +
		"GET /small.nar HTTP/1.1\r\nHost: c\r\n\r\nPOST /x HTTP/1.1\r\nHost: c\r\nContent-Length: 3\r\n\r\nabcGET /a HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n"
	exchange := func(pieces ...string) string {
		c := l.dial()
		defer c.Close()
		go func() {
			for _, p := range pieces {
				if _, err := io.WriteString(c, p); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		return string(dateLine.ReplaceAll(got, nil))
	}
	want := exchange(raw)
	if n := strings.Count(want, "HTTP/1.1 200 OK"); n != 6 {
		t.Fatalf("%d answers: %.1000q", n, want)
	}
	for i := 1; i < len(raw); i++ {
		if got := exchange(raw[:i], raw[i:]); got != want {
			t.Fatalf("split at %d: %.1000q; whole: %.1000q", i, got, want)
		}
	}
	if got := exchange(strings.Split(raw, "")...); got != want {
		t.Errorf("byte by byte: %.1000q; whole: %.1000q", got, want)
	}
}

func TestSocketsReadByteByByteToo(t *testing.T) {
	st := newTwin(t)
	_, addr, _ := start(t, Config{Plain: st})
	raw := strings.Repeat("GET /a HTTP/1.1\r\nHost: c\r\n\r\n", 3) + "GET /a?slow HTTP/1.1\r\nHost: c\r\n\r\nGET /big.nar HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n"
	want := talk(t, dial(t, addr), raw, len(raw))
	if got := talk(t, dial(t, addr), raw, 1); got != want || strings.Count(got, "200 OK") != 5 {
		t.Errorf("byte by byte: %.1000q; whole: %.1000q", got, want)
	}
}

func TestHeadRefusesWhatWouldBreakTheFraming(t *testing.T) {
	for _, f := range []Field{
		{"Content-Length", "1"}, {"transfer-encoding", "chunked"}, {"Connection", "close"}, {"Date", "now"},
		{"X", "a\r\nY: b"}, {"X Y", "a"}, {"", "a"}, {"X", " a"}, {"X", "a\n"},
	} {
		if h, err := Head(200, 1, f); err == nil {
			t.Errorf("%+v gives %q", f, h)
		}
	}
	for _, status := range []int{0, 100, 199, 600} {
		if h, err := Head(status, 1); err == nil {
			t.Errorf("status %d gives %q", status, h)
		}
	}
	h, err := Head(304, -1, Field{"ETag", `"x"`})
	if err != nil || string(h) != "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n" || statusOf(h) != 304 {
		t.Errorf("Head = %q, %v", h, err)
	}
}

func TestTheDateIsRenewed(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := &Server{start: at}
	s.tick(at)
	s.tick(at.Add(time.Second))
	if got, want := string(s.tail.Load().end), "Date: Sun, 01 Mar 2026 12:00:01 GMT\r\nConnection: close\r\n\r\n"; got != want {
		t.Errorf("tail is %q, want %q", got, want)
	}
}

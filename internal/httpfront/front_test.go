package httpfront

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// store is a Plain over prepared answers and files.
type store struct {
	heads map[string][]byte
	body  map[string][]byte
	paths map[string]string
	files *FileCache
}

func newStore(tb testing.TB) *store {
	tb.Helper()
	s := &store{heads: map[string][]byte{}, body: map[string][]byte{}, paths: map[string]string{}, files: NewFileCache(64, time.Minute)}
	tb.Cleanup(func() { s.files.Close() })
	return s
}

func mustHead(tb testing.TB, status int, length int64, fields ...Field) []byte {
	tb.Helper()
	h, err := Head(status, length, fields...)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func (s *store) text(tb testing.TB, path, body string) {
	s.heads[path] = mustHead(tb, 200, int64(len(body)), Field{"Content-Type", "text/x-nix-narinfo"})
	s.body[path] = []byte(body)
}

func (s *store) file(tb testing.TB, path string, content []byte) {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "nar")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	s.heads[path] = mustHead(tb, 200, int64(len(content)), Field{"Content-Type", "application/x-nix-nar"})
	s.paths[path] = name
}

func (s *store) Answer(r *Request, a *Answer) bool {
	h, ok := s.heads[string(r.Path)]
	if !ok {
		return false
	}
	a.Header = h
	if name, ok := s.paths[string(r.Path)]; ok {
		f, err := s.files.Open(name)
		if err != nil {
			return false
		}
		a.File, a.Length, a.Release = f.File, f.Size, f.Release
		return true
	}
	a.Body = s.body[string(r.Path)]
	return true
}

// ServeHTTP is the slow half: it describes the request that it saw.
func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %s %s %q", r.Method, r.RequestURI, r.Proto, r.Host, body)
}

// start runs a front on loopback until the test ends, and fails the test if it does not end well.
func start(tb testing.TB, cfg Config, listeners ...net.Listener) (*Server, string, context.CancelFunc) {
	tb.Helper()
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Server{Handler: cfg.Plain.(http.Handler)}
	}
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if len(listeners) == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listeners...) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(stop)
	return s, listeners[0].Addr().String(), stop
}

func dial(tb testing.TB, addr string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return c
}

func send(tb testing.TB, c net.Conn, s string) {
	tb.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		tb.Fatal(err)
	}
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: cache\r\nUser-Agent: GNU Guile\r\n\r\n"
}

// reply reads one response to a request of the given method.
func reply(tb testing.TB, r *bufio.Reader, method string) (*http.Response, []byte) {
	tb.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		tb.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("read body: %v", err)
	}
	return resp, body
}

func TestAThousandPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	st := newStore(t)
	const n = 1000
	var burst strings.Builder
	want := make([][]byte, n)
	for i := range n {
		path := fmt.Sprintf("/%032d.narinfo", i)
		switch {
		case i%97 == 5: // larger than what is copied
			want[i] = bytes.Repeat([]byte{byte(i)}, copyMax+i)
			st.text(t, path, string(want[i]))
		case i%53 == 7:
			want[i] = bytes.Repeat([]byte{byte(i)}, 100*i)
			st.file(t, path, want[i])
		case i%41 == 3: // unknown to Plain
			want[i] = fmt.Appendf(nil, "GET %s HTTP/1.1 cache \"\"", path)
		default:
			want[i] = fmt.Appendf(nil, "StorePath: /gnu/store/%d\n%s", i, strings.Repeat("x", i))
			st.text(t, path, string(want[i]))
		}
		burst.WriteString(get(path))
	}
	s, addr, stop := start(t, Config{Plain: st})
	c := dial(t, addr)
	sent := make(chan struct{})
	go func() { defer close(sent); io.WriteString(c, burst.String()) }()
	r := bufio.NewReader(c)
	for i := range n {
		resp, body := reply(t, r, "GET")
		if resp.StatusCode != 200 || resp.Header.Get("Date") == "" || !bytes.Equal(body, want[i]) {
			t.Fatalf("answer %d: %s %v, %d bytes: %.80q; want %d bytes: %.80q", i, resp.Status, resp.Header, len(body), body, len(want[i]), want[i])
		}
	}
	<-sent
	stop()
	if got := s.Stats(); got.Lent != 25 || got.Accepted != 1 {
		t.Errorf("stats are %+v, want 25 lent of one connection", got)
	}
}

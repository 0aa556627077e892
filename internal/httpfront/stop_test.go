package httpfront

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStoppingLetsANarFinish(t *testing.T) {
	st := newTwin(t)
	want := bytes.Repeat([]byte("nar "), 4<<20)
	st.file(t, "/long.nar", want)
	_, addr, stop := start(t, Config{Plain: st})
	idle := dial(t, addr)
	send(t, idle, get("/a"))
	idleReader := bufio.NewReader(idle)
	reply(t, idleReader, "GET")
	c := dial(t, addr)
	send(t, c, get("/long.nar")+get("/a"))
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	if _, err := idleReader.ReadByte(); err == nil {
		t.Error("an idle connection was not closed")
	}
	if n, err := net.Dial("tcp", addr); err == nil {
		n.Close()
		t.Error("a connection is accepted while stopping")
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(body, want) {
		t.Errorf("%d bytes of the nar arrive, %v", len(body), err)
	}
	if next, _ := reply(t, r, "GET"); next.StatusCode != 200 || !next.Close {
		t.Errorf("what was asked already is answered %s, close %v", next.Status, next.Close)
	}
	<-stopped
}

func TestTheGraceEnds(t *testing.T) {
	st := newTwin(t)
	st.file(t, "/long.nar", make([]byte, 64<<20))
	inHandler := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(inHandler)
		<-r.Context().Done()
	})
	_, addr, stop := start(t, Config{Plain: st, Grace: 50 * time.Millisecond, HTTP: &http.Server{Handler: handler}})
	still, slow := dial(t, addr), dial(t, addr)
	send(t, still, get("/long.nar"))
	if _, err := still.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	send(t, slow, get("/unknown"))
	<-inHandler
	stop() // returns, with everything ended
	if n, err := io.Copy(io.Discard, still); err == nil && n >= 64<<20 {
		t.Error("the nar was sent whole to a client that did not read")
	}
}

func TestWhatNeedsNetHTTPAfterTheStopIsRefused(t *testing.T) {
	st := newTwin(t)
	asked, gate := make(chan struct{}), make(chan struct{})
	p := plainFunc(func(r *Request, a *Answer) bool {
		if string(r.Path) == "/late" {
			close(asked)
			<-gate
			return false
		}
		return st.Answer(r, a)
	})
	s, addr, stop := start(t, Config{Plain: p, HTTP: &http.Server{Handler: st}})
	c := dial(t, addr)
	send(t, c, get("/late"))
	<-asked
	go stop()
	<-s.toHTTP.done
	close(gate)
	resp, _ := reply(t, bufio.NewReader(c), "GET")
	if resp.StatusCode != 503 || !resp.Close {
		t.Errorf("answer is %s %v", resp.Status, resp.Header)
	}
	stop()
}

type plainFunc func(*Request, *Answer) bool

func (f plainFunc) Answer(r *Request, a *Answer) bool { return f(r, a) }

func TestAServerRunsOnce(t *testing.T) {
	s, _, stop := start(t, Config{Plain: newTwin(t)})
	stop()
	if err := s.Serve(t.Context()); !errors.Is(err, ErrServed) {
		t.Errorf("a second Serve returns %v", err)
	}
}

func TestAListenerThatFailsStopsAll(t *testing.T) {
	s, err := New(Config{Plain: newTwin(t), HTTP: &http.Server{Handler: http.NotFoundHandler()}})
	if err != nil {
		t.Fatal(err)
	}
	good, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad := newPipes()
	bad.Close()
	if err := s.Serve(t.Context(), good, bad); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "accept on ") {
		t.Errorf("Serve returns %v", err)
	}
	if c, err := net.Dial("tcp", good.Addr().String()); err == nil {
		c.Close()
		t.Error("the other listener still accepts")
	}
}

func TestHTTP2(t *testing.T) {
	st := newTwin(t)
	plainListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := httptest.NewUnstartedServer(nil)
	cert.EnableHTTP2 = true
	cert.StartTLS()
	defer cert.Close()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tlsListener := tls.NewListener(inner, cert.TLS)
	s, _, stop := start(t, Config{Plain: st}, plainListener, tlsListener)

	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	secure := cert.Client().Transport.(*http.Transport)
	for _, c := range []struct {
		url   string
		tr    *http.Transport
		major int
	}{
		{"http://" + plainListener.Addr().String(), h2c, 2},
		{"https://" + inner.Addr().String(), secure, 2},
		{"http://" + plainListener.Addr().String(), &http.Transport{}, 1},
	} {
		for _, path := range []string{"/a", "/unknown", "/big.nar"} {
			resp, err := (&http.Client{Transport: c.tr}).Get(c.url + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || resp.ProtoMajor != c.major || len(body) == 0 {
				t.Errorf("%s%s: %s %s, %d bytes, %v", c.url, path, resp.Proto, resp.Status, len(body), err)
			}
		}
	}
	stop() // with all of them still open
	if st := s.Stats(); st.Open != 0 || st.Accepted < 3 || st.Answers[2] != 2 {
		t.Errorf("stats are %+v", st)
	}
}

func TestAConnectionComesBackFromNetHTTP(t *testing.T) {
	st := newTwin(t)
	gone := make(chan error, 1)
	mux := http.NewServeMux()
	mux.Handle("/", st)
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		gone <- r.Context().Err()
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		line, err := rw.ReadString('\n')
		fmt.Fprintf(c, "echo %s %v", line, err)
	})
	_, addr, _ := start(t, Config{Plain: st, HTTP: &http.Server{Handler: mux}})

	t.Run("for each request anew", func(t *testing.T) {
		s, addr, stop := start(t, Config{Plain: st, HTTP: &http.Server{Handler: mux}})
		c := dial(t, addr)
		r := bufio.NewReader(c)
		for i := range 20 {
			send(t, c, get("/a")+get(fmt.Sprintf("/slow%d", i))+get("/big.nar"))
			for range 3 {
				if resp, _ := reply(t, r, "GET"); resp.StatusCode != 200 {
					t.Fatalf("answer is %s", resp.Status)
				}
			}
		}
		send(t, c, get("/a"))
		reply(t, r, "GET")
		stop() // an answer is counted after it was sent
		if got := s.Stats(); got.Lent != 20 || got.Answers[2] != 41 {
			t.Errorf("stats are %+v", got)
		}
		if len(st.files.byPath) != 1 || st.files.idle != 1 {
			t.Errorf("%d of %d files are unused", st.files.idle, len(st.files.byPath))
		}
	})
	t.Run("not after a panic", func(t *testing.T) {
		c := dial(t, addr)
		send(t, c, get("/panic")+get("/a"))
		if b, err := io.ReadAll(c); len(b) > 0 {
			t.Errorf("read %q, %v", b, err)
		}
	})
	t.Run("not if it was hijacked", func(t *testing.T) {
		c := dial(t, addr)
		send(t, c, get("/hijack")+"line\n")
		if b, err := io.ReadAll(c); err != nil || string(b) != "echo line\n <nil>" {
			t.Errorf("read %q, %v", b, err)
		}
	})
	t.Run("and a handler sees the client go", func(t *testing.T) {
		c := dial(t, addr)
		send(t, c, get("/wait"))
		c.Close()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("context ends with %v", err)
		}
	})
	t.Run("with more input than the fast loop keeps", func(t *testing.T) {
		c := dial(t, addr)
		const n = 4 * inSize / 50
		var wg sync.WaitGroup
		wg.Go(func() { io.WriteString(c, get("/a?first")+strings.Repeat(get("/a"), n)) })
		r := bufio.NewReader(c)
		for range n + 1 {
			reply(t, r, "GET")
		}
		wg.Wait()
	})
}

func TestAHundredConnectionsAtOnce(t *testing.T) {
	st := newTwin(t)
	s, addr, stop := start(t, Config{Plain: st, OnAnswer: func(*Exchange) {}})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for k := range 20 {
				path := []string{"/a", "/small.nar", "/big.nar", "/a?slow", "/unknown", "/none"}[(i+k)%6]
				if _, err := io.WriteString(c, get(path)); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, resp.Body)
				if err != nil || n != resp.ContentLength {
					t.Errorf("%s: %d bytes, %v", path, n, err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	got := s.Stats()
	if got.Open != 0 || got.Accepted != 100 || got.Answers[2]+got.Answers[4]+got.Lent != 2000 {
		t.Errorf("stats are %+v", got)
	}
	if st.files.idle != len(st.files.byPath) {
		t.Errorf("%d of %d files are unused", st.files.idle, len(st.files.byPath))
	}
}

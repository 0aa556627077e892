package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/narinfo"
)

// unhurried makes a tree of a server that notes its pauses instead of taking them.
func unhurried(t testing.TB, url string) (*web, *[]time.Duration) {
	t.Helper()
	w := newWeb(url, Options{})
	t.Cleanup(func() { w.Close() })
	var pauses []time.Duration
	w.retry.sleep = func(ctx context.Context, d time.Duration) error {
		pauses = append(pauses, d)
		return ctx.Err()
	}
	return w, &pauses
}

func TestAServerThatFailsAtFirstIsAskedAgain(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		case 3: // an answer that ends early
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "hel")
		default:
			io.WriteString(w, "hello")
		}
	}))
	defer server.Close()
	w, pauses := unhurried(t, server.URL)
	text, err := w.read(t.Context(), "x.narinfo", 100)
	if err != nil || string(text) != "hello" {
		t.Fatalf("read %q, %v", text, err)
	}
	if p := *pauses; len(p) != 3 || p[0] < firstPause/2 || p[0] >= 2*firstPause || p[1] != 7*time.Second {
		t.Errorf("paused %v", p)
	}
}

func TestPatienceWithAServerHasAnEnd(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer server.Close()
	w, _ := unhurried(t, server.URL)
	for range 1000 {
		if _, err := w.read(t.Context(), "x.narinfo", 100); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("read: %v", err)
		}
	}
	if n := asked.Load(); n != 1000+budgetMost {
		t.Errorf("asked %d times for 1000 objects, want %d", n, 1000+budgetMost)
	}
}

func TestAnswersThatAreFinalAreNotAskedForAgain(t *testing.T) {
	for status, want := range map[int]error{404: ErrNotFound, 410: ErrNotFound, 403: fs.ErrPermission, 401: fs.ErrPermission, 400: nil, 204: ErrDamaged} {
		var asked atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
		}))
		w, _ := unhurried(t, server.URL)
		_, err := w.read(t.Context(), "x.narinfo", 100)
		if err == nil || want != nil && !errors.Is(err, want) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
		if asked.Load() != 1 {
			t.Errorf("%d: asked %d times", status, asked.Load())
		}
		server.Close()
	}
}

func TestANarinfoHasALimit(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, narinfo.MaxSize+1))
	}))
	defer server.Close()
	w, _ := unhurried(t, server.URL)
	if _, err := w.read(t.Context(), "x.narinfo", narinfo.MaxSize); !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %v", err)
	}
}

func TestAWayDownFromHTTPSIsNotFollowed(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Redirect(w, r, plain.URL, http.StatusFound)
			return
		}
		http.Redirect(w, r, "/down", http.StatusFound)
	}))
	defer secure.Close()
	client := newClient(1)
	client.Transport = secure.Client().Transport
	w := newWeb(secure.URL, Options{HTTP: client})
	defer w.Close()
	w.retry.sleep = func(context.Context, time.Duration) error { return nil }
	if _, err := w.read(t.Context(), "x", 10); err == nil || !strings.Contains(err.Error(), "redirected from https") {
		t.Errorf("read: %v", err)
	}
}

// faultyFile serves a file and cuts each connection after some bytes.
type faultyFile struct {
	body     []byte
	cutAfter int
	ranges   bool
	etag     func(n int) string
	asked    atomic.Int32
	lie      bool // continue elsewhere than asked
}

func (f *faultyFile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(f.asked.Add(1))
	from := 0
	if f.ranges {
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("ETag", f.etag(n))
		span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
		if ok && (r.Header.Get("If-Range") == f.etag(n)) {
			from, _ = strconv.Atoi(strings.TrimSuffix(span, "-"))
			if f.lie {
				from--
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.body)-1, len(f.body)))
		}
	}
	rest := f.body[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if len(rest) > f.cutAfter {
		w.Write(rest[:f.cutAfter])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(rest)
}

func TestANarThatIsCutIsContinuedWhereTheServerCan(t *testing.T) {
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	same := func(int) string { return `"one"` }
	cases := map[string]struct {
		file *faultyFile
		want error
	}{
		"with ranges":             {&faultyFile{body: body, cutAfter: 100_000, ranges: true, etag: same}, nil},
		"whole at once":           {&faultyFile{body: body, cutAfter: 2 << 20}, nil},
		"without ranges":          {&faultyFile{body: body, cutAfter: 100_000}, ErrUnavailable},
		"changed meanwhile":       {&faultyFile{body: body, cutAfter: 100_000, ranges: true, etag: func(n int) string { return fmt.Sprintf(`"%d"`, n) }}, ErrUnavailable},
		"continued elsewhere":     {&faultyFile{body: body, cutAfter: 100_000, ranges: true, etag: same, lie: true}, ErrUnavailable},
		"never beyond the start":  {&faultyFile{body: body, cutAfter: 0, ranges: true, etag: same}, ErrUnavailable},
		"cut in every other byte": {&faultyFile{body: body[:60], cutAfter: 2, ranges: true, etag: same}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.file)
			defer server.Close()
			w, _ := unhurried(t, server.URL)
			open, err := w.nar(narinfo.File{URL: "nar/x"})
			if err != nil {
				t.Fatal(err)
			}
			r, err := open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if c.want != nil {
				if !errors.Is(err, c.want) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
				if !bytes.HasPrefix(c.file.body, got) {
					t.Error("the bytes before the error are wrong")
				}
				return
			}
			if err != nil || sha256.Sum256(got) != sha256.Sum256(c.file.body) {
				t.Errorf("read %d bytes of %d, %v", len(got), len(c.file.body), err)
			}
		})
	}
}

// bodyFunc answers requests without a network.
type bodyFunc func(r *http.Request) (*http.Response, error)

func (f bodyFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// silent gives some bytes and then none until its request ends.
type silent struct {
	ctx   context.Context
	bytes []byte
}

func (s *silent) Read(p []byte) (int, error) {
	if len(s.bytes) > 0 {
		n := copy(p, s.bytes)
		s.bytes = s.bytes[n:]
		return n, nil
	}
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (*silent) Close() error { return nil }

func TestANarThatStopsComingIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		client := &http.Client{Transport: bodyFunc(func(r *http.Request) (*http.Response, error) {
			asked++
			resp := &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Accept-Ranges": {"bytes"}}, ContentLength: 10, Request: r}
			if asked > 1 {
				if r.Header.Get("Range") != "bytes=4-" {
					t.Errorf("asked for the range %q", r.Header.Get("Range"))
				}
				resp.StatusCode = 206
				resp.Header.Set("Content-Range", "bytes 4-9/10")
				resp.Body = io.NopCloser(strings.NewReader("456789"))
				return resp, nil
			}
			resp.Body = &silent{r.Context(), []byte("0123")}
			return resp, nil
		})}
		w := newWeb("http://cache.example", Options{HTTP: client})
		start := time.Now()
		r, err := w.open(t.Context(), "http://cache.example/nar/x")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(text) != "0123456789" || asked != 2 {
			t.Errorf("read %q, %v after %d requests", text, err, asked)
		}
		if took := time.Since(start); took < stallTimeout || took > stallTimeout+time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-5": 0, " 3 ": 3 * time.Second, "Fri, 01 May 2026 12:00:30 GMT": 30 * time.Second,
		"Fri, 01 May 2026 11:00:30 GMT": 0, "soon": 0, "99999999": 24 * time.Hour,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	if got := pause(1, time.Hour); got != longPause {
		t.Errorf("an hour was agreed to: %v", got)
	}
}

// A server that answers badly for some items and late for others still gives its closure, whole.
func TestAClosureIsWalkedThroughAFaultyServer(t *testing.T) {
	n := newNix(t)
	dep, app, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=zstd", dev)
	text := ""
	for _, p := range closure(n, dev) {
		if p != dep && p != app && p != dev {
			text = p
		}
	}
	files := http.FileServer(http.Dir(dir))
	var fails atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") && fails.Add(1)%2 == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		files.ServeHTTP(w, r)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	s := open1(t, server.URL, Options{Items: []string{filepath.Base(dev)}, Closure: true}).(*cache)
	s.tree.(*web).retry.sleep = func(context.Context, time.Duration) error { return nil }
	listed := consume(t, s)
	wantPaths(t, listed, closure(n, dev))
	n.sameFacts(listed)

	t.Run("a reference that is not there is the publisher's to judge", func(t *testing.T) {
		mux.HandleFunc("/"+filepath.Base(dep)[:32]+".narinfo", http.NotFound)
		wantPaths(t, consume(t, s), []string{app, dev, text})
	})
	t.Run("the narinfo of another item is refused", func(t *testing.T) {
		mux.HandleFunc("/"+filepath.Base(text)[:32]+".narinfo", func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, dir+"/"+filepath.Base(app)[:32]+".narinfo")
		})
		if _, err := tryConsume(t.Context(), s); !errors.Is(err, narinfo.ErrMismatch) {
			t.Errorf("listed: %v", err)
		}
	})
	t.Run("an item that was named and is not there is refused", func(t *testing.T) {
		gone := open1(t, server.URL, Options{Items: []string{dep}})
		if _, err := tryConsume(t.Context(), gone); !errors.Is(err, ErrNotFound) {
			t.Errorf("listed: %v", err)
		}
	})
	t.Run("a server that goes away ends the list", func(t *testing.T) {
		server.Close()
		if _, err := tryConsume(t.Context(), s); !errors.Is(err, ErrUnavailable) {
			t.Errorf("listed: %v", err)
		}
		if _, err := Recognise(server.URL+"?x=1", Options{}); !errors.Is(err, ErrUnknown) {
			t.Errorf("a cache's URL with a query: %v", err)
		}
	})
}

func TestAPasswordIsInNoErrorOrName(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "me" || pass != "s3cret" {
			t.Errorf("asked as %q with %q", user, pass)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	at := strings.Replace(server.URL, "http://", "http://me:s3cret@", 1)
	w, _ := unhurried(t, at)
	_, err := w.read(t.Context(), "nix-cache-info", 10)
	server.Close()
	_, err2 := w.read(t.Context(), "nix-cache-info", 10)
	_, err3 := Recognise(at+"?x", Options{})
	for _, s := range []string{w.String(), err.Error(), err2.Error(), err3.Error()} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("the password is in %q", s)
		}
	}
}

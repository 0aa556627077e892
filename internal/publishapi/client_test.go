package publishapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// backend keeps in memory what is put, and fails as it is told.
type backend struct {
	mu     sync.Mutex
	staged map[string]string
	logs   map[storepath.Base]string
	asked  [][]storepath.HashPart
	have   map[storepath.HashPart]bool
	waited []bool
	leases leases

	place       publishapi.Place
	placesAsked int
	placed      []compress.Method // as of the last Publish
	err         error             // of Publish
}

func newBackend() *backend {
	return &backend{staged: map[string]string{}, logs: map[storepath.Base]string{}, have: map[storepath.HashPart]bool{}}
}

func (b *backend) Authorize(_ context.Context, token string) (string, error) {
	switch token {
	case "good":
		return "ci", nil
	case "mirror":
		return "", fmt.Errorf("%w: only for mirrors", publishapi.ErrScope)
	}
	return "", fmt.Errorf("%w: not known", publishapi.ErrDenied)
}

func (b *backend) StageNar(_ context.Context, name string, _ digest.SHA256, body io.Reader, size int64) error {
	text, err := io.ReadAll(body)
	if err != nil || int64(len(text)) != size {
		return fmt.Errorf("%w: %d of %d bytes: %w", publishapi.ErrIncomplete, len(text), size, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.staged[name] = string(text)
	return nil
}

func (b *backend) Staged(_ context.Context, name string) (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, ok := b.staged[name]
	return int64(len(text)), ok
}

func (b *backend) Place(context.Context, storepath.Base, compress.Method, int64) (publishapi.Place, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.placesAsked++
	return b.place, nil
}

func (b *backend) Publish(_ context.Context, n *narinfo.Narinfo, by string, wait bool, placed ...compress.Method) (publishapi.Published, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waited = append(b.waited, wait)
	b.placed = placed
	if b.err != nil {
		return publishapi.Published{}, b.err
	}
	return publishapi.Published{Path: n.StorePath.String(), Verdict: "published"}, nil
}

func (b *backend) StageLog(_ context.Context, of storepath.Base, body io.Reader, _ int64) error {
	text, err := io.ReadAll(body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs[of] = string(text)
	return err
}

func (b *backend) Missing(_ context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, hs)
	for _, h := range hs {
		if !b.have[h] {
			missing = append(missing, h)
		}
	}
	return missing, nil
}

// serve serves b, with front before it if that is not nil.
func serve(t *testing.T, b *backend, front func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	var h http.Handler = publishapi.Handler(b, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if front != nil {
		h = front(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func text(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func narinfoOf(name string, refs ...string) []byte {
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base(name)}, NarHash: digest.Of([]byte(name)), NarSize: 120,
		Files: []narinfo.File{{URL: "nar/" + publishapi.NarName(digest.Of([]byte(name)), compress.Zstd), Compression: compress.Zstd, FileSize: narinfo.UnknownSize}}}
	for _, r := range refs {
		n.References = append(n.References, catalogtest.Base(r))
	}
	return narinfo.Nix(n)
}

func TestAClientPublishes(t *testing.T) {
	b := newBackend()
	s := serve(t, b, nil)
	c := &publishapi.Client{URL: s.URL + "/", Token: "good"}
	body := strings.Repeat("nar ", 100_000) // large enough to be asked for first
	name := publishapi.NarName(digest.Of([]byte(body)), compress.Xz)
	for i, want := range []bool{true, false} {
		sent, err := c.StageNar(t.Context(), name, int64(len(body)), text(body))
		if err != nil || sent != want {
			t.Errorf("stage %d: sent %v, %v", i, sent, err)
		}
	}
	if b.staged[name] != body {
		t.Errorf("staged %d bytes, want %d", len(b.staged[name]), len(body))
	}
	done, err := c.PutNarinfo(t.Context(), narinfoOf("a"), true)
	if want := (publishapi.Published{Path: "/nix/store/" + string(catalogtest.Base("a")), Verdict: "published"}); err != nil || done != want {
		t.Errorf("put narinfo: %+v, %v", done, err)
	}
	if len(b.waited) != 1 || !b.waited[0] {
		t.Errorf("asked to wait: %v", b.waited)
	}
	of := catalogtest.Base("c++.drv")
	if err := c.PutLog(t.Context(), of, 3, text("log")); err != nil || b.logs[of] != "log" {
		t.Errorf("put log: %v, %q", err, b.logs)
	}
	if sent, err := c.StageNar(t.Context(), publishapi.NarName(digest.Of(nil), compress.None), 0, text("")); err != nil || !sent {
		t.Errorf("stage nothing: %v, %v", sent, err)
	}
}

func TestMissingIsAskedInBatches(t *testing.T) {
	b := newBackend()
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	var ask, want []storepath.HashPart
	for i := range 2*publishapi.MaxMissing + 1 {
		h := catalogtest.Base(fmt.Sprint("n", i)).HashPart()
		ask = append(ask, h)
		if b.have[h] = i%3 == 0; !b.have[h] {
			want = append(want, h)
		}
	}
	got, err := c.Missing(t.Context(), ask)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d missing, want %d: %v", len(got), len(want), err)
	}
	if len(b.asked) != 3 || len(b.asked[2]) != 1 {
		t.Errorf("asked %d times", len(b.asked))
	}
	if got, err := c.Missing(t.Context(), nil); got != nil || err != nil || len(b.asked) != 3 {
		t.Errorf("of nothing is missing %v, %v", got, err)
	}
}

func TestErrorsTravel(t *testing.T) {
	path := storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base("a")}
	missing := []storepath.Base{catalogtest.Base("x"), catalogtest.Base("y")}
	for name, err := range map[string]error{
		"denied": publishapi.ErrDenied, "scope": publishapi.ErrScope, "refused": publishapi.ErrRefused, "differs": publishapi.ErrDiffers,
		"no nar": publishapi.ErrNoNar, "unavailable": publishapi.ErrUnavailable, "incomplete": publishapi.ErrIncomplete, "full": publishapi.ErrFull,
		"busy":       publishapi.ErrBusy,
		"references": &publishapi.MissingError{Path: path, Missing: missing},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			b.err = fmt.Errorf("try: %w: because", err)
			c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good", Patience: -1}
			_, got := c.PutNarinfo(t.Context(), narinfoOf("a", "x", "y"), false)
			var refs *publishapi.MissingError
			if errors.As(err, &refs) {
				var back *publishapi.MissingError
				if !errors.As(got, &back) || back.Path != path || fmt.Sprint(back.Missing) != fmt.Sprint(missing) || !errors.Is(got, publishapi.ErrReferences) {
					t.Errorf("came back as %v", got)
				}
				return
			}
			if !errors.Is(got, err) || !strings.HasSuffix(got.Error(), ": because") {
				t.Errorf("came back as %v", got)
			}
			if len(b.waited) != 1 {
				t.Errorf("asked %d times without patience", len(b.waited))
			}
		})
	}
	for token, want := range map[string]error{"bad": publishapi.ErrDenied, "mirror": publishapi.ErrScope} {
		_, err := (&publishapi.Client{URL: serve(t, newBackend(), nil).URL, Token: token}).Missing(t.Context(), []storepath.HashPart{path.HashPart()})
		if !errors.Is(err, want) || !errors.Is(err, publishapi.ErrDenied) {
			t.Errorf("token %s: %v", token, err)
		}
	}
}

func TestAnInternalErrorIsNotTold(t *testing.T) {
	b := newBackend()
	b.err = errors.New("secret detail")
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good", Patience: -1}
	if _, err := c.PutNarinfo(t.Context(), narinfoOf("a"), false); !errors.Is(err, publishapi.ErrUnavailable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("came back as %v", err)
	}
}

func TestATokenIsNotShownToTheNetwork(t *testing.T) {
	for url, want := range map[string]error{
		"http://127.0.0.1:1": nil, "http://localhost:8080/x": nil, "http://[::1]:1/": nil, "https://cache.example.org": nil,
		"http://cache.example.org": publishapi.ErrPlain, "http://192.0.2.1:8080": publishapi.ErrPlain, "http://localhost.example.org": publishapi.ErrPlain,
	} {
		if err := (&publishapi.Client{URL: url, Token: "t"}).Check(); !errors.Is(err, want) {
			t.Errorf("%s: %v", url, err)
		}
		if err := (&publishapi.Client{URL: url, Token: "t", AllowPlain: true}).Check(); err != nil {
			t.Errorf("%s allowed: %v", url, err)
		}
	}
	for _, url := range []string{"", "cache.example.org", "ftp://x", "https://u:p@x", "https://x?y", "https://"} {
		if err := (&publishapi.Client{URL: url, Token: "t"}).Check(); err == nil || strings.Contains(err.Error(), ":p@") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, token := range []string{"", "two words", "ü"} {
		if err := (&publishapi.Client{URL: "https://x", Token: token}).Check(); !errors.Is(err, publishapi.ErrDenied) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	elsewhere := newBackend()
	to := serve(t, elsewhere, nil)
	s := serve(t, newBackend(), func(http.Handler) http.Handler { return http.RedirectHandler(to.URL, http.StatusTemporaryRedirect) })
	_, err := (&publishapi.Client{URL: s.URL, Token: "good"}).PutNarinfo(t.Context(), narinfoOf("a"), false)
	if !errors.Is(err, publishapi.ErrRefused) || !strings.Contains(err.Error(), to.URL) || len(elsewhere.waited) != 0 {
		t.Errorf("%v, and there it came %d times", err, len(elsewhere.waited))
	}
}

func TestALocalErrorIsNotTriedAgain(t *testing.T) {
	c := &publishapi.Client{URL: serve(t, newBackend(), nil).URL, Token: "good"}
	broken := errors.New("disk is broken")
	opened := 0
	err := c.PutNar(t.Context(), publishapi.NarName(digest.Of(nil), compress.None), 100, func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(io.MultiReader(strings.NewReader("some"), failing{broken})), nil
	})
	if !errors.Is(err, broken) || opened != 1 {
		t.Errorf("opened %d times: %v", opened, err)
	}
	if err := c.PutNar(t.Context(), "x", 1, func() (io.ReadCloser, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("cannot open: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// answers is a RoundTripper that gives canned answers, one after the other, and then the last one for ever.
type answers struct {
	list  []func() (*http.Response, error)
	times []time.Duration
	begun time.Time
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.begun.IsZero() {
		a.begun = time.Now()
	}
	a.times = append(a.times, time.Since(a.begun))
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
		if err := r.Body.Close(); err != nil {
			return nil, err
		}
	}
	return a.list[min(len(a.times), len(a.list))-1]()
}

func status(code int, body any, fields ...string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		r := &http.Response{StatusCode: code, Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), Header: http.Header{}}
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		if body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
		for i := 0; i+1 < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		return r, nil
	}
}

func broken() (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

func canned(list ...func() (*http.Response, error)) (*publishapi.Client, *answers) {
	a := &answers{list: list}
	return &publishapi.Client{URL: "https://cache.example.org", Token: "good", HTTP: &http.Client{Transport: a}}, a
}

func put(t *testing.T, c *publishapi.Client) error {
	return c.PutNar(t.Context(), publishapi.NarName(digest.Of([]byte("x")), compress.Zstd), 1, text("x"))
}

func TestWhatMayPassIsTriedAgain(t *testing.T) {
	done := status(http.StatusCreated, nil)
	for name, first := range map[string]func() (*http.Response, error){
		"no connection": broken,
		"429":           status(http.StatusTooManyRequests, nil),
		"408":           status(http.StatusRequestTimeout, publishapi.Error{Code: "incomplete", Message: "broke off"}),
		"500":           status(http.StatusInternalServerError, publishapi.Error{Code: "internal", Message: "internal error"}),
		"502 of a page": status(http.StatusBadGateway, nil, "Content-Type", "text/html"),
		"503":           status(http.StatusServiceUnavailable, publishapi.Error{Code: "unavailable", Message: "busy"}),
		"507":           status(http.StatusInsufficientStorage, publishapi.Error{Code: "full", Message: "no room"}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, a := canned(first, first, first, done)
				if err := put(t, c); err != nil {
					t.Fatal(err)
				}
				if len(a.times) != 4 {
					t.Fatalf("asked at %v", a.times)
				}
				for i, bounds := range [][2]time.Duration{{250, 500}, {500, 1000}, {1000, 2000}} {
					if gap := a.times[i+1] - a.times[i]; gap < bounds[0]*time.Millisecond || gap > bounds[1]*time.Millisecond {
						t.Errorf("pause %d is %v, want %v to %v ms", i, gap, int64(bounds[0]), int64(bounds[1]))
					}
				}
			})
		})
	}
}

func TestWhatIsRefusedIsNotTriedAgain(t *testing.T) {
	for code, want := range map[int]error{400: publishapi.ErrRefused, 401: publishapi.ErrDenied, 403: publishapi.ErrScope, 404: publishapi.ErrRefused,
		405: publishapi.ErrRefused, 411: publishapi.ErrRefused, 413: publishapi.ErrRefused, 302: publishapi.ErrRefused} {
		c, a := canned(status(code, nil))
		if err := put(t, c); !errors.Is(err, want) || len(a.times) != 1 {
			t.Errorf("status %d: %v after %d times", code, err, len(a.times))
		}
	}
	for name, err := range map[string]error{"name": &net.DNSError{Err: "no such host", IsNotFound: true}} {
		c, a := canned(func() (*http.Response, error) { return nil, err })
		if err := put(t, c); !errors.Is(err, publishapi.ErrUnavailable) || len(a.times) != 1 {
			t.Errorf("%s: %v after %d times", name, err, len(a.times))
		}
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for name, value := range map[string]func() string{
		"seconds": func() string { return "20" },
		"a date":  func() string { return time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, a := canned(status(http.StatusServiceUnavailable, nil, "Retry-After", value()), status(http.StatusCreated, nil))
				if err := put(t, c); err != nil {
					t.Fatal(err)
				}
				if gap := a.times[1]; gap < 19*time.Second || gap > 23*time.Second {
					t.Errorf("tried again after %v, was asked to wait 20s", gap)
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := canned(broken)
		c.Patience = time.Minute
		begun := time.Now()
		if err := put(t, c); !errors.Is(err, publishapi.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused; given up: nothing succeeded for ") {
			t.Errorf("gave up with %v", err)
		}
		if d := time.Since(begun); d < 25*time.Second || d > time.Minute {
			t.Errorf("gave up after %v", d)
		}
		// Another request of the same client does not wait all over again.
		asked := len(a.times)
		if err := put(t, c); err == nil || len(a.times) == asked || time.Since(begun) > time.Minute {
			t.Errorf("the next request gave up after %v: %v", time.Since(begun), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, a := canned(status(http.StatusInsufficientStorage, nil, "Retry-After", "300"))
		c.Patience = time.Minute
		begun := time.Now()
		if err := put(t, c); !errors.Is(err, publishapi.ErrFull) || time.Since(begun) != 0 || len(a.times) != 1 {
			t.Errorf("asked %d times in %v for what cannot be in time: %v", len(a.times), time.Since(begun), err)
		}
	})
}

func TestAFullHerderSaysWhenToComeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		after  string
	}{
		"full":                     {&publishapi.LaterError{Err: fmt.Errorf("%w: 7 bytes are free", publishapi.ErrFull), After: 61 * time.Second}, 507, "61"},
		"a few at a time":          {&publishapi.LaterError{Err: publishapi.ErrBusy, After: 1500 * time.Millisecond}, 429, "2"},
		"full, nobody knows until": {publishapi.ErrFull, 507, "30"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			b.err = fmt.Errorf("publish: %w", c.err)
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/"+string(catalogtest.Base("a").HashPart())+".narinfo", strings.NewReader(string(narinfoOf("a"))))
			req.SetBasicAuth("x", "good")
			w := httptest.NewRecorder()
			publishapi.Handler(b, http.NotFoundHandler(), slog.New(slog.DiscardHandler)).ServeHTTP(w, req)
			var said publishapi.Error
			if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || !strings.Contains(said.Message, c.err.Error()) {
				t.Errorf("said %s: %v", w.Body, err)
			}
			if w.Code != c.status || w.Header().Get("Retry-After") != c.after {
				t.Errorf("status %d, Retry-After %q; want %d, %s", w.Code, w.Header().Get("Retry-After"), c.status, c.after)
			}
		})
	}
}

func TestARefusalReachesWhoeverDidNotAsk(t *testing.T) {
	b := &refusing{newBackend()}
	s := httptest.NewServer(publishapi.Handler(b, http.NotFoundHandler(), slog.New(slog.DiscardHandler)))
	t.Cleanup(s.Close)
	// More than fits into the buffers between: while it is not read, it cannot be sent.
	body := strings.Repeat("x", 8<<20)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "PUT /nar/%s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer good\r\nContent-Length: %d\r\n\r\n%s",
		publishapi.NarName(digest.Of([]byte(body)), compress.None), len(body), body); err != nil {
		t.Fatalf("sending was cut off: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusInsufficientStorage || resp.Header.Get("Retry-After") != "9" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

// refusing has no room for any nar.
type refusing struct{ *backend }

func (refusing) StageNar(context.Context, string, digest.SHA256, io.Reader, int64) error {
	return &publishapi.LaterError{Err: publishapi.ErrFull, After: 9 * time.Second}
}

func TestWhyNothingIsSentIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := status(http.StatusInsufficientStorage, publishapi.Error{Code: "full", Message: "the herder has no room: 7 bytes are free"}, "Retry-After", "4")
		c, _ := canned(full, full, full, full, status(http.StatusCreated, nil))
		var logged strings.Builder
		c.Log = slog.New(slog.NewTextHandler(&logged, nil))
		var pauses []time.Duration
		c.Waiting = func(why error, pause time.Duration) {
			if !errors.Is(why, publishapi.ErrFull) {
				t.Errorf("waits because %v", why)
			}
			pauses = append(pauses, pause)
		}
		if err := put(t, c); err != nil {
			t.Fatal(err)
		}
		if len(pauses) != 4 || pauses[0] < 4*time.Second {
			t.Errorf("told of %v", pauses)
		}
		if n := strings.Count(logged.String(), "7 bytes are free"); n != 2 { // at 0 s, and the first after 10 s
			t.Errorf("logged %d times: %s", n, logged.String())
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := canned(status(http.StatusServiceUnavailable, nil, "Retry-After", "60"))
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, enough)
		defer cancel()
		begun := time.Now()
		if _, err := c.Missing(ctx, []storepath.HashPart{catalogtest.Base("a").HashPart()}); !errors.Is(err, enough) || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}

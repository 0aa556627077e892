package serve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/httpfront"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// shelf is a catalogue in memory, whose answers a test decides.
type shelf struct {
	mu      sync.Mutex
	items   map[storepath.HashPart]catalog.Item
	counts  catalog.Counts
	version int64
	counted int // calls of Counts
	asked   int // calls of Item
	err     error
}

func (s *shelf) Item(_ context.Context, h storepath.HashPart) (catalog.Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.err != nil {
		return catalog.Item{}, s.err
	}
	it, ok := s.items[h]
	if !ok {
		return it, catalog.ErrNotFound
	}
	return it, nil
}

func (s *shelf) Counts(context.Context) (catalog.Counts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted++
	return s.counts, s.err
}

func (s *shelf) Version(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, s.err
}

func (s *shelf) EachHashPart(_ context.Context, after int64, f func([20]byte)) (last int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, it := range s.items {
		if it.Sequence > after {
			f(h.Bytes())
		}
		last = max(last, it.Sequence)
	}
	return max(last, after), s.err
}

func (s *shelf) Log(context.Context, storepath.Base) (objstore.Key, error) {
	return "", catalog.ErrNotFound
}

// change changes what the catalogue says, as a commit does.
func (s *shelf) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.version++
}

// put publishes an item, without its object.
func (s *shelf) put(name string, m ...compress.Method) catalog.Item {
	it := catalogtest.Item(name).Item
	it.Files = nil
	for _, m := range m {
		it.Files = append(it.Files, catalogtest.File(name, m))
	}
	s.change(func() {
		it.Sequence = int64(len(s.items) + 1)
		s.items[it.Path.HashPart()] = it
	})
	return it
}

func newServer(t *testing.T, c *shelf) *Server {
	t.Helper()
	c.items = make(map[storepath.HashPart]catalog.Item)
	s, err := New(Config{Catalogue: c, Objects: mem.New(), TTL: time.Hour, NegativeTTL: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask asks for a narinfo as the front does, and returns the body, or "" if Answer leaves it to Handler.
func ask(s *Server, it catalog.Item) string {
	var a httpfront.Answer
	if !s.Answer(&httpfront.Request{Path: []byte("/" + string(it.Path.HashPart()) + ".narinfo")}, &a) {
		return ""
	}
	return string(a.Body)
}

func TestWhatWasPreparedBeforeTheFirstLookAtTheCatalogueIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &shelf{}
		s := newServer(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		it := c.put("a", compress.Zstd)
		if got := ask(s, it); !strings.Contains(got, "Compression: zstd\n") {
			t.Fatalf("at first: %q", got)
		}
		// Run has not asked for the version yet; what it finds later is of after this change.
		c.put("a", compress.Gzip)
		time.Sleep(300 * time.Millisecond)
		if got := ask(s, it); !strings.Contains(got, "Compression: gzip\n") {
			t.Errorf("after a change: %q", got)
		}
		c.change(func() { clear(c.items) })
		time.Sleep(300 * time.Millisecond)
		if got := ask(s, it); got != notFoundBody {
			t.Errorf("after it was withdrawn: %q", got)
		}
	})
}

func TestAPreparedItemIsAskedForOnce(t *testing.T) {
	c := &shelf{}
	s := newServer(t, c)
	it := c.put("a", compress.Zstd)
	for range 10 {
		ask(s, it)
	}
	if c.asked != 1 {
		t.Errorf("the catalogue was asked %d times", c.asked)
	}
}

func TestIgnoranceIsNotAbsence(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		kept   string
	}{
		{catalog.ErrNotFound, 404, "public, max-age=60"},
		{errors.New("disk I/O error"), 500, "no-store"},
		{objstore.ErrUnavailable, 503, "no-store"},
	} {
		cat := &shelf{err: c.err}
		s := newServer(t, cat)
		it := catalogtest.Item("a").Item
		var a httpfront.Answer
		if front := s.Answer(&httpfront.Request{Path: []byte("/" + string(it.Path.HashPart()) + ".narinfo")}, &a); front != (c.status == 404) {
			t.Errorf("%v: the front answers: %v", c.err, front)
		}
		for _, path := range []string{"/" + string(it.Path.HashPart()) + ".narinfo", "/nar/zstd/" + string(it.Path.Base)} {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if got := w.Header().Get("Cache-Control"); w.Code != c.status || got != c.kept {
				t.Errorf("%v: %s is answered %d, %q", c.err, path, w.Code, got)
			}
		}
	}
}

func TestCountsAreWalkedForSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &shelf{}
		s := newServer(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		info := func() string {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/nix-cache-info", nil))
			line, _, _ := strings.Cut(w.Body.String(), "\n")
			return line
		}
		if got := info(); got != "StoreDir: /nix/store" {
			t.Errorf("empty: %s", got)
		}
		c.change(func() { c.counts = catalog.Counts{Items: 1, Dirs: map[storepath.Dir]int64{"/other/store": 1}} })
		time.Sleep(300 * time.Millisecond)
		if got := info(); got != "StoreDir: /other/store" {
			t.Errorf("after the first import: %s", got)
		}
		before := c.counted
		for range 50 {
			c.change(func() { c.counts.Items++ })
			time.Sleep(200 * time.Millisecond)
			info()
		}
		if n := c.counted - before; n > 2 {
			t.Errorf("%d walks in ten seconds of changes", n)
		}
	})
}

func TestTheStoreDirectoryIsOneThatNixMayUse(t *testing.T) {
	for _, c := range []struct {
		dirs map[storepath.Dir]int64
		want storepath.Dir
	}{
		{nil, storepath.Nix},
		{map[storepath.Dir]int64{storepath.Guix: 9}, storepath.Guix},
		{map[storepath.Dir]int64{storepath.Guix: 9, storepath.Nix: 1}, storepath.Nix},
		{map[storepath.Dir]int64{"/a/store": 2, storepath.Nix: 1, "/b/store": 2}, "/a/store"},
	} {
		if got := mainDir(c.dirs); got != c.want {
			t.Errorf("%v: %s, want %s", c.dirs, got, c.want)
		}
	}
}

func TestGzipIsAcceptedAsHTTPSays(t *testing.T) {
	for field, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "x-gzip": true, "br, gzip": true, "gzip;q=0": false, "gzip; q=0.001": true, "*": true, "*;q=0": false,
		"identity": false, "*, gzip;q=0": false, "gzip;q=0, *": false, "gzip;q=no": false, "deflate,br": false,
	} {
		if got := acceptsGzip([]string{field}); got != want {
			t.Errorf("Accept-Encoding: %s: %v", field, got)
		}
	}
}

func TestLogsAreKnownByTheirFirstBytes(t *testing.T) {
	for head, want := range map[string]compress.Method{"\x1f\x8b\x08\x00": compress.Gzip, "BZh9": compress.Bzip2, "\x28\xb5\x2f\xfd": compress.Zstd, "\xfd7zX": compress.Xz,
		"": compress.None, "B": compress.None, "building": compress.None} {
		r := bufio.NewReader(strings.NewReader(head))
		if got, err := sniff(r); got != want || err != nil {
			t.Errorf("%q: %s, %v", head, got, err)
		}
		if rest, err := io.ReadAll(r); string(rest) != head || err != nil {
			t.Errorf("%q: %q is left: %v", head, rest, err)
		}
	}
}

func TestAStreamIsSoughtForwardsOnly(t *testing.T) {
	f := &forward{r: strings.NewReader("0123456789"), size: 10}
	if n, err := f.Seek(0, io.SeekEnd); n != 10 || err != nil {
		t.Errorf("end: %d, %v", n, err)
	}
	if n, err := f.Seek(4, io.SeekStart); n != 4 || err != nil {
		t.Errorf("forwards: %d, %v", n, err)
	}
	p := make([]byte, 3)
	if _, err := io.ReadFull(f, p); string(p) != "456" || err != nil {
		t.Errorf("read %q, %v", p, err)
	}
	if _, err := f.Seek(2, io.SeekStart); err == nil {
		t.Error("what was read can be sought")
	}
	if rest, err := io.ReadAll(f); string(rest) != "789" || err != nil {
		t.Errorf("read %q, %v", rest, err)
	}
}

func TestSizesAreWrittenForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 62: "4096.0 PiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestTheLandingPageTellsHowToUseTheServer(t *testing.T) {
	c := &shelf{counts: catalog.Counts{Items: 7, Bytes: 3 << 20, NarBytes: 9 << 20, Dirs: map[storepath.Dir]int64{storepath.Guix: 4, "/opt/nix/store": 3}}}
	s := newServer(t, c)
	s.Keys = PublicKeys{Guix: []byte("(public-key <x>)\n"), Nix: []string{"one-1:AAA=", "two-1:BBB="}}
	page := func(fields ...string) (string, string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = "cache.example"
		for i := 0; i < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Body.String(), w.Header().Get("Content-Security-Policy")
	}
	text, policy := page()
	for _, want := range []string{"<dd>7</dd>", "<dd>3.0 MiB</dd>", "wget -O - http://cache.example/signing-key.pub | guix archive --authorize", "(public-key &lt;x&gt;)",
		"extra-substituters = http://cache.example\nextra-trusted-public-keys = one-1:AAA= two-1:BBB=</pre>", "<code>/opt/nix/store</code>"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if policy != "default-src 'none'; style-src 'unsafe-inline'" {
		t.Errorf("policy %q", policy)
	}
	if text, _ := page("X-Forwarded-Proto", "https"); !strings.Contains(text, "https://cache.example/signing-key.pub") {
		t.Error("behind a proxy with TLS the page says http")
	}
	if text, _ := page("X-Forwarded-Proto", "javascript"); !strings.Contains(text, "http://cache.example/signing-key.pub") {
		t.Error("the page takes any scheme")
	}
	s.Keys = PublicKeys{}
	for _, path := range []string{"/signing-key.pub", "/nix-key.pub"} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 404 {
			t.Errorf("%s without a key is answered %d", path, w.Code)
		}
	}
}

// broken is a store whose objects break off in the middle, once.
type broken struct {
	objstore.Reader
}

func (b broken) Get(ctx context.Context, k objstore.Key, r objstore.Range) (objstore.Object, error) {
	o, err := b.Reader.Get(ctx, k, r)
	if err == nil {
		o.ReadCloser = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(o.ReadCloser, 100), failing{}), o.ReadCloser}
	}
	return o, err
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, objstore.ErrUnavailable }

func TestABucketThatBreaksOffCutsTheAnswer(t *testing.T) {
	c := &shelf{}
	s := newServer(t, c)
	store := mem.New()
	s.Objects = broken{store}
	it := c.put("a", compress.Zstd)
	if _, err := store.Put(t.Context(), it.Files[0].Key, objstore.Bytes(make([]byte, it.Files[0].Size)), objstore.IfAbsent); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	res, err := server.Client().Get(server.URL + "/nar/zstd/" + string(it.Path.Base))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil || len(b) != 100 || res.ContentLength != it.Files[0].Size {
		t.Errorf("%d of %d bytes came, and then %v", len(b), res.ContentLength, err)
	}
}

package feedserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/nixkey"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
)

// bench is a catalogue with a feed that is served.
type bench struct {
	t         *testing.T
	catalogue *sqlite.DB
	store     objstore.Store
	key       *nixkey.Secret
	server    *Server
	url       string
	stop      func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := nixkey.Generate("farm.example-feed-1", rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{t: t, catalogue: c, store: mem.New(), key: key}
	b.start(2)
	return b
}

// start begins to keep and serve the feed; seed is for the name that is proposed.
func (b *bench) start(seed byte) {
	b.t.Helper()
	var err error
	b.server, err = New(b.catalogue, b.store, b.key, rand.NewChaCha8([32]byte{seed}), slog.New(slog.NewTextHandler(b.t.Output(), nil)))
	if err != nil {
		b.t.Fatal(err)
	}
	mux := http.NewServeMux()
	b.server.Register(mux)
	web := httptest.NewServer(mux)
	b.url = web.URL
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	var running sync.WaitGroup
	server := b.server
	running.Go(func() {
		if err := server.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	b.stop = sync.OnceFunc(func() { cancel(); running.Wait(); web.Close() })
	b.t.Cleanup(b.stop)
}

func (b *bench) publish(ps ...catalog.Publication) {
	b.t.Helper()
	catalogtest.Reserve(b.t, b.catalogue, ps...)
	if _, err := b.catalogue.Publish(b.t.Context(), ps); err != nil {
		b.t.Fatal(err)
	}
}

// many publishes items that nothing references, named prefix and a number.
func (b *bench) many(prefix string, n int) {
	b.t.Helper()
	var ps []catalog.Publication
	var wants []catalog.Want
	for i := range n {
		p := catalogtest.Item(fmt.Sprintf("%s-%d", prefix, i))
		ps, wants = append(ps, p), append(wants, catalog.Want{Base: p.Path.Base, Compression: compress.Zstd})
	}
	if _, err := b.catalogue.Reserve(b.t.Context(), wants); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.catalogue.Publish(b.t.Context(), ps); err != nil {
		b.t.Fatal(err)
	}
}

// ask asks until the answer is not 503, which is the answer until the feed has been read.
func (b *bench) ask(path string) (int, string) {
	b.t.Helper()
	for {
		// Taken before asking, so that what happens meanwhile is not waited for.
		changed := b.server.place().changed
		code, body := b.try(path)
		if code != http.StatusServiceUnavailable {
			return code, body
		}
		select {
		case <-changed:
		case <-b.t.Context().Done():
			b.t.Fatal("the feed is not read")
		}
	}
}

func (b *bench) try(path string) (int, string) {
	b.t.Helper()
	resp, err := http.Get(b.url + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// until waits until the feed has n records.
func (b *bench) until(n int64) {
	b.t.Helper()
	for {
		p := b.server.place()
		// Sealing follows on appending, and wakes nobody.
		if p.end().Sequence >= n && len(p.tail) < feed.SegmentRecords {
			return
		}
		if p.ended {
			b.t.Fatalf("the feed ended at %d of %d", p.end().Sequence, n)
		}
		select {
		case <-p.changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (b *bench) get(path string) string {
	b.t.Helper()
	code, body := b.ask(path)
	if code != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s", path, code, body)
	}
	return body
}

func (b *bench) head() feed.Head {
	b.t.Helper()
	h, err := feed.ParseHead([]byte(b.get("/feed/head")), b.key.Public())
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// stranger runs the verifier that was written from docs/feed.md alone.
func (b *bench) stranger(url string) (string, error) {
	b.t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		b.t.Fatalf("%v: install the Debian package python3", err)
	}
	key := filepath.Join(b.t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(b.key.Public().String()+"\n"), 0o600); err != nil {
		b.t.Fatal(err)
	}
	out, err := exec.CommandContext(b.t.Context(), python, "-B", "../../internal/feed/testdata/verify.py", "--url", key, url).CombinedOutput()
	return string(out), err
}

func TestAStrangerFollowsTheFeedThroughSegmentsToItsHead(t *testing.T) {
	b := newBench(t)
	if h := b.head(); h.Point != feed.Begin(h.Origin) {
		t.Errorf("the head of an empty feed: %+v", h)
	}
	a := catalogtest.Item("a")
	b.publish(a)
	a.Files = append(a.Files, catalogtest.File("a", compress.Lzip))
	b.publish(a)
	b.many("first", 1500)
	b.many("second", 800)
	b.until(2302)
	h := b.head()
	out, err := b.stranger(b.url)
	if want := fmt.Sprintf("verified 2302 records of %s up to 2302: 2301 items\n", h.Origin); err != nil || out != want {
		t.Errorf("%v\n got %q\nwant %q", err, out, want)
	}
	if b.get("/feed/key.pub") != b.key.Public().String()+"\n" {
		t.Error("another key is shown")
	}
	_, records, err := feed.ParseStretch([]byte(b.get("/feed?since=0")))
	if err != nil {
		t.Fatal(err)
	}
	if r := records[1]; r.Op != feed.Files || r.Path != a.Path || len(r.Files) != 2 || !bytes.Equal(r.Narinfo, a.Narinfo) || r.Files[1].Key != a.Files[0].Key {
		t.Errorf("the second record is %+v", r)
	}
	// From wherever one begins, it leads to the head.
	for _, from := range []int64{0, 1, 999, 1000, 1001, 1999, 2000, 2001, 2301, 2302} {
		at := feed.Point{Sequence: -1}
		for at.Sequence < h.Sequence {
			since := max(from, at.Sequence)
			st, _, err := feed.ParseStretch([]byte(b.get(fmt.Sprintf("/feed?since=%d", since))))
			if err != nil {
				t.Fatalf("since %d: %v", since, err)
			}
			if at.Sequence < 0 {
				at = st.Before
			}
			if at.Sequence != since {
				t.Fatalf("since %d begins after %d", since, at.Sequence)
			}
			if at, err = at.Follow(h.Origin, st); err != nil {
				t.Fatalf("since %d: %v", since, err)
			}
		}
		if at != h.Point {
			t.Errorf("from %d: the feed leads to %+v, the head is %+v", from, at, h.Point)
		}
	}
}

func TestAFileThatWasReplacedIsARecord(t *testing.T) {
	b := newBench(t)
	a := catalogtest.Item("a")
	b.publish(a)
	keys, err := b.catalogue.Reserve(t.Context(), []catalog.Want{{Base: a.Path.Base, Compression: compress.Zstd}})
	if err != nil {
		t.Fatal(err)
	}
	f := a.Files[0]
	old := f.Key
	f.Key, f.Size, f.SHA256 = keys[0], 501, digest.Of([]byte("other bytes"))
	if err := b.catalogue.Replace(t.Context(), old, f); err != nil {
		t.Fatal(err)
	}
	b.publish(catalogtest.Item("after-it"))
	b.until(3)
	_, records, err := feed.ParseStretch([]byte(b.get("/feed?since=0")))
	if err != nil || len(records) != 3 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if r := records[1]; r.Op != feed.Files || r.Path != a.Path || len(r.Files) != 1 || r.Files[0].Key != f.Key || r.Files[0].Size != 501 || r.Files[0].SHA256 != f.SHA256 {
		t.Errorf("the second record is %+v", r)
	}
}

func TestTheFeedIsTheSameAfterARestart(t *testing.T) {
	b := newBench(t)
	b.many("first", 1100)
	b.until(1100)
	paths := []string{"/feed/segments/1", "/feed?since=1000", "/feed?since=500", "/feed/key.pub"}
	before, was := make(map[string]string), b.head()
	for _, p := range paths {
		before[p] = b.get(p)
	}
	b.stop()
	// What an item has got since does not change what was said of it.
	a := catalogtest.Item("first-1099")
	a.Files = append(a.Files, catalogtest.File("first-1099", compress.Lzip))
	b.start(3)
	b.until(1100)
	for _, p := range paths {
		if b.get(p) != before[p] {
			t.Errorf("%s is another", p)
		}
	}
	b.publish(a)
	b.until(1101)
	is := b.head()
	if is.Origin != was.Origin || !strings.HasPrefix(b.get("/feed?since=1000"), strings.TrimSuffix(before["/feed?since=1000"], "after "+was.Chain.Hex()+"\n")) {
		t.Error("records that were told have changed")
	}
}

func TestTwoHerdersOfOneCatalogueTellOneFeed(t *testing.T) {
	b := newBench(t)
	stop, first := b.stop, b.server
	b.start(4)
	defer stop()
	second := b.server
	for i := range 20 {
		b.many(fmt.Sprintf("batch-%d", i), 120)
	}
	for _, s := range []*Server{first, second} {
		b.server = s
		b.until(2400)
	}
	if one, other := first.place(), second.place(); one.end() != other.end() || one.origin != other.origin {
		t.Errorf("they stand at %+v and %+v", one.end(), other.end())
	}
	if out, err := b.stranger(b.url); err != nil || !strings.HasPrefix(out, "verified 2400 records") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWhoWaitsIsToldAtOnceOrAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, happens := range map[string]func(s *Server){
			"a record": func(s *Server) {
				s.tail = append(s.tail, catalog.FeedLine{Sequence: 1, Line: []byte("{}\n")})
				s.wake()
			},
			"the end": func(s *Server) { s.mu.Unlock(); s.end(); s.mu.Lock() },
		} {
			s := &Server{loaded: true, changed: make(chan struct{})}
			began := time.Now()
			told := make(chan place, 1)
			go func() { told <- s.await(t.Context(), 0, maxWait) }()
			synctest.Wait()
			s.mu.Lock()
			happens(s)
			s.mu.Unlock()
			if p := <-told; time.Since(began) != 0 || len(p.tail) != len(s.tail) || p.ended != s.ended {
				t.Errorf("%s: told after %v: %+v", name, time.Since(began), p)
			}
		}
	})
}

func TestWhoWaitsInVainIsAnsweredWhenTheTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{loaded: true, changed: make(chan struct{})}
		began := time.Now()
		if p := s.await(t.Context(), 0, 25*time.Second); !p.loaded || time.Since(began) != 25*time.Second {
			t.Errorf("answered after %v: %+v", time.Since(began), p)
		}
		// One that is behind, or ahead, does not wait at all.
		began = time.Now()
		if s.await(t.Context(), 7, 25*time.Second); time.Since(began) != 0 {
			t.Errorf("one that is ahead waited %v", time.Since(began))
		}
	})
}

func TestAHeadIsAtMostASecondOldAndNeverGoesBack(t *testing.T) {
	b := newBench(t)
	b.stop()
	now := time.Now().Truncate(time.Second)
	read := func(at time.Time) time.Time {
		text, err := b.server.sign(at)
		if err != nil {
			t.Fatal(err)
		}
		h, err := feed.ParseHead(text, b.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return h.Time
	}
	b.server.mu.Lock()
	b.server.loaded, b.server.origin = true, strings.Repeat("0", 32)
	b.server.mu.Unlock()
	for _, step := range []struct{ at, want time.Duration }{{0, 0}, {900 * time.Millisecond, 0}, {time.Second, time.Second}, {0, time.Second}} {
		if got := read(now.Add(step.at)); !got.Equal(now.Add(step.want)) {
			t.Errorf("asked at %v: signed at %v, want %v", step.at, got.Sub(now), step.want)
		}
	}
}

func TestRequestsThatHaveNoAnswerAreToldWhy(t *testing.T) {
	b := newBench(t)
	b.publish(catalogtest.Item("a"))
	b.until(1)
	for path, want := range map[string]int{
		"/feed":                   http.StatusBadRequest,
		"/feed?since=":            http.StatusBadRequest,
		"/feed?since=-1":          http.StatusBadRequest,
		"/feed?since=01":          http.StatusBadRequest,
		"/feed?since=0&wait=soon": http.StatusBadRequest,
		"/feed?since=2":           http.StatusConflict,
		"/feed?since=2&wait=60":   http.StatusConflict,
		"/feed/segments/0":        http.StatusBadRequest,
		"/feed/segments/x":        http.StatusBadRequest,
		"/feed/segments/1":        http.StatusNotFound,
		"/feed/nothing":           http.StatusNotFound,
	} {
		if code, body := b.ask(path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
}

func TestTheManifestNamesEverySegmentAndEveryNar(t *testing.T) {
	b := newBench(t)
	b.many("x", 1000)
	plus := catalogtest.Item("c++")
	b.publish(plus)
	b.until(1001)
	lines := strings.Split(b.get("/feed/manifest"), "\n")
	if len(lines) != 1005 || lines[0] != "narfold-feed-manifest 2" || lines[1003] != "end 1002" || lines[1004] != "" {
		t.Fatalf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-2:])
	}
	segment := b.get("/feed/segments/1")
	if want := fmt.Sprintf("%s\t%d\tfeed/segments/1", digest.Of([]byte(segment)).Hex(), len(segment)); lines[1002] != want {
		t.Errorf("the segment is %q, want %q", lines[1002], want)
	}
	// Where the object's name is not the URL, the URL comes after it.
	key := "nar/zstd/" + string(plus.Path.Base)
	if want := fmt.Sprintf("%s\t500\t%s\tnar/zstd/%s-c%%2B%%2B", plus.Files[0].SHA256.Hex(), key, plus.Path.HashPart()); lines[1001] != want {
		t.Errorf("the nar is %q, want %q", lines[1001], want)
	}
}

func TestAFeedThatWasChangedInTheCatalogueIsNotSigned(t *testing.T) {
	b := newBench(t)
	b.publish(catalogtest.Item("a"))
	b.until(1)
	b.stop()
	line := []byte("{}\n")
	if err := b.catalogue.AppendFeed(t.Context(), []catalog.FeedLine{{Sequence: 2, Line: line, Chain: digest.Of(line)}}); err != nil {
		t.Fatal(err)
	}
	s, err := New(b.catalogue, b.store, b.key, rand.NewChaCha8([32]byte{5}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.load(t.Context()); err == nil || !strings.Contains(err.Error(), "record 2 does not fit the chain") {
		t.Errorf("loaded: %v", err)
	}
	if _, err := s.sign(time.Now()); err == nil {
		t.Error("signed")
	}
}

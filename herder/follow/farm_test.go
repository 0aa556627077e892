package follow

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// upstream is a substitute server that answers what the test has it answer.
type upstream struct {
	testing.TB
	*httptest.Server
	key, other *nixkey.Secret // of which the first is trusted
	feedKey    *nixkey.Secret

	mu     sync.Mutex
	bodies map[string][]byte // by path
	acts   map[string]http.HandlerFunc
	asked  map[string]int
	origin string
	lines  [][]byte // of the feed
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{TB: t, bodies: map[string][]byte{}, acts: map[string]http.HandlerFunc{}, asked: map[string]int{}, origin: strings.Repeat("0a", 16)}
	for _, k := range []**nixkey.Secret{&u.key, &u.other, &u.feedKey} {
		key, err := nixkey.Generate(fmt.Sprintf("key-%p", k), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		*k = key
	}
	u.bodies["/nix-cache-info"] = []byte("StoreDir: /nix/store\n")
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		body, there := u.bodies[r.URL.RequestURI()]
		act := u.acts[r.URL.Path]
		u.asked[r.URL.Path]++
		u.mu.Unlock()
		switch {
		case act != nil:
			act(w, r)
		case there:
			w.Write(body)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(u.Close)
	return u
}

// item puts an item on the server, signed, and returns its base name. change, if not nil, changes the narinfo before it is signed.
func (u *upstream) item(name, contents string, change func(*narinfo.Narinfo), refs ...storepath.Base) storepath.Base {
	u.Helper()
	plain := narOf(u, contents)
	base := catalogtest.Base(name)
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: base}, NarHash: digest.Of(plain), NarSize: int64(len(plain)),
		References: refs, Files: []narinfo.File{{URL: "nar/" + name, Compression: compress.None, FileSize: narinfo.UnknownSize}}}
	slices.Sort(n.References)
	if change != nil {
		change(n)
	}
	n.Sigs = []string{u.key.Sign(n.Fingerprint())}
	u.set("/nar/"+name, plain)
	u.set(infoPath(base), narinfo.Nix(n))
	return base
}

func infoPath(b storepath.Base) string { return "/" + string(b.HashPart()) + ".narinfo" }

func (u *upstream) set(path string, body []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bodies[path] = body
}

func (u *upstream) act(path string, f http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.acts[path] = f
}

// times returns how often a path was asked for, and forgets it.
func (u *upstream) times(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.asked[path]
	u.asked[path] = 0
	return n
}

// list is the upstream's own list.
func (u *upstream) list(items ...storepath.Base) {
	var b strings.Builder
	for _, it := range items {
		fmt.Fprintf(&b, "/nix/store/%s\n", it)
	}
	u.set("/store-paths", []byte(b.String()))
}

func narOf(t testing.TB, contents string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	if err := w.File("", int64(len(contents)), false); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, contents); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// announce appends records to the feed and signs its head.
func (u *upstream) announce(op feed.Op, items ...storepath.Base) {
	u.Helper()
	for _, b := range items {
		r := feed.Record{Sequence: int64(len(u.lines) + 1), Time: time.Unix(1_800_000_000, 0), Op: op, Path: storepath.Path{Dir: storepath.Nix, Base: b}}
		if op == feed.Publish {
			n, err := narinfo.Parse(u.bodies[infoPath(b)])
			if err != nil {
				u.Fatal(err)
			}
			r.NarHash, r.NarSize, r.Narinfo = n.NarHash, n.NarSize, n.Raw
			r.Files = []feed.File{{Compression: compress.None, Size: n.NarSize, SHA256: n.NarHash, Key: "nar/none/x", URL: "nar/none/x"}}
		}
		line, err := r.Line()
		if err != nil {
			u.Fatal(err)
		}
		u.lines = append(u.lines, line)
	}
	u.publishFeed()
}

// publishFeed serves the head, and all stretches of at most two records.
func (u *upstream) publishFeed() {
	points := []feed.Point{feed.Begin(u.origin)}
	for _, l := range u.lines {
		points = append(points, points[len(points)-1].Next(l))
	}
	for i, p := range points {
		s := &feed.Stretch{Origin: u.origin, Before: p, Lines: u.lines[i:min(i+2, len(u.lines))]}
		u.set(fmt.Sprintf("/feed?since=%d", i), s.Text())
	}
	head := feed.Head{Origin: u.origin, Point: points[len(points)-1], Time: time.Unix(1_800_000_000, 0)}
	u.set("/feed/head", head.Sign(u.feedKey))
}

// follower is a deployment that follows an upstream.
type follower struct {
	*Follower
	testing.TB
	cat *sqlite.DB
}

func follow(t testing.TB, u *upstream, change func(*Parts)) *follower {
	t.Helper()
	dir := t.TempDir()
	cat, err := sqlite.Open(t.Context(), filepath.Join(dir, "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	keys, err := keyring.Load("follower.example", writeKey(t, u))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	p := Parts{
		Upstream: Upstream{URL: u.URL, Keys: keys, Every: time.Minute, Place: filepath.Join(dir, "place.json")},
		To:       &publish.Publisher{Catalogue: cat, Objects: mem.New(), Keys: keys, Spool: dir, Workers: 2, Log: log},
		Missing:  cat.Missing, Spool: dir, Log: log,
	}
	if change != nil {
		change(&p)
	}
	f, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return &follower{Follower: f, TB: t, cat: cat}
}

// writeKey writes the key that is trusted to a file.
func writeKey(t testing.TB, u *upstream) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "trusted.pub")
	if err := os.WriteFile(name, []byte(u.key.Public().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// byFeed has it follow the change feed.
func byFeed(u *upstream) func(*Parts) {
	return func(p *Parts) {
		key := u.feedKey.Public()
		p.FeedKey = &key
	}
}

// once makes a round that must succeed.
func (f *follower) once() Summary {
	f.Helper()
	sum, err := f.Once(f.Context())
	if err != nil {
		f.Fatalf("round: %v, %+v", err, sum)
	}
	return sum
}

// has fails unless exactly these are published.
func (f *follower) has(items ...storepath.Base) {
	f.Helper()
	var got []storepath.Base
	for it, err := range f.cat.Items(context.Background(), 0) {
		if err != nil {
			f.Fatal(err)
		}
		got = append(got, it.Path.Base)
	}
	slices.Sort(got)
	want := slices.Sorted(slices.Values(items))
	if !slices.Equal(got, want) {
		f.Errorf("published are %v, want %v", got, want)
	}
}

// says fails unless the summary tells this of an item.
func (s Summary) says(t testing.TB, item storepath.Base, words string) {
	t.Helper()
	for _, f := range s.Failures {
		if strings.Contains(f.Item, string(item.HashPart())) {
			if !strings.Contains(f.Error, words) {
				t.Errorf("of %s it is said %q, want %q", item, f.Error, words)
			}
			return
		}
	}
	t.Errorf("of %s nothing is said: %+v", item, s.Failures)
}

package source

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// served is a cache behind HTTP that notes which narinfos are asked for, and may answer some of them otherwise.
type served struct {
	*httptest.Server
	other map[string]http.HandlerFunc // by path

	mu    sync.Mutex
	asked []string
}

func newServed(t testing.TB, dir string) *served {
	t.Helper()
	s := &served{other: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if name, ok := narinfoName(strings.TrimPrefix(r.URL.Path, "/")); ok {
			s.asked = append(s.asked, string(name))
		}
		s.mu.Unlock()
		if other := s.other[r.URL.Path]; other != nil {
			other(w, r)
			return
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func hashOf(item string) string { return filepath.Base(item)[:storepath.HashLen] }

func TestWhatIsNotMissingIsNotAskedFor(t *testing.T) {
	n := newNix(t)
	dep, _, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=none", dev)
	s := newServed(t, dir)
	listed := consume(t, open1(t, s.URL, Options{Items: []string{dev}, Closure: true, Missing: func(_ context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
		return slices.DeleteFunc(slices.Clone(hs), func(h storepath.HashPart) bool { return string(h) == hashOf(dep) }), nil
	}}))
	wantPaths(t, listed, slices.DeleteFunc(closure(n, dev), func(p string) bool { return p == dep }))
	if slices.Contains(s.asked, hashOf(dep)) {
		t.Error("the narinfo of an item that is here was asked for")
	}
	bad := errors.New("catalogue is away")
	_, err := tryConsume(t.Context(), open1(t, s.URL, Options{Items: []string{dev}, Missing: func(context.Context, []storepath.HashPart) ([]storepath.HashPart, error) { return nil, bad }}))
	if !errors.Is(err, bad) {
		t.Errorf("what fails for another reason: %v", err)
	}
}

func TestBehindANarinfoThatIsNotAcceptedNothingIsAskedFor(t *testing.T) {
	n := newNix(t)
	dep, app, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=none", dev)
	s := newServed(t, dir)
	bad := errors.New("not signed by anybody known")
	refused := map[string]error{}
	listed := consume(t, open1(t, s.URL, Options{Items: []string{dev}, Closure: true, Refused: func(item string, err error) { refused[item] = err },
		Accept: func(n *narinfo.Narinfo) error {
			if n.StorePath.String() == app {
				return bad
			}
			return nil
		}}))
	if _, ok := listed[app]; ok || !errors.Is(refused[hashOf(app)], bad) {
		t.Errorf("listed %v, refused %v", keys(listed), refused)
	}
	if len(listed) != 1 || slices.Contains(s.asked, hashOf(dep)) {
		t.Errorf("listed %v, asked for %v", keys(listed), s.asked)
	}
}

func TestAServerWithoutAnAnswerForOneItemIsAskedForTheOthers(t *testing.T) {
	n := newNix(t)
	dep, app, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=none", dev)
	s := newServed(t, dir)
	s.other["/"+hashOf(app)+".narinfo"] = func(w http.ResponseWriter, r *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) }
	s.other["/"+hashOf(dep)+".narinfo"] = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }
	var unavailable, refused []string
	opt := Options{Items: []string{dev, app, dep}, Refused: func(item string, err error) {
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "redirected more than 10 times") {
			t.Errorf("%s: %v", item, err)
		}
		refused = append(refused, item)
	}, Unavailable: func(item string, err error) error {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", item, err)
		}
		unavailable = append(unavailable, item)
		return nil
	}}
	c := open1(t, s.URL, opt).(*cache)
	c.tree.(*web).retry.sleep = func(context.Context, time.Duration) error { return nil }
	wantPaths(t, consume(t, c), []string{dev})
	if !slices.Equal(unavailable, []string{app}) || !slices.Equal(refused, []string{dep}) {
		t.Errorf("unavailable %v, refused %v", unavailable, refused)
	}
	if most := 11; len(s.asked) > 1+attempts+most {
		t.Errorf("a loop of redirections was asked for %d times", len(s.asked)-1-attempts)
	}

	enough := errors.New("enough")
	opt.Unavailable = func(string, error) error { return enough }
	c = open1(t, s.URL, opt).(*cache)
	c.tree.(*web).retry.sleep = func(context.Context, time.Duration) error { return nil }
	if _, err := tryConsume(t.Context(), c); !errors.Is(err, enough) {
		t.Errorf("a list that is to end: %v", err)
	}
}

func TestASmallFileIsFetched(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/a/feed?since=3" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte("four"))
	}))
	defer server.Close()
	if text, err := Fetch(t.Context(), server.URL+"/a/", "feed?since=3", 4, Options{}); err != nil || string(text) != "four" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := Fetch(t.Context(), server.URL+"/a", "feed?since=3", 3, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("too large: %v", err)
	}
	if _, err := Fetch(t.Context(), server.URL, "head", 4, Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	for _, root := range []string{"/srv", "ftp://x", "http://", "http://x/?y"} {
		if _, err := Fetch(t.Context(), root, "x", 4, Options{}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", root, err)
		}
	}
}

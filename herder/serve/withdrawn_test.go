package serve

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/httpfront"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// twice opens one catalogue as two processes do.
func twice(t *testing.T) (served, other *sqlite.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalogue.db")
	for _, db := range []**sqlite.DB{&served, &other} {
		var err error
		if *db, err = sqlite.Open(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*db).Close() })
	}
	return served, other
}

// running serves a catalogue until the test ends.
func running(t *testing.T, c Catalogue, objects objstore.Reader) *Server {
	t.Helper()
	s, err := New(Config{Catalogue: c, Objects: objects, TTL: time.Hour, NegativeTTL: time.Minute, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); run.Wait() })
	return s
}

func statusOf(s *Server, path string) int {
	var a httpfront.Answer
	if s.Answer(&httpfront.Request{Path: []byte(path)}, &a) {
		if bytes.Equal(a.Body, []byte(notFoundBody)) {
			return http.StatusNotFound
		}
		return http.StatusOK
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code
}

func TestWhatIsWithdrawnIsNotServedAndWhatIsBroughtBackIs(t *testing.T) {
	served, other := twice(t)
	objects := mem.New()
	p := catalogtest.Item("a")
	put := func(k objstore.Key) {
		t.Helper()
		if _, err := objects.Put(t.Context(), k, objstore.Bytes([]byte(strings.Repeat("n", 500))), objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(want catalog.Verdict) {
		t.Helper()
		keys, err := served.Reserve(t.Context(), []catalog.Want{{Base: p.Path.Base, Compression: compress.Zstd}})
		if err != nil {
			t.Fatal(err)
		}
		p.Files[0].Key = keys[0]
		put(keys[0])
		if out, err := served.Publish(t.Context(), []catalog.Publication{p}); err != nil || out[0].Verdict != want {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	s := running(t, served, objects)
	h := []storepath.HashPart{p.Path.HashPart()}
	narinfo, nar := fmt.Sprintf("/%s.narinfo", h[0]), "/nar/zstd/"+string(p.Path.Base)
	// What is there is served at once; what is not may be served for a fifth of a second more.
	serves := func(step string, narinfoWant, narWant int) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for narinfoWant == http.StatusNotFound && statusOf(s, narinfo) != narinfoWant && time.Now().Before(deadline) {
		}
		if got := statusOf(s, narinfo); got != narinfoWant {
			t.Errorf("%s: the narinfo is answered %d, want %d", step, got, narinfoWant)
		}
		if got := statusOf(s, nar); got != narWant {
			t.Errorf("%s: the nar is answered %d, want %d", step, got, narWant)
		}
	}
	serves("before", 404, 404)
	publish(catalog.Published)
	serves("published", 200, 200)
	for _, by := range []*sqlite.DB{served, other} {
		if out, err := by.Withdraw(t.Context(), catalog.Withdrawal{Items: h}); err != nil || out[0].Verdict != catalog.Withdrawn {
			t.Fatalf("%+v, %v", out, err)
		}
		serves("withdrawn", 404, 200)
		if out, err := by.Restore(t.Context(), h); err != nil || out[0] != catalog.Restored {
			t.Fatalf("%+v, %v", out, err)
		}
		serves("brought back", 200, 200)
	}
	out, err := other.Withdraw(t.Context(), catalog.Withdrawal{Items: h})
	if err != nil {
		t.Fatal(err)
	}
	ids := []int64{out[0].Sequence}
	gone, err := other.BeginDelete(t.Context(), ids, time.Now().Add(time.Hour))
	if err != nil || gone[0].Verdict != catalog.Deletable {
		t.Fatalf("%+v, %v", gone, err)
	}
	serves("deleting", 404, 404)
	publish(catalog.Published)
	for _, k := range gone[0].Keys {
		if err := objects.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Deleted(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	serves("published again, and the old one deleted", 200, 200)
}

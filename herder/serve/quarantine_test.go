package serve

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/compress"
	"narfold/internal/objstore"
)

func TestWhatIsInQuarantineIsNotServedAndNotCalledAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &shelf{}
		s := newServer(t, c)
		q := new(Quarantine)
		s.Quarantine = q
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		both, one := c.put("both", compress.Lzip, compress.Zstd), c.put("one", compress.Zstd)
		get := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w
		}
		soon := func() { time.Sleep(time.Second); synctest.Wait() }
		soon()
		if body := ask(s, both); strings.Count(body, "URL:") != 2 {
			t.Fatalf("whole: %q", body)
		}
		ask(s, one)
		q.Set([]objstore.Key{both.Files[1].Key, one.Files[0].Key})
		soon()
		if body := ask(s, both); strings.Count(body, "URL:") != 1 || !strings.Contains(body, string(both.Files[0].Compression)) {
			t.Errorf("with one of two forms: %q", body)
		}
		if body := ask(s, one); body != "" {
			t.Errorf("with none: %q", body)
		}
		w := get("/" + string(one.Path.HashPart()) + ".narinfo")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("with none: %d %v", w.Code, w.Header())
		}
		if w := get("/nar/zstd/" + string(one.Path.Base)); w.Code != http.StatusServiceUnavailable {
			t.Errorf("its nar: %d", w.Code)
		}
		if w := get("/nar/zstd/" + string(both.Path.Base)); w.Code != http.StatusNotFound {
			t.Errorf("the form that is damaged: %d", w.Code)
		}
		if q.Len() != 2 || len(q.Keys()) != 2 {
			t.Errorf("%v in quarantine", q.Keys())
		}
		q.Set(nil)
		soon()
		if body := ask(s, one); strings.Count(body, "URL:") != 1 {
			t.Errorf("repaired: %q", body)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

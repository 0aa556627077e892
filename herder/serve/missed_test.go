package serve

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/httpfront"
	"narfold/internal/storepath"
)

func TestWhatIsAskedForInVainIsTold(t *testing.T) {
	var missed []storepath.HashPart
	s := newServer(t, &shelf{items: map[storepath.HashPart]catalog.Item{}})
	s.Missed = func(h storepath.HashPart) <-chan struct{} {
		missed = append(missed, h)
		return nil
	}
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	if !s.Answer(&httpfront.Request{Path: []byte("/" + one + ".narinfo")}, new(httpfront.Answer)) {
		t.Fatal("a miss is left to the general way")
	}
	s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/"+two+".narinfo", nil))
	for _, other := range []string{"/no.narinfo", "/nar/zstd/" + one + "-x", "/log/" + one + "-x"} {
		s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", other, nil))
	}
	if want := []storepath.HashPart{storepath.HashPart(one), storepath.HashPart(two)}; !slices.Equal(missed, want) || s.Counters().NarinfoMisses != 2 {
		t.Errorf("missed %v, want %v; %+v", missed, want, s.Counters())
	}
}

func TestWhatIsBeingBroughtIsWaitedForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		comes, settles time.Duration // 0 is never
		status         int
		after          time.Duration
	}{
		"it comes":                {time.Second, 5 * time.Second, http.StatusOK, time.Second + missLook},
		"it is not to be had":     {0, time.Second, http.StatusNotFound, time.Second},
		"it takes its time":       {0, 0, http.StatusNotFound, missWait},
		"it is here when settled": {450 * time.Millisecond, 500 * time.Millisecond, http.StatusOK, 700 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shelf := &shelf{}
				s := newServer(t, shelf)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go s.Run(ctx)
				it := shelf.put("a", compress.Zstd)
				h := it.Path.HashPart()
				shelf.change(func() { delete(shelf.items, h) })
				time.Sleep(time.Second)
				settled := make(chan struct{})
				s.Missed = func(storepath.HashPart) <-chan struct{} { return settled }
				if c.comes > 0 {
					time.AfterFunc(c.comes, func() { shelf.put("a", compress.Zstd) })
				}
				if c.settles > 0 {
					time.AfterFunc(c.settles, func() { close(settled) })
				}
				if s.Answer(&httpfront.Request{Path: []byte("/" + string(h) + ".narinfo")}, new(httpfront.Answer)) {
					t.Fatal("the front answers what is waited for")
				}
				begun := time.Now()
				w := httptest.NewRecorder()
				s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/"+string(h)+".narinfo", nil))
				if d := time.Since(begun); w.Code != c.status || d > c.after {
					t.Errorf("status %d after %v, want %d after at most %v", w.Code, d, c.status, c.after)
				}
			})
		})
	}
}

package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/source"
	"narfold/internal/storepath"
)

// wire is a network without sockets.
type wire struct {
	down  atomic.Bool
	asked atomic.Int64
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.asked.Add(1)
	if w.down.Load() {
		return nil, errors.New("no route to host")
	}
	status, body := http.StatusNotFound, ""
	if strings.HasSuffix(r.URL.Path, "/store-paths") {
		status, body = http.StatusOK, "# nothing yet\n/nix/store/"+strings.Repeat("1", 32)+"-x\n"
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// nothing publishes nothing.
type nothing struct{}

func (nothing) Run(_ context.Context, jobs iter.Seq2[publish.Job, error], _ func(publish.Result)) error {
	for _, err := range jobs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Asked every minute while it is there; while it is away after half a minute, then less and less often, and in the end every hour.
func TestAnUpstreamThatIsAwayIsAskedLessAndLessOften(t *testing.T) {
	u := newUpstream(t)
	file := writeKey(t, u)
	keys, err := keyring.Load("x", file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		f, err := New(Parts{
			Upstream: Upstream{URL: "http://cache.example", Keys: keys, Every: time.Minute, Place: filepath.Join(dir, "place")},
			To:       nothing{}, HTTP: &http.Client{Transport: w}, Log: slog.New(slog.DiscardHandler),
			Missing: func(_ context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		within := func(d time.Duration, most, least uint64, count func(Stats) uint64) {
			t.Helper()
			before := count(f.Stats())
			time.Sleep(d)
			synctest.Wait()
			if n := count(f.Stats()) - before; n < least || n > most {
				t.Errorf("in %v there were %d rounds, want %d to %d: %+v", d, n, least, most, f.Stats())
			}
		}
		done, failed := func(s Stats) uint64 { return s.Rounds }, func(s Stats) uint64 { return s.Failed }
		within(time.Hour, 60, 50, done)
		w.down.Store(true)
		within(5*time.Minute, 4, 2, failed)
		within(time.Hour, 6, 2, failed)
		within(24*time.Hour, 25, 20, failed)
		w.down.Store(false)
		within(2*time.Hour, 120, 50, done)
		if s := f.Stats(); time.Since(s.Last) > 2*time.Minute || s.Owed != 0 {
			t.Errorf("%+v", s)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// inside lets an upstream be asked without a network, so that a test's clock governs.
type inside struct{ u *upstream }

func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.u.Config.Handler.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// Its narinfos come, and its nars do not: the round ends when that is clear, and says that another time may be better.
func TestAnUpstreamWhoseNarsDoNotComeIsGivenUp(t *testing.T) {
	const items = 200
	u := newUpstream(t)
	var all []storepath.Base
	down := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "later", http.StatusServiceUnavailable) }
	for i := range items {
		name := fmt.Sprint("item-", i)
		all = append(all, u.item(name, "contents "+name, nil))
		u.act("/nar/"+name, down)
	}
	u.list(all...)
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, u, func(p *Parts) { p.HTTP = &http.Client{Transport: inside{u}} })
		begun := time.Now()
		sum, err := f.Once(t.Context())
		if !errors.Is(err, source.ErrUnavailable) || sum.Published != 0 || len(sum.broken) != 0 {
			t.Errorf("%v: %+v", err, sum)
		}
		asked := 0
		for i := range items {
			asked += u.times(fmt.Sprint("/nar/item-", i))
			u.act(fmt.Sprint("/nar/item-", i), nil)
		}
		if d := time.Since(begun); asked > 100 || d > 2*time.Minute {
			t.Errorf("it was asked %d times, for %v", asked, d)
		}
		if sum := f.once(); sum.Published != items {
			t.Errorf("when it is there again: %+v", sum)
		}
	})
}

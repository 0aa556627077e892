package follow

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narfold/herder/keyring"
	"narfold/herder/publish"
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

package tally

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/storepath"
)

// ledger is a catalogue that fails as it is told.
type ledger struct {
	mu    sync.Mutex
	times map[storepath.HashPart]int64
	last  time.Time
	calls int
	err   error
}

func (l *ledger) RecordServed(_ context.Context, served []catalog.Served) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.err != nil {
		return l.err
	}
	for _, s := range served {
		l.times[s.Hash] += s.Times
		l.last = s.Last
	}
	return nil
}

// told reports what it was told, and in how many calls.
func (l *ledger) told() (times map[storepath.HashPart]int64, last time.Time, calls int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.times), l.last, l.calls
}

func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func hash(name string) storepath.HashPart { return catalogtest.Base(name).HashPart() }

func TestWhatIsServedIsToldNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{times: map[storepath.HashPart]int64{}}
		c := New(l, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		if _, _, calls := l.told(); calls != 0 {
			t.Errorf("told %d times of nothing", calls)
		}
		c.Served(hash("a"))
		c.Served(hash("a"))
		c.Served(hash("b"))
		if _, _, calls := l.told(); calls != 0 {
			t.Error("told at once")
		}
		time.Sleep(tellEvery)
		synctest.Wait()
		want := map[storepath.HashPart]int64{hash("a"): 2, hash("b"): 1}
		if times, last, calls := l.told(); !maps.Equal(times, want) || calls != 1 || !last.Equal(catalog.Day(time.Now())) {
			t.Errorf("told %v of %v in %d calls", times, last, calls)
		}
		// What the catalogue cannot take is told the next time.
		l.fail(errors.New("busy"))
		c.Served(hash("a"))
		time.Sleep(tellEvery)
		synctest.Wait()
		l.fail(nil)
		c.Served(hash("b"))
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want = map[storepath.HashPart]int64{hash("a"): 3, hash("b"): 2}
		if times, _, _ := l.told(); !maps.Equal(times, want) {
			t.Errorf("at the end told %v, want %v", times, want)
		}
	})
}

func TestWhatIsCountedIsBounded(t *testing.T) {
	l := &ledger{times: map[storepath.HashPart]int64{}}
	c := New(l, slog.New(slog.DiscardHandler))
	for i := range most + 1000 {
		c.Served(hash(fmt.Sprint(i)))
	}
	c.Served(hash("0"))
	c.tell(t.Context())
	if len(l.times) != most || l.times[hash("0")] != 2 || l.calls != most/atOnce {
		t.Errorf("%d items are told in %d calls, the first %d times", len(l.times), l.calls, l.times[hash("0")])
	}
}

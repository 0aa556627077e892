package s3

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/objstore"
)

func offline(attempts int) *Store {
	return &Store{conf: Config{Attempts: attempts}, budget: newBudget()}
}

func TestRetryWaitsLongerEachTimeAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := offline(12)
		var longest [12]time.Duration
		for range 4 {
			last := time.Now()
			n := 0
			err := s.retry(t.Context(), func() error {
				longest[n] = max(longest[n], time.Since(last))
				last = time.Now()
				n++
				return objstore.ErrUnavailable
			})
			if !errors.Is(err, objstore.ErrUnavailable) || n != 12 {
				t.Fatalf("ended after %d tries with %v", n, err)
			}
		}
		for i, d := range longest {
			if limit := min(firstWait<<max(0, i-1), longWait); i == 0 && d != 0 || d > limit {
				t.Errorf("waited %v before try %d, at most %v is allowed", d, i, limit)
			}
		}
	})
}

func TestRetryObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := offline(1000).retry(ctx, func() error { return objstore.ErrUnavailable })
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("went on for %v", d)
		}
	})
}

func TestRetryIsForWhatMayPass(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{objstore.ErrDenied, objstore.ErrDenied},
		{objstore.ErrConflict, objstore.ErrConflict},
		{objstore.ErrNotFound, objstore.ErrNotFound},
		{objstore.ErrFull, objstore.ErrFull},
		{objstore.ErrDigest, objstore.ErrDigest},
		{context.Canceled, context.Canceled},
		{final{objstore.ErrUnavailable}, objstore.ErrUnavailable},
	} {
		n := 0
		if err := offline(5).retry(t.Context(), func() error { n++; return c.err }); n != 1 || err != c.want {
			t.Errorf("%v: tried %d times, error %v, want %v", c.err, n, err, c.want)
		}
	}
}

func TestBudgetEndsRetriesWhenMostFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := offline(3)
		tries := 0
		for range 1000 {
			s.retry(t.Context(), func() error { tries++; return objstore.ErrUnavailable })
		}
		if tries != 1000+fullBudget {
			t.Errorf("%d tries for 1000 requests that all fail, want %d", tries, 1000+fullBudget)
		}
		for range 10 * fullBudget {
			if err := s.retry(t.Context(), func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		tries = 0
		s.retry(t.Context(), func() error { tries++; return objstore.ErrUnavailable })
		if tries != 3 {
			t.Errorf("after successes: %d tries, want 3", tries)
		}
	})
}

func TestPartSize(t *testing.T) {
	for _, c := range []struct{ size, want, is int64 }{
		{70 << 20, 16 << 20, 16 << 20},
		{160_000 << 20, 16 << 20, 16 << 20},
		{160_001 << 20, 16 << 20, 17 << 20},
		{5 << 40, 16 << 20, 525 << 20},
	} {
		if got := partSize(c.size, c.want); got != c.is || (c.size+got-1)/got > maxParts {
			t.Errorf("partSize(%d, %d) = %d, want %d", c.size, c.want, got, c.is)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-5/6")
	f.Add("bytes */10")
	f.Add("bytes 9-0/10")
	f.Fuzz(func(t *testing.T, s string) {
		first, end, total, err := contentRange(s)
		if err == nil && (first < 0 || end <= first || end > total) {
			t.Errorf("%q reads as %d, %d, %d", s, first, end, total)
		}
	})
}

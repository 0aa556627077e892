package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// retrying repeats requests that may succeed the next time, within a budget that all requests to one cache share: a server that is
// down is given up after some tens of attempts and not after five for each of a million items.
type retrying struct {
	mu     sync.Mutex
	budget float64 // attempts left beyond the first of each request
	// sleep waits, or returns the context's cause.
	sleep func(ctx context.Context, d time.Duration) error
}

const (
	attempts   = 5
	budgetMost = 64
	budgetEarn = 0.2 // given back by each request that succeeds
	firstPause = 250 * time.Millisecond
	longPause  = 2 * time.Minute // of what a server may ask for by Retry-After
)

func newRetrying() *retrying {
	return &retrying{budget: budgetMost, sleep: sleep}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *retrying) spend() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.budget < 1 {
		return false
	}
	r.budget--
	return true
}

func (r *retrying) earn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.budget = min(budgetMost, r.budget+budgetEarn)
}

// attemptError is why one attempt came to nothing.
type attemptError struct {
	again bool          // whether another attempt may succeed
	after time.Duration // what the server asked to wait; 0 if it did not say
	err   error
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

// do calls try until it succeeds, fails for good, or patience ends; then the error is ErrUnavailable too.
func (r *retrying) do(ctx context.Context, try func(ctx context.Context) error) error {
	for n := 1; ; n++ {
		err := try(ctx)
		if err == nil {
			r.earn()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var a *attemptError
		if !errors.As(err, &a) || !a.again {
			return err
		}
		if n == attempts || !r.spend() {
			return fmt.Errorf("%w: gave up after %d attempts: %w", ErrUnavailable, n, err)
		}
		if err := r.sleep(ctx, pause(n, a.after)); err != nil {
			return err
		}
	}
}

// pause returns how long to wait after the nth attempt: what the server asked for, or twice as long each time with a random part,
// so that many requests do not come back at the same moment.
func pause(n int, asked time.Duration) time.Duration {
	if asked > 0 {
		return min(asked, longPause)
	}
	d := firstPause << (n - 1)
	return d/2 + rand.N(d)
}

// refusal makes an error of an answer that is not what was asked for.
func refusal(at string, resp *http.Response) error {
	err := fmt.Errorf("get %s: status %s", redacted(at), resp.Status)
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: %w", err, ErrNotFound)
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return fmt.Errorf("%w: %w", err, fs.ErrPermission)
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &attemptError{again: true, after: retryAfter(resp.Header.Get("Retry-After"), time.Now()), err: err}
	}
	return err
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), 86400)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

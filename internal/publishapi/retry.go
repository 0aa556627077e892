package publishapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	firstPause = 500 * time.Millisecond
	mostPause  = 30 * time.Second
	// mostAsked bounds what a server may ask for by Retry-After.
	mostAsked = 10 * time.Minute
)

// attempt is why one request came to nothing.
type attempt struct {
	again bool          // whether another may succeed
	after time.Duration // what the herder asks to wait; 0 if it did not say
	err   error
}

// pause returns how long to wait after n failures before this one: longer each time, and not the same for all who wait.
func (a *attempt) pause(n int) time.Duration {
	d := min(firstPause<<min(n, 10), mostPause)
	d = d/2 + rand.N(d/2)
	if a.after > 0 {
		d = a.after + rand.N(a.after/8+1)
	}
	return d
}

// patience is how long is tried again; negative: never.
func (c *Client) patience() time.Duration {
	if c.Patience == 0 {
		return defaultPatience
	}
	return c.Patience
}

// patient reports whether there is time left for another attempt after pause, and for how long nothing has succeeded.
func (c *Client) patient(pause time.Duration) (since time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.failed.IsZero() {
		c.failed = now
	}
	return now.Sub(c.failed), now.Add(pause).Before(c.failed.Add(c.patience()))
}

// gaveUp is the last word on a request that was tried again, or would have been with more patience.
func (c *Client) gaveUp(r request, a *attempt, since, pause time.Duration) error {
	if c.patience() < 0 {
		return fmt.Errorf("%s: %w", r.doing, a.err)
	}
	return fmt.Errorf("%s: %w; given up: nothing succeeded for %v, and the next try would have been in %v", r.doing, a.err,
		since.Round(time.Second), pause.Round(time.Second))
}

// tellEvery is how often the log is told of what is tried again: many uploads wait for the same.
const tellEvery = 10 * time.Second

// tell says why nothing is sent now.
func (c *Client) tell(r request, a *attempt, pause time.Duration) {
	if c.Waiting != nil {
		c.Waiting(a.err, pause)
	}
	c.mu.Lock()
	now := time.Now()
	due := now.Sub(c.told) >= tellEvery
	if due {
		c.told = now
	}
	c.mu.Unlock()
	if due && c.Log != nil {
		c.Log.Warn("herder cannot do it now, trying again", "what", r.doing, "in", pause.Round(time.Millisecond), "error", a.err)
	}
}

func (c *Client) succeeded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = time.Time{}
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

// unreachable tells why there is no answer. A certificate or a name that is wrong does not become right by trying again.
func unreachable(ctx context.Context, err error) *attempt {
	if ctx.Err() != nil {
		return &attempt{err: bare(err)}
	}
	var (
		certificate *tls.CertificateVerificationError
		host        x509.HostnameError
		record      tls.RecordHeaderError
		name        *net.DNSError
	)
	final := errors.As(err, &certificate) || errors.As(err, &host) || errors.As(err, &record) || errors.As(err, &name) && name.IsNotFound
	return &attempt{again: !final, err: fmt.Errorf("%w: %w", ErrUnavailable, bare(err))}
}

// bare returns err without the method and URL that net/http puts before it: the caller says what was being done.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errNotThere is an ErrRefused for what is not found.
var errNotThere = fmt.Errorf("%w: there is no such thing", ErrRefused)

// answered makes an error of an answer that is no success, whoever gave it: a herder says what it means in JSON, something in
// between may only have a status.
func answered(resp *http.Response, text []byte) *attempt {
	a := &attempt{err: byStatus(resp.StatusCode), after: retryAfterOf(resp.Header)}
	var said Error
	message := "status " + resp.Status
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && readJSON(strings.NewReader(string(text)), maxAnswer, &said) == nil && said.Code != "" {
		message = said.Message
		for _, c := range codes {
			if c.word == said.Code {
				a.err = c.err
			}
		}
	}
	if resp.StatusCode/100 == 3 {
		message = fmt.Sprintf("it redirects to %.200q: use that URL, if it is the herder's", resp.Header.Get("Location"))
	}
	a.again = errors.Is(a.err, ErrUnavailable) || errors.Is(a.err, ErrFull)
	// The message of a herder begins with the words of the error, or has them within; then they are not said twice.
	if a.err == ErrReferences && len(said.Missing) > 0 {
		a.err = &MissingError{Missing: said.Missing}
		return a
	}
	a.err = &answeredError{a.err, message}
	return a
}

// answeredError is an error of the contract in the words of whoever answered.
type answeredError struct {
	kind error
	said string
}

func (e *answeredError) Error() string {
	if strings.Contains(e.said, e.kind.Error()) {
		return e.said
	}
	return e.kind.Error() + ": " + e.said
}
func (e *answeredError) Unwrap() error { return e.kind }

func byStatus(code int) error {
	switch {
	case code == http.StatusUnauthorized:
		return ErrDenied
	case code == http.StatusForbidden:
		return ErrScope
	case code == http.StatusNotFound:
		return errNotThere
	case code == http.StatusInsufficientStorage:
		return ErrFull
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		return ErrUnavailable
	}
	return ErrRefused
}

// retryAfterOf reads the field in both of its forms.
func retryAfterOf(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, mostAsked)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), mostAsked)
	}
	return 0
}

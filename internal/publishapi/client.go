package publishapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// Client is the publisher's end. Its fields are set before the first call; its methods may then be called by several goroutines.
//
// What cannot be done now (no connection, 429, 5xx, no room) is tried again until Patience has passed without any success; what is
// refused is not.
type Client struct {
	// URL is the herder's root, http or https, without a user. A path in it is kept.
	URL   string
	Token string
	// AllowPlain sends the token over plain HTTP also to other machines than this one. Everyone on the way can read it then, and
	// whoever has read it may publish, so that this is for networks which encrypt underneath.
	AllowPlain bool
	// HTTP makes requests, but follows no redirects. Default: a client without a limit on how long an upload takes.
	HTTP *http.Client
	// Patience is how long is tried again while nothing succeeds. Default: 5 minutes. Negative: never again.
	Patience time.Duration
	Log      *slog.Logger // told of what is tried again, at most every ten seconds; may be nil
	// Waiting is told why nothing is sent for how long, by several goroutines; may be nil.
	Waiting func(why error, pause time.Duration)

	once    sync.Once
	client  *http.Client
	root    string
	invalid error

	through bool // the herder wants nars itself; guarded by mu

	promised sync.Mutex // one Promise or release at a time
	lease    int64      // that covers what was promised; 0 if there is none

	mu     sync.Mutex
	failed time.Time // since when nothing has succeeded; zero if the last request did
	told   time.Time // when Log was told last
}

const defaultPatience = 5 * time.Minute

// ErrPlain says that the URL would show the token to everyone on the way.
var ErrPlain = errors.New("plain http would show the token to everyone on the way")

// prepare checks the fields once.
func (c *Client) prepare() error {
	c.once.Do(func() {
		c.root, c.invalid = c.check()
		c.client = &http.Client{Transport: newTransport()}
		if c.HTTP != nil {
			copied := *c.HTTP
			c.client = &copied
		}
		// A redirected PUT may become a GET, and the token would go where nobody meant it to.
		c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	})
	return c.invalid
}

// Check says what is wrong with the fields, before anything is sent.
func (c *Client) Check() error { return c.prepare() }

func (c *Client) check() (root string, err error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return "", fmt.Errorf("herder's URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("herder's URL %q: want http:// or https:// and a host, without a query", u.Redacted())
	case u.User != nil:
		return "", fmt.Errorf("herder's URL %q: want no user and password in it: others see command lines", u.Redacted())
	case c.Token == "":
		return "", fmt.Errorf("%w: publishing needs a token", ErrDenied)
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", fmt.Errorf("%w: the token has blanks or other characters that no token has", ErrDenied)
	case u.Scheme == "http" && !c.AllowPlain && !loopback(u.Hostname()):
		return "", fmt.Errorf("herder's URL %s: %w, and whoever has read it may publish; want https", c.URL, ErrPlain)
	}
	return strings.TrimSuffix(c.URL, "/"), nil
}

// loopback reports whether what is sent to host stays on this machine.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	// A herder expands and may compress anew before it answers a narinfo: minutes for the largest nars.
	t.ResponseHeaderTimeout = 20 * time.Minute
	// A herder says no before the body is sent. If something in between says nothing, the body goes after this.
	t.ExpectContinueTimeout = 3 * time.Second
	return t
}

// request is one request, which may be made several times.
type request struct {
	method, path string
	kind         string // Content-Type
	wait         bool
	placed       []compress.Method
	size         int64
	open         func() (io.ReadCloser, error)
	doing        string // verb and object, for errors
}

func inMemory(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// expectFrom is the size from which the herder is asked before a body is sent: below it, asking costs more than sending in vain.
const expectFrom = 64 << 10

// try makes the request a single time and returns the body of a success.
func (c *Client) try(ctx context.Context, r request) ([]byte, *attempt) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.root+r.path, nil)
	if err != nil {
		return nil, &attempt{err: fmt.Errorf("%w: %w", ErrRefused, err)}
	}
	var body *source
	if r.open != nil {
		opened, err := r.open()
		if err != nil {
			return nil, &attempt{err: err}
		}
		body = &source{ReadCloser: opened}
		req.Body, req.ContentLength = body, r.size
		if r.size == 0 {
			opened.Close()
			req.Body = http.NoBody
		}
		if r.size >= expectFrom {
			req.Header.Set("Expect", "100-continue")
		}
		req.Header.Set("Content-Type", r.kind)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if r.wait {
		req.Header.Set(waitField, "1")
	}
	for i, m := range r.placed {
		if i == 0 {
			req.Header.Set(placedField, string(m))
			continue
		}
		req.Header.Set(placedField, req.Header.Get(placedField)+" "+string(m))
	}
	resp, err := c.client.Do(req)
	if err != nil {
		if bad := body.failure(); bad != nil {
			return nil, &attempt{err: bad}
		}
		return nil, unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		if err != nil {
			return nil, &attempt{again: true, err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
		}
		return text, nil
	}
	return nil, answered(resp, text)
}

// source remembers what went wrong with the local file, which sending again does not help.
type source struct {
	io.ReadCloser
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// do makes the request until it succeeds, is refused, or patience ends.
func (c *Client) do(ctx context.Context, r request) ([]byte, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		body, a := c.try(ctx, r)
		if a == nil {
			c.succeeded()
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, context.Cause(ctx))
		}
		if !a.again && errors.Is(a.err, ErrRefused) {
			c.succeeded() // it is there, and answers
		}
		if !a.again {
			return nil, fmt.Errorf("%s: %w", r.doing, a.err)
		}
		pause := a.pause(n)
		if since, ok := c.patient(pause); !ok {
			return nil, c.gaveUp(r, a, since, pause)
		}
		c.tell(r, a, pause)
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, err)
		}
	}
}

// Missing returns those of hs that are not published, in the order given.
func (c *Client) Missing(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	for len(hs) > 0 {
		n := min(len(hs), MaxMissing)
		answer, err := c.missing(ctx, missingRequest{Items: hs[:n]})
		if err != nil {
			return nil, err
		}
		missing = append(missing, answer.Missing...)
		hs = hs[n:]
	}
	return missing, nil
}

// Promise is Missing, and has the herder promise that the others stay, with all that they reference, until ReleaseLease, or an hour after the
// last Promise or RenewLease. If an earlier promise was over before, it says nothing of that, and makes a new one: what is
// published is compared again.
func (c *Client) Promise(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	c.promised.Lock()
	defer c.promised.Unlock()
	for len(hs) > 0 {
		n := min(len(hs), MaxMissing)
		answer, err := c.missing(ctx, missingRequest{Items: hs[:n], Promise: true, Lease: c.lease})
		if errors.Is(err, ErrLeaseOver) && c.lease != 0 {
			c.lease = 0
			continue
		}
		if err != nil {
			return nil, err
		}
		c.lease = answer.Lease.ID
		missing = append(missing, answer.Missing...)
		hs = hs[n:]
	}
	return missing, nil
}

func (c *Client) missing(ctx context.Context, ask missingRequest) (answer missingAnswer, err error) {
	text, err := json.Marshal(ask)
	if err != nil {
		return answer, fmt.Errorf("ask what is missing: %w", err)
	}
	body, err := c.do(ctx, request{method: http.MethodPost, path: "/api/v1/missing", kind: "application/json", size: int64(len(text)), open: inMemory(text),
		doing: fmt.Sprintf("ask which of %d items are missing", len(ask.Items))})
	if errors.Is(err, errNotThere) {
		return answer, fmt.Errorf("%w: is %s a herder?", err, c.URL)
	}
	if err != nil {
		return answer, err
	}
	if err := readJSON(bytes.NewReader(body), maxAnswer, &answer); err != nil {
		return answer, fmt.Errorf("ask what is missing: %w: it does not answer as a herder does: %w", ErrRefused, err)
	}
	return answer, nil
}

// RenewLease makes what was promised last for another hour. Without a promise it does nothing; one that is over is forgotten, with
// ErrLeaseOver.
func (c *Client) RenewLease(ctx context.Context) error {
	return c.onLease(ctx, http.MethodPost, "renew the promise")
}

// ReleaseLease ends what was promised, if anything was.
func (c *Client) ReleaseLease(ctx context.Context) error {
	err := c.onLease(ctx, http.MethodDelete, "release the promise")
	if errors.Is(err, ErrLeaseOver) {
		return nil
	}
	c.promised.Lock()
	defer c.promised.Unlock()
	c.lease = 0
	return err
}

func (c *Client) onLease(ctx context.Context, method, doing string) error {
	c.promised.Lock()
	defer c.promised.Unlock()
	if c.lease == 0 {
		return nil
	}
	_, err := c.do(ctx, request{method: method, path: "/api/v1/lease/" + strconv.FormatInt(c.lease, 10), doing: doing})
	if errors.Is(err, ErrLeaseOver) {
		c.lease = 0
	}
	return err
}

// StageNar puts a compressed nar, which NarName has named, unless it is there already, and reports whether it was sent. An error of
// open, or of reading what it opened, is returned as it is.
func (c *Client) StageNar(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) (sent bool, err error) {
	path := "/nar/" + name
	_, err = c.do(ctx, request{method: http.MethodHead, path: path, doing: "ask for nar " + name})
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, errNotThere) {
		return false, err
	}
	return true, c.PutNar(ctx, name, size, open)
}

// PutNar is StageNar without asking.
func (c *Client) PutNar(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) error {
	_, err := c.do(ctx, request{method: http.MethodPut, path: "/nar/" + name, kind: "application/x-nix-nar", size: size, open: open, doing: "put nar " + name})
	return err
}

// PutNarinfo publishes the item of a narinfo whose nars were put, in the compressions of placed where PlaceNar did. With wait, the herder
// keeps an item whose references are not published until they are; otherwise the error is a *MissingError.
func (c *Client) PutNarinfo(ctx context.Context, raw []byte, wait bool, placed ...compress.Method) (Published, error) {
	n, err := narinfo.Parse(raw)
	if err != nil {
		return Published{}, fmt.Errorf("put narinfo: %w", err)
	}
	body, err := c.do(ctx, request{method: http.MethodPut, path: "/" + string(n.StorePath.HashPart()) + ".narinfo", kind: "text/x-nix-narinfo", wait: wait, placed: placed,
		size: int64(len(raw)), open: inMemory(raw), doing: "put narinfo of " + n.StorePath.String()})
	if err != nil {
		var missing *MissingError
		if errors.As(err, &missing) {
			missing.Path = n.StorePath
		}
		return Published{}, err
	}
	var done Published
	if err := readJSON(bytes.NewReader(body), maxAnswer, &done); err != nil {
		return Published{}, fmt.Errorf("put narinfo of %s: %w: it does not answer as a herder does: %w", n.StorePath, ErrRefused, err)
	}
	return done, nil
}

// PutLog keeps the build log of a derivation or output, plain or compressed with bzip2 or gzip. The first one that was put stays.
func (c *Client) PutLog(ctx context.Context, of storepath.Base, size int64, open func() (io.ReadCloser, error)) error {
	_, err := c.do(ctx, request{method: http.MethodPut, path: "/log/" + narinfo.EscapeBase(of), kind: "text/plain", size: size, open: open, doing: "put log of " + string(of)})
	return err
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// web is a tree behind HTTP. Its narinfos may name nars on other hosts by absolute http(s) URLs, which are followed, as redirections
// are: who does not trust a cache with the reach of this machine keeps it from where it should not reach by the network.
type web struct {
	root    string // without a slash at its end
	client  *http.Client
	workers int
	retry   *retrying
	// stall is how long a nar's bytes may stay away before the connection counts as cut.
	stall time.Duration
}

const (
	requestTimeout = 60 * time.Second  // of a small object, whole
	stallTimeout   = 120 * time.Second // between bytes of a nar
)

func isWeb(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// checkRoot checks the URL of a cache.
func checkRoot(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("%w: %q: want a host", ErrUnknown, u.Redacted())
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fmt.Errorf("%w: %q: want a URL without a query or fragment", ErrUnknown, u.Redacted())
	}
	return nil
}

// splitURL splits the URL of a file into the URL of its folder and its name.
func splitURL(s string) (folder, name string, err error) {
	if err := checkRoot(s); err != nil {
		return "", "", err
	}
	i := strings.LastIndexByte(s, '/')
	if strings.HasSuffix(s[:i+1], "//") || i == len(s)-1 {
		return "", "", fmt.Errorf("%w: %q: want the URL of a file", ErrUnknown, redacted(s))
	}
	return s[:i], s[i+1:], nil
}

// newWeb makes a tree of a URL that checkRoot accepts.
func newWeb(root string, opt Options) *web {
	opt = opt.withDefaults()
	client := opt.HTTP
	if client == nil {
		client = newClient(opt.Parallel)
	}
	return &web{root: strings.TrimRight(root, "/"), client: client, workers: opt.Parallel, retry: newRetrying(), stall: stallTimeout}
}

func newClient(parallel int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
			IdleConnTimeout:       60 * time.Second,
			MaxIdleConnsPerHost:   parallel,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // a nar's bytes are what its file has, not what a server makes of them
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) >= 10:
				return fmt.Errorf("%w more than 10 times", errRedirected)
			case req.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
				return fmt.Errorf("%w from https to %s", errRedirected, req.URL.Scheme)
			}
			return nil
		},
	}
}

// errRedirected says that a redirection is not followed. To ask again would lead to the same place.
var errRedirected = errors.New("redirected")

// Redacted returns a URL without its password, for logs.
func Redacted(s string) string { return redacted(s) }

// redacted returns a URL without its password.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "URL"
	}
	return u.Redacted()
}

func (w *web) String() string { return redacted(w.root) }

// Close lets go of connections.
func (w *web) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

func (w *web) traits() traits { return traits{one: true, workers: w.workers} }

// get makes one request. It returns an answer with the status 200 or 206; the errors of all others are made by refusal.
func (w *web) get(ctx context.Context, at string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "narfold")
	req.Header.Set("Accept-Encoding", "identity")
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := w.client.Do(req)
	if errors.Is(err, errRedirected) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, &attemptError{again: true, err: err}
	}
	encoding := resp.Header.Get("Content-Encoding")
	if (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) && (encoding == "" || encoding == "identity") {
		return resp, nil
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection can be used again
	if resp.StatusCode < 300 {
		return nil, fmt.Errorf("%w: get %s: status %s, Content-Encoding %q", ErrDamaged, redacted(at), resp.Status, encoding)
	}
	return nil, refusal(at, resp)
}

func (w *web) read(ctx context.Context, name string, limit int) (text []byte, err error) {
	at := w.root + "/" + name
	err = w.retry.do(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		resp, err := w.get(ctx, at, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err = readAll(resp.Body, limit)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return &attemptError{again: true, err: fmt.Errorf("get %s: %w", redacted(at), err)}
		}
		return err
	})
	return text, err
}

func (w *web) nar(f narinfo.File) (opener, error) {
	if err := narinfo.CheckURL(f.URL); err != nil {
		return nil, err
	}
	at := f.Resolve(w.root)
	return func(ctx context.Context) (io.ReadCloser, error) { return w.open(ctx, at) }, nil
}

// has trusts the narinfo: to ask costs as much as to open.
func (w *web) has(context.Context, narinfo.File) bool { return true }

func (w *web) hashParts(context.Context) iter.Seq2[storepath.HashPart, error] {
	return func(yield func(storepath.HashPart, error) bool) { yield("", ErrUnlistable) }
}

// Fetch reads the small file called name, with a query if need be, below the http(s) URL root, with the patience of this package. It
// fails with ErrNotFound, ErrUnavailable, and with ErrDamaged if there are more than limit bytes.
func Fetch(ctx context.Context, root, name string, limit int, opt Options) ([]byte, error) {
	if !isWeb(root) {
		return nil, fmt.Errorf("%w: %q: want http:// or https://", ErrUnknown, redacted(root))
	}
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	w := newWeb(root, opt)
	defer w.Close()
	return w.read(ctx, name, limit)
}

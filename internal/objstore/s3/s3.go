// Package s3 keeps objects in a bucket of any server that speaks S3 and honours conditional writes.
//
// It asks for path and virtual-host buckets alike, needs GetObject, PutObject, DeleteObject, ListBucket and AbortMultipartUpload
// under its prefix, and relies on nothing that Probe does not check. Requests are tried again within bounds, also inside a body that
// breaks while it is read. Keys that begin another ("a" and "a/b") stand beside each other where the server lets them.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"narfold/internal/objstore"
)

// Addressing says where the bucket's name goes.
type Addressing string

// Auto is Virtual for Amazon, Google and Aliyun, and Path for everybody else.
const (
	Auto    Addressing = ""
	Path    Addressing = "path"    // https://endpoint/bucket/key
	Virtual Addressing = "virtual" // https://bucket.endpoint/key
)

// Config says which bucket and who asks.
type Config struct {
	Endpoint   string     // URL of the server: "https://s3.example.org" or "http://127.0.0.1:7070"
	Bucket     string     // must exist
	Prefix     string     // of all keys, without slashes at its ends; "" is the whole bucket
	Region     string     // "" asks the server
	Addressing Addressing // default Auto

	AccessKey    string // empty, with SecretKey, for a bucket that is open to all
	SecretKey    string
	SessionToken string // only with temporary credentials

	Attempts       int   // how often a request is tried in all; default 5
	MultipartAbove int64 // bodies of more bytes go in parts; default 64 MiB
	PartSize       int64 // bytes of a part, of which three are in memory for each Put; default 16 MiB, at least 5 MiB

	Transport http.RoundTripper // default: a pool of connections to the endpoint
}

// String names the bucket and leaves out who asks.
func (c Config) String() string {
	return strings.TrimSuffix(fmt.Sprintf("bucket %s at %s under %s", c.Bucket, c.Endpoint, c.Prefix), " under ")
}

// GoString is String, so that no way of printing shows the secret.
func (c Config) GoString() string { return c.String() }

// Validate says what in c cannot be.
func (c Config) Validate() error {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil:
		return fmt.Errorf("endpoint: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("endpoint: %q: want http://HOST or https://HOST", c.Endpoint)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("endpoint: %q: want a host alone, without user, path and query", u.Redacted())
	case c.Bucket == "":
		return errors.New("bucket: want its name")
	case strings.ContainsAny(c.Bucket, "/ \\"):
		return fmt.Errorf("bucket: %q: want a bucket's name; what comes after it is the prefix", c.Bucket)
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return errors.New("access key and secret key: want both, or none for a bucket that is open to all")
	case c.Addressing != Auto && c.Addressing != Path && c.Addressing != Virtual:
		return fmt.Errorf("addressing: %q: want path or virtual, or nothing", c.Addressing)
	case c.PartSize != 0 && c.PartSize < minPart:
		return fmt.Errorf("part size: %d: want at least %d", c.PartSize, minPart)
	case c.Attempts < 0, c.MultipartAbove < 0:
		return errors.New("attempts and multipart threshold: want no negative number")
	}
	if c.Prefix != "" {
		if _, err := objstore.ParseKey(c.Prefix); err != nil {
			return fmt.Errorf("prefix: %w", err)
		}
		if len(c.Prefix) > 512 {
			return errors.New("prefix: longer than 512 bytes, which leaves too little for keys")
		}
	}
	return nil
}

const (
	minPart  = 5 << 20 // Amazon's, and most servers', least size of a part that is not the last
	maxParts = 10_000  // Amazon's, and most servers', most parts of an upload
)

// Store keeps objects in a bucket. Its methods may be called concurrently.
type Store struct {
	api    *minio.Core
	conf   Config
	prefix string // "" or with a slash at its end
	clock  *clock
	budget *budget
	seen   atomic.Int64 // Unix time at which the bucket was last known to be there
}

var (
	_ objstore.Store     = (*Store)(nil)
	_ objstore.Presigner = (*Store)(nil)
)

// New prepares a Store. It sends nothing; see Probe.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("S3: %w", err)
	}
	if c.Attempts == 0 {
		c.Attempts = 5
	}
	if c.MultipartAbove == 0 {
		c.MultipartAbove = 64 << 20
	}
	if c.PartSize == 0 {
		c.PartSize = 16 << 20
	}
	if c.Transport == nil {
		c.Transport = transport()
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("S3: endpoint: %w", err)
	}
	s := &Store{conf: c, clock: &clock{next: c.Transport}, budget: newBudget()}
	if c.Prefix != "" {
		s.prefix = c.Prefix + "/"
	}
	s.api, err = minio.NewCore(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken),
		Secure:       u.Scheme == "https",
		Transport:    s.clock,
		Region:       c.Region,
		BucketLookup: map[Addressing]minio.BucketLookupType{Auto: minio.BucketLookupAuto, Path: minio.BucketLookupPath, Virtual: minio.BucketLookupDNS}[c.Addressing],
		MaxRetries:   1, // retry.go decides, which knows what has been stored by an attempt that seems to have failed
	})
	if err != nil {
		return nil, fmt.Errorf("S3: %w", err)
	}
	s.api.SetAppInfo("narfold", "")
	return s, nil
}

// name is the key in the bucket.
func (s *Store) name(k objstore.Key) (string, error) {
	if _, err := objstore.ParseKey(string(k)); err != nil {
		return "", err
	}
	name := s.prefix + string(k)
	if len(name) > 1024 {
		return "", fmt.Errorf("%w: with the prefix %s it is longer than the 1024 bytes of S3", objstore.ErrKey, s.prefix)
	}
	return name, nil
}

// begin is name, and the context's error.
func (s *Store) begin(ctx context.Context, k objstore.Key) (string, error) {
	name, err := s.name(k)
	if err == nil {
		err = ctx.Err()
	}
	return name, err
}

// Delete removes k. In a bucket with versions it stops being visible and its bytes stay until the bucket's rules remove them.
func (s *Store) Delete(ctx context.Context, k objstore.Key) error {
	name, err := s.begin(ctx, k)
	if err == nil {
		err = s.retry(ctx, func() error {
			err := s.classify(ctx, s.api.RemoveObject(ctx, s.conf.Bucket, name, minio.RemoveObjectOptions{}))
			if errors.Is(err, objstore.ErrNotFound) || errors.Is(err, objstore.ErrKey) {
				return nil // some say so of what is absent, or below an object
			}
			return err
		})
	}
	return wrap("delete", k, err)
}

func wrap(verb string, k objstore.Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}

// stall is how long a connection may move no byte, in either direction, while an answer or a body is awaited.
const stall = time.Minute

// transport returns a pool whose connections break when nothing moves, instead of waiting for ever.
func transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return stalling{c}, nil
		},
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     stall / 2,
		DisableCompression:  true, // bytes are stored as they are
		ForceAttemptHTTP2:   true,
	}
}

// stalling sets a deadline anew with each read and write. A write also puts off the deadline of the read that waits for the answer.
type stalling struct{ net.Conn }

func (c stalling) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(stall))
	return c.Conn.Read(p)
}

func (c stalling) Write(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(stall))
	return c.Conn.Write(p)
}

// clock notes how far the server's clock is from ours.
type clock struct {
	next http.RoundTripper
	skew atomic.Int64 // nanoseconds that the server is ahead, at the last answer
}

func (c *clock) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.next.RoundTrip(req)
	if err == nil {
		if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
			c.skew.Store(int64(time.Until(date)))
		}
	}
	return res, err
}

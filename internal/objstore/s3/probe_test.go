package s3_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	server, err := objstoretest.StartS3(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	litter := func(t *testing.T) {
		t.Helper()
		err := filepath.WalkDir(filepath.Join(dir, "data", "narfold"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && strings.Contains(path, ".narfold-probe") {
				t.Errorf("left behind: %s", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a sound server passes and is left as it was", func(t *testing.T) {
		for _, prefix := range []string{"", "some/prefix"} {
			if err := open(t, server.Config(prefix)).Probe(t.Context()); err != nil {
				t.Error(err)
			}
		}
		litter(t)
	})

	drop := func(is func(*http.Request) bool, header string) func(int, *http.Request) fate {
		return func(_ int, r *http.Request) fate {
			if is(r) && r.Header.Get(header) != "" {
				return fate{drop: []string{header}}
			}
			return fate{}
		}
	}
	refuse := func(is func(*http.Request) bool) func(int, *http.Request) fate {
		return func(_ int, r *http.Request) fate {
			if is(r) {
				return fate{refuse: 403, code: "AccessDenied"}
			}
			return fate{}
		}
	}
	alter := func(change func(*http.Request, *http.Response)) func(int, *http.Request) fate {
		return func(_ int, r *http.Request) fate {
			return fate{answer: func(res *http.Response) { change(r, res) }}
		}
	}
	skewed := func(by time.Duration) func(int, *http.Request) fate {
		return alter(func(_ *http.Request, res *http.Response) {
			res.Header.Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		})
	}
	for _, c := range []struct {
		name   string
		decide func(int, *http.Request) fate
		is     error
		says   []string // what the sentence must name: the thing, the cause, the next step
	}{
		{"conditions on absence are ignored", drop(func(r *http.Request) bool { return puts(r) && !presigned(r) }, "If-None-Match"), nil,
			[]string{"ignores If-None-Match: *:", "replaced an object", "use a server with conditional writes"}},
		{"conditions on an ETag are ignored", drop(puts, "If-Match"), nil, []string{"ignores If-Match:", "use a server with conditional writes"}},
		{"conditions at the end of parts are ignored", drop(completes, "If-None-Match"), nil, []string{"ignores If-None-Match: * at the end of an upload in parts"}},
		{"conditions of presigned URLs are ignored", drop(presigned, "If-None-Match"), nil, []string{"ignores If-None-Match: * of presigned URLs"}},
		{"the server's clock is ahead", skewed(6 * time.Minute), objstore.ErrDenied, []string{"clock is", "ahead of this machine's", "set the clock"}},
		{"the server's clock is behind", skewed(-time.Hour), objstore.ErrDenied, []string{"behind this machine's", "set the clock"}},
		{"deleting is denied", refuse(func(r *http.Request) bool { return r.Method == http.MethodDelete && !r.URL.Query().Has("uploadId") }), objstore.ErrDenied,
			[]string{"may not delete objects", "s3:DeleteObject on below/*"}},
		{"putting is denied", refuse(puts), objstore.ErrDenied, []string{"may not put objects", "s3:PutObject on below/*"}},
		{"getting is denied", refuse(func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/object")
		}), objstore.ErrDenied,
			[]string{"may not get objects", "s3:GetObject on below/*"}},
		{"listing is denied", refuse(lists), objstore.ErrDenied, []string{"may not list objects", "s3:ListBucket"}},
		{"the bucket is denied", refuse(func(*http.Request) bool { return true }), objstore.ErrDenied, []string{"check the access key"}},
		{"absence is denied", refuse(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/absent") }), objstore.ErrDenied,
			[]string{"absence cannot be told", "s3:ListBucket"}},
		{"presigned URLs are denied", refuse(presigned), nil, []string{"a presigned GET got status 403"}},
		{"metadata are dropped", alter(func(_ *http.Request, res *http.Response) { res.Header.Del("X-Amz-Meta-Narfold-Put") }), nil, []string{"drops metadata"}},
		{"ETags are dropped", alter(func(_ *http.Request, res *http.Response) { res.Header.Del("ETag") }), nil, []string{"no ETag"}},
		{"the bucket is elsewhere", func(_ int, r *http.Request) fate {
			return fate{answer: func(res *http.Response) { res.StatusCode = 400; res.Header.Set("X-Amz-Bucket-Region", "eu-north-1") }}
		}, nil, []string{`in region "eu-north-1" and not in "us-east-1"`, "set region"}},
		{"every answer is lost", func(int, *http.Request) fate { return fate{cutAfter: true} }, objstore.ErrUnavailable, []string{"cannot be reached", "check the endpoint"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, conf := meddle(t, server, "below", c.decide)
			conf.Attempts = 2
			says(t, open(t, conf).Probe(t.Context()), c.is, append(c.says, "probe bucket narfold at "+conf.Endpoint+" under below: ")...)
		})
	}
	for name, c := range map[string]struct {
		change func(*s3.Config)
		is     error
		says   []string
	}{
		"there is no bucket":   {func(c *s3.Config) { c.Bucket = "nosuch" }, objstore.ErrUnavailable, []string{`no bucket "nosuch"`, "create it"}},
		"the secret is wrong":  {func(c *s3.Config) { c.SecretKey = "wrong" }, objstore.ErrDenied, []string{"check the access key"}},
		"nobody listens there": {func(c *s3.Config) { c.Endpoint = "http://127.0.0.1:1" }, objstore.ErrUnavailable, []string{"cannot be reached", "connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := server.Config("below")
			conf.Attempts = 2
			c.change(&conf)
			err := open(t, conf).Probe(t.Context())
			says(t, err, c.is, c.says...)
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, conf, conf), conf.SecretKey) {
				t.Error("the secret is printed")
			}
		})
	}
}

func says(t *testing.T, err, is error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("the probe passes")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error is not %v: %v", is, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the sentence does not say %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a sentence: %v", err)
	}
}

package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

// The contract holds over a network that loses requests and answers. Requests with If-Match are spared, because what they may then
// say is weaker; they have their own tests below. So are presigned URLs, which others fetch, and the reads of an object that is
// being replaced, which cannot be taken up again.
func TestContractOverALossyNetwork(t *testing.T) {
	server := objstoretest.S3(t)
	dice := rand.New(rand.NewPCG(1, 1))
	var broken atomic.Int64
	_, conf := meddle(t, server, "", func(_ int, r *http.Request) fate {
		if presigned(r) || r.Header.Get("If-Match") != "" || strings.HasSuffix(r.URL.Path, "/turning") || dice.IntN(12) != 0 {
			return fate{}
		}
		broken.Add(1)
		return []fate{{cutBefore: true}, {cutAfter: true}, {cutBody: true}, {refuse: 503, code: "SlowDown"}, {refuse: 500}}[dice.IntN(5)]
	})
	conf.Attempts = 8
	var n int
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		n++
		conf.Prefix = fmt.Sprintf("lossy/%d", n)
		return open(t, conf)
	})
	if broken.Load() < 100 {
		t.Errorf("only %d requests were broken", broken.Load())
	}
}

// first breaks the first request that is one, and no other.
func first(is func(*http.Request) bool, f fate) func(int, *http.Request) fate {
	done := false
	return func(_ int, r *http.Request) fate {
		if done || !is(r) {
			return fate{}
		}
		done = true
		return f
	}
}

func count(requests []string, prefix string) (n int) {
	for _, r := range requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func content(t *testing.T, s objstore.Reader, k objstore.Key) string {
	t.Helper()
	o, err := s.Get(t.Context(), k, objstore.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func must(t *testing.T, w objstore.Writer, k objstore.Key, text string, c objstore.Condition) objstore.Info {
	t.Helper()
	info, err := w.Put(t.Context(), k, objstore.Bytes([]byte(text)), c)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// uploads returns how many unfinished uploads in parts there are.
func uploads(t *testing.T, server *objstoretest.Server, prefix string) (n int) {
	t.Helper()
	u, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	api, err := minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	for up := range api.ListIncompleteUploads(t.Context(), server.Bucket, prefix, true) {
		if up.Err != nil {
			t.Fatal(up.Err)
		}
		n++
	}
	return n
}

func TestPutWhoseAnswerIsLost(t *testing.T) {
	server := objstoretest.S3(t)
	direct := open(t, server.Config("lost"))
	t.Run("finds its own object and succeeds", func(t *testing.T) {
		m, conf := meddle(t, server, "lost", first(puts, fate{cutAfter: true}))
		info := must(t, open(t, conf), "own", "mine", objstore.IfAbsent)
		if n := count(m.requests(), "PUT"); n != 1 {
			t.Errorf("%d PUTs, want 1: %q", n, m.requests())
		}
		if stat, err := direct.Stat(t.Context(), "own"); err != nil || stat.ETag != info.ETag || content(t, direct, "own") != "mine" {
			t.Errorf("put says %+v, stored is %+v, %v", info, stat, err)
		}
	})
	t.Run("under IfMatch too", func(t *testing.T) {
		old := must(t, direct, "replaced", "old", objstore.IfAbsent)
		_, conf := meddle(t, server, "lost", first(puts, fate{cutAfter: true}))
		must(t, open(t, conf), "replaced", "new", objstore.Condition{IfMatch: old.ETag})
		if got := content(t, direct, "replaced"); got != "new" {
			t.Errorf("stored is %q", got)
		}
	})
	t.Run("is a conflict if another's equal bytes were there before", func(t *testing.T) {
		must(t, direct, "equal", "same", objstore.IfAbsent)
		_, conf := meddle(t, server, "lost", first(puts, fate{cutBefore: true}))
		if _, err := open(t, conf).Put(t.Context(), "equal", objstore.Bytes([]byte("same")), objstore.IfAbsent); !errors.Is(err, objstore.ErrConflict) {
			t.Errorf("error is %v, want ErrConflict", err)
		}
	})
	t.Run("is not a conflict if nobody can know", func(t *testing.T) {
		old := must(t, direct, "unknown", "old", objstore.IfAbsent)
		_, conf := meddle(t, server, "lost", first(puts, fate{cutAfter: true, then: func() {
			must(t, direct, "unknown", "another's", objstore.Condition{})
		}}))
		_, err := open(t, conf).Put(t.Context(), "unknown", objstore.Bytes([]byte("mine")), objstore.Condition{IfMatch: old.ETag})
		if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrConflict) {
			t.Errorf("error is %v, want ErrUnavailable alone", err)
		}
	})
	t.Run("every time is unavailable, and stored", func(t *testing.T) {
		m, conf := meddle(t, server, "lost", func(_ int, r *http.Request) fate { return fate{cutAfter: puts(r)} })
		conf.Attempts = 3
		_, err := open(t, conf).Put(t.Context(), "always", objstore.Bytes([]byte("mine")), objstore.Condition{})
		if !errors.Is(err, objstore.ErrUnavailable) || !strings.Contains(err.Error(), "tried 3 times") {
			t.Errorf("error is %v, want ErrUnavailable after three tries", err)
		}
		if n := count(m.requests(), "PUT"); n != 3 {
			t.Errorf("%d PUTs, want 3", n)
		}
		if got := content(t, direct, "always"); got != "mine" {
			t.Errorf("stored is %q", got)
		}
	})
	t.Run("every time is looked for under a write-once key, and found", func(t *testing.T) {
		m, conf := meddle(t, server, "lost", func(_ int, r *http.Request) fate { return fate{cutAfter: puts(r)} })
		if _, err := open(t, conf).Put(t.Context(), "once", objstore.Bytes([]byte("mine")), objstore.IfAbsent); err != nil {
			t.Error(err)
		}
		if n := count(m.requests(), "PUT"); n != 1 {
			t.Errorf("%d PUTs, want 1", n)
		}
		if _, err := open(t, conf).Put(t.Context(), "once", objstore.Bytes([]byte("other")), objstore.IfAbsent); !errors.Is(err, objstore.ErrConflict) {
			t.Errorf("another's, whose refusal is lost too: %v", err)
		}
		if got := content(t, direct, "once"); got != "mine" {
			t.Errorf("stored is %q", got)
		}
	})
	t.Run("at the end of an upload in parts", func(t *testing.T) {
		body := objstore.Bytes(bytes.Repeat([]byte("0123456789abcdef"), 12<<16)) // 12 MiB, three parts of 5
		for i, c := range []objstore.Condition{objstore.IfAbsent, {}} {
			m, conf := meddle(t, server, "lost", first(completes, fate{cutAfter: true}))
			conf.MultipartAbove, conf.PartSize = 1<<20, 5<<20
			k := objstore.Key(fmt.Sprintf("parts/%d", i))
			if _, err := open(t, conf).Put(t.Context(), k, body, c); err != nil {
				t.Error(err)
			}
			// begin, complete, complete; under a write-once key it is looked for instead of completed again
			if n, want := count(m.requests(), "POST"), 3-1+i; n != want {
				t.Errorf("%d POSTs, want %d: %q", n, want, m.requests())
			}
			if got := content(t, direct, k); digest.Of([]byte(got)) != body.SHA256 {
				t.Errorf("stored are %d other bytes", len(got))
			}
		}
		if n := uploads(t, server, "lost/parts"); n != 0 {
			t.Errorf("%d uploads left", n)
		}
	})
}

func TestUploadInPartsIsGivenBack(t *testing.T) {
	server := objstoretest.S3(t)
	conf := server.Config("parts")
	conf.MultipartAbove, conf.PartSize = 1<<20, 5<<20
	big := bytes.Repeat([]byte("0123456789abcdef"), 12<<16)
	t.Run("when its body is wrong", func(t *testing.T) {
		body := objstore.Bytes(big)
		body.SHA256 = digest.Of([]byte("other"))
		if _, err := open(t, conf).Put(t.Context(), "wrong", body, objstore.IfAbsent); !errors.Is(err, objstore.ErrDigest) {
			t.Errorf("error is %v, want ErrDigest", err)
		}
	})
	t.Run("when its caller goes away", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		_, meddled := meddle(t, server, "parts", func(_ int, r *http.Request) fate {
			if r.URL.Query().Has("partNumber") {
				if n++; n == 2 {
					cancel()
				}
			}
			return fate{}
		})
		meddled.MultipartAbove, meddled.PartSize = 1<<20, 5<<20
		if _, err := open(t, meddled).Put(ctx, "left", objstore.Bytes(big), objstore.IfAbsent); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want context.Canceled", err)
		}
	})
	t.Run("when it loses a race at its end", func(t *testing.T) {
		direct := open(t, server.Config("parts"))
		_, meddled := meddle(t, server, "parts", func(_ int, r *http.Request) fate {
			if completes(r) {
				must(t, direct, "race", "the winner's", objstore.IfAbsent)
			}
			return fate{}
		})
		meddled.MultipartAbove, meddled.PartSize = 1<<20, 5<<20
		if _, err := open(t, meddled).Put(t.Context(), "race", objstore.Bytes(big), objstore.IfAbsent); !errors.Is(err, objstore.ErrConflict) {
			t.Errorf("error is %v, want ErrConflict", err)
		}
		if got := content(t, direct, "race"); got != "the winner's" {
			t.Errorf("stored is %.20q", got)
		}
	})
	if n := uploads(t, server, "parts/"); n != 0 {
		t.Errorf("%d uploads left", n)
	}
}

func TestBodyThatBreaks(t *testing.T) {
	server := objstoretest.S3(t)
	direct := open(t, server.Config("broken"))
	text := strings.Repeat("some text and ", 100_000)
	gets := func(r *http.Request) bool { return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/text") }
	t.Run("is read on", func(t *testing.T) {
		must(t, direct, "text", text, objstore.Condition{})
		n := 0
		m, conf := meddle(t, server, "broken", func(_ int, r *http.Request) fate {
			if gets(r) {
				n++
			}
			return fate{cutBody: gets(r) && n <= 3}
		})
		if got := content(t, open(t, conf), "text"); got != text {
			t.Errorf("read %d other bytes, want %d", len(got), len(text))
		}
		if n := count(m.requests(), "GET /narfold/broken/text"); n != 4 {
			t.Errorf("%d GETs, want 4", n)
		}
	})
	t.Run("fails when the object was replaced", func(t *testing.T) {
		_, conf := meddle(t, server, "broken", first(gets, fate{cutBody: true, then: func() {
			must(t, direct, "text", strings.ToUpper(text), objstore.Condition{})
		}}))
		o, err := open(t, conf).Get(t.Context(), "text", objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		got, err := io.ReadAll(o)
		if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrConflict) || !strings.HasPrefix(text, string(got)) {
			t.Errorf("read %d bytes, error %v, want a part of the old text and ErrUnavailable", len(got), err)
		}
	})
	t.Run("fails when it breaks each time", func(t *testing.T) {
		m, conf := meddle(t, server, "broken", func(_ int, r *http.Request) fate { return fate{cutBody: gets(r)} })
		conf.Attempts = 3
		o, err := open(t, conf).Get(t.Context(), "text", objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if _, err := io.Copy(io.Discard, o); !errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("error is %v, want ErrUnavailable", err)
		}
		if n := count(m.requests(), "GET /narfold/broken/text"); n != 3 {
			t.Errorf("%d GETs, want 3", n)
		}
	})
}

func TestListGoesOnWhereAPageWasLost(t *testing.T) {
	server := objstoretest.S3(t)
	direct := open(t, server.Config("pages"))
	var want []objstore.Key
	for i := range 30 {
		k := objstore.Key(fmt.Sprintf("%02d", i))
		must(t, direct, k, "x", objstore.IfAbsent)
		want = append(want, k)
	}
	_, conf := meddle(t, server, "pages", func(n int, r *http.Request) fate { return fate{cutBody: lists(r) && n%2 == 0} })
	var got []objstore.Key
	for info, err := range open(t, conf).List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	server := objstoretest.S3(t)
	for _, c := range []struct {
		fate fate
		is   error
		puts int // how often it is tried
	}{
		{fate{refuse: 403, code: "AccessDenied"}, objstore.ErrDenied, 1},
		{fate{refuse: 403, code: "RequestTimeTooSkewed"}, objstore.ErrDenied, 1},
		{fate{refuse: 403, code: "QuotaExceeded"}, objstore.ErrFull, 1},
		{fate{refuse: 507, code: "XMinioStorageFull"}, objstore.ErrFull, 1},
		{fate{refuse: 507}, objstore.ErrFull, 1},
		{fate{refuse: 400, code: "BadDigest"}, objstore.ErrDigest, 1},
		{fate{refuse: 404, code: "NoSuchBucket"}, objstore.ErrUnavailable, 3},
		{fate{refuse: 409, code: "ConditionalRequestConflict"}, objstore.ErrUnavailable, 3},
		{fate{refuse: 409, code: "ObjectParentIsFile"}, objstore.ErrKey, 3},
		{fate{refuse: 503, code: "SlowDown"}, objstore.ErrUnavailable, 3},
		{fate{refuse: 429}, objstore.ErrUnavailable, 3},
		{fate{refuse: 502}, objstore.ErrUnavailable, 3},
	} {
		t.Run(fmt.Sprintf("%d %s", c.fate.refuse, c.fate.code), func(t *testing.T) {
			m, conf := meddle(t, server, "refused", func(int, *http.Request) fate { return c.fate })
			conf.Attempts = 3
			_, err := open(t, conf).Put(t.Context(), "k", objstore.Bytes([]byte("x")), objstore.IfAbsent)
			if !errors.Is(err, c.is) {
				t.Errorf("error is %v, want %v", err, c.is)
			}
			if n := count(m.requests(), "PUT"); n != c.puts {
				t.Errorf("tried %d times, want %d", n, c.puts)
			}
		})
	}
}

func TestAbsenceIsSaidOnlyWhenCertain(t *testing.T) {
	server := objstoretest.S3(t)
	conf := server.Config("")
	conf.Bucket, conf.Attempts = "nosuch", 2
	s := open(t, conf)
	_, err := s.Stat(t.Context(), "k")
	if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("stat in a bucket that is missing: %v, want ErrUnavailable alone", err)
	}
	_, err = s.Get(t.Context(), "k", objstore.Range{})
	if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("get in a bucket that is missing: %v, want ErrUnavailable alone", err)
	}
}

func TestContentTypes(t *testing.T) {
	server := objstoretest.S3(t)
	s := open(t, server.Config("typed"))
	for k, want := range map[objstore.Key]string{
		"abc.narinfo": "text/x-nix-narinfo", "nar/zstd/abc-x": "application/x-nix-nar", "log/abc": "application/octet-stream", "nix-cache-info": "text/x-nix-cache-info",
	} {
		must(t, s, k, "x", objstore.IfAbsent)
		u, err := s.PresignGet(t.Context(), k, 1e9*60)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Type"); got != want {
			t.Errorf("%s is served as %q, want %q", k, got, want)
		}
	}
}

func TestConfigSaysWhatItCannotBe(t *testing.T) {
	good := s3.Config{Endpoint: "https://s3.example.org", Bucket: "b", AccessKey: "a", SecretKey: "s"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*s3.Config){
		"endpoint":     func(c *s3.Config) { c.Endpoint = "s3.example.org" },
		"host alone":   func(c *s3.Config) { c.Endpoint += "/bucket" },
		"bucket":       func(c *s3.Config) { c.Bucket = "" },
		"the prefix":   func(c *s3.Config) { c.Bucket = "b/p" },
		"want both":    func(c *s3.Config) { c.SecretKey = "" },
		"prefix":       func(c *s3.Config) { c.Prefix = "/p" },
		"too little":   func(c *s3.Config) { c.Prefix = strings.Repeat("p/", 300) + "p" },
		"part size":    func(c *s3.Config) { c.PartSize = 1 },
		"addressing":   func(c *s3.Config) { c.Addressing = "dns" },
		"negative":     func(c *s3.Config) { c.Attempts = -1 },
		"no negative ": func(c *s3.Config) { c.MultipartAbove = -1 },
	} {
		c := good
		change(&c)
		if _, err := s3.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v", want, err)
		}
	}
}

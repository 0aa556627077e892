package s3_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"

	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

// fate is what happens to one request at a meddler.
type fate struct {
	refuse    int      // answer with this status, without asking the server
	code      string   // with this S3 error code
	drop      []string // take these headers away, and sign the rest anew, as if the server did not know them
	cutBefore bool     // close the connection without asking the server: failed and not done
	cutAfter  bool     // ask the server and close the connection: failed but done
	cutBody   bool     // close the connection in the middle of the answer's body
	answer    func(*http.Response)
	then      func() // called after the server has answered and before the client is told
}

// meddler is a proxy before a real server that breaks what it is told to.
type meddler struct {
	server *objstoretest.Server
	decide func(n int, r *http.Request) fate

	mu  sync.Mutex
	n   int
	log []string
}

// meddle starts a proxy and returns how to reach the bucket through it.
func meddle(t *testing.T, server *objstoretest.Server, prefix string, decide func(n int, r *http.Request) fate) (*meddler, s3.Config) {
	t.Helper()
	m := &meddler{server: server, decide: decide}
	front := httptest.NewServer(m)
	t.Cleanup(front.Close)
	c := server.Config(prefix)
	c.Endpoint = front.URL
	return m, c
}

// requests returns the methods and paths seen so far, with what the query asks for.
func (m *meddler) requests() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

func (m *meddler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.log = append(m.log, r.Method+" "+r.URL.Path)
	f := m.decide(m.n, r)
	m.n++
	m.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil || f.cutBefore {
		panic(http.ErrAbortHandler)
	}
	if f.refuse != 0 {
		w.WriteHeader(f.refuse)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>meddled</Message></Error>", f.code)
		}
		return
	}
	res, err := http.DefaultTransport.RoundTrip(m.forward(r, body, f.drop))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if f.then != nil {
		f.then()
	}
	if f.cutAfter {
		panic(http.ErrAbortHandler)
	}
	if f.answer != nil {
		f.answer(res)
	}
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	}
	w.WriteHeader(res.StatusCode)
	if f.cutBody {
		w.Write(answer[:len(answer)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(answer)
}

// forward makes the request for the server. The signature covers Host, so that stays unless the request is signed anew.
func (m *meddler) forward(r *http.Request, body []byte, drop []string) *http.Request {
	to, err := url.Parse(m.server.Endpoint)
	if err != nil {
		panic(err)
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = to.Scheme, to.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	if len(drop) == 0 {
		return out
	}
	for _, h := range append(drop, "Authorization", "X-Amz-Date") {
		out.Header.Del(h)
	}
	q := out.URL.Query()
	for k := range q {
		if strings.HasPrefix(k, "X-Amz-") {
			q.Del(k)
		}
	}
	out.URL.RawQuery = q.Encode()
	out.Host = to.Host
	sum := sha256.Sum256(body)
	out.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	return signer.SignV4(*out, m.server.AccessKey, m.server.SecretKey, "", m.server.Region)
}

func presigned(r *http.Request) bool { return r.URL.Query().Has("X-Amz-Signature") }

// completes reports whether a request ends an upload in parts.
func completes(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

func lists(r *http.Request) bool { return r.URL.Query().Has("list-type") }

// puts reports whether a request stores an object as a whole.
func puts(r *http.Request) bool { return r.Method == http.MethodPut && !r.URL.Query().Has("uploadId") }

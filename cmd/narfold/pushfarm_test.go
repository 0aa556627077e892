package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"narfold/herder"
	"narfold/herder/deployment"
	"narfold/herder/upload"
	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// origin is a herder in this process, on a state folder of its own, that serves the store directory of a private Nix.
type origin struct {
	t   *testing.T
	nix *nixtest.Root
	url string
	d   *deployment.Deployment
	log *logBuffer
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newOrigin runs a herder until the test ends. Without a key it has none.
func newOrigin(t *testing.T, nix *nixtest.Root, keyed bool, change func(*deployment.Config)) *origin {
	t.Helper()
	cfg := deployment.Defaults(t.TempDir())
	cfg.Serve.StoreDir = storepath.Dir(nix.Store)
	cfg.Keys.Host = "origin.example"
	cfg.Publish.Reserve = 0
	if change != nil {
		change(&cfg)
	}
	o := &origin{t: t, nix: nix, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(o.log, nil))
	d, err := deployment.Open(t.Context(), cfg, true, log)
	if err != nil {
		t.Fatal(err)
	}
	o.d = d
	if keyed {
		if _, err := d.EnsureKey(cfg.Serve.StoreDir); err != nil {
			t.Fatal(err)
		}
	}
	h, err := herder.New(herder.Parts{
		Serve: serving(d), Publisher: d.Publisher(), Log: log,
		Uploads: &upload.Uploads{Dir: d.Incoming(), Reserve: int64(cfg.Publish.Reserve), Catalogue: d.Catalogue, Objects: d.Objects, Log: log, Keep: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("herder ended with %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("close deployment: %v", err)
		}
		if t.Failed() {
			t.Logf("herder's log:\n%s", o.log)
		}
	})
	return o
}

// token makes a token and returns its text.
func (o *origin) token(change func(*catalog.Token)) string {
	o.t.Helper()
	text := catalog.NewTokenText()
	tok := catalog.Token{Name: "t-" + text[len(text)-8:], Scopes: []catalog.Scope{catalog.ScopePublish}, Created: time.Now()}
	if change != nil {
		change(&tok)
	}
	if err := o.d.Catalogue.AddToken(o.t.Context(), tok, catalog.HashToken(text)); err != nil {
		o.t.Fatal(err)
	}
	return text
}

// tokenFile makes a token for publishing and returns the file that holds it.
func (o *origin) tokenFile() string {
	o.t.Helper()
	return spit(o.t, filepath.Join(o.t.TempDir(), "token"), []byte(o.token(nil)+"\n"))
}

// published returns the store paths that the catalogue has, ascending.
func (o *origin) published() []string {
	o.t.Helper()
	paths := []string{}
	for it, err := range o.d.Catalogue.Items(o.t.Context(), 0) {
		if err != nil {
			o.t.Fatal(err)
		}
		paths = append(paths, it.Path.String())
	}
	slices.Sort(paths)
	return paths
}

// item returns a published item.
func (o *origin) item(path string) catalog.Item {
	o.t.Helper()
	p, err := storepath.Parse(path)
	if err != nil {
		o.t.Fatal(err)
	}
	it, err := o.d.Catalogue.Item(o.t.Context(), p.HashPart())
	if err != nil {
		o.t.Fatal(err)
	}
	return it
}

// staged returns the names of the files that lie in the folder for uploads.
func (o *origin) staged() []string {
	o.t.Helper()
	entries, err := os.ReadDir(o.d.Incoming())
	if err != nil {
		o.t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// holds fails unless exactly these paths are published, nothing is staged, and every object is there with the bytes that the
// catalogue says: state and answers must agree.
func (o *origin) holds(paths ...string) {
	o.t.Helper()
	want := slices.Sorted(slices.Values(paths))
	if got := o.published(); !slices.Equal(got, append([]string{}, want...)) {
		o.t.Errorf("published are %v, want %v", got, want)
	}
	if names := o.staged(); len(names) > 0 {
		o.t.Errorf("staged and left: %v", names)
	}
	o.sound()
}

// sound fails unless each published file has its bytes.
func (o *origin) sound() {
	o.t.Helper()
	for f, err := range o.d.Catalogue.Keys(o.t.Context()) {
		if err != nil {
			o.t.Fatal(err)
		}
		sum := digestOfFile(o.t, filepath.Join(o.d.Root, string(f.Key)))
		if sum != f.SHA256 {
			o.t.Errorf("object %s has the hash %s, the catalogue says %s", f.Key, sum, f.SHA256)
		}
	}
}

// nixKey returns the key that clients of this herder trust.
func (o *origin) nixKey() string {
	o.t.Helper()
	keys := o.d.Keys.NixPublic()
	if len(keys) != 1 {
		o.t.Fatalf("herder has the keys %v", keys)
	}
	return keys[0]
}

// fetch has the real nix copy items out of the herder into a fresh store, with signatures required, and compares them with the
// client's own.
func (o *origin) fetch(items ...string) {
	o.t.Helper()
	to := o.t.TempDir()
	o.t.Cleanup(func() { loosen(to) })
	args := append([]string{"copy", "--from", o.url, "--to", to, "--option", "require-sigs", "true", "--option", "narinfo-cache-positive-ttl", "0",
		"--option", "narinfo-cache-negative-ttl", "0", "--option", "trusted-public-keys", o.nixKey()}, items...)
	if _, err := o.nix.Try("nix", args...); err != nil {
		o.t.Errorf("copy from the herder: %v", err)
		return
	}
	for _, item := range items {
		if got, want := o.nix.Run("nix-hash", "--type", "sha256", filepath.Join(to, "nix", "store", filepath.Base(item))), o.nix.Run("nix-hash", "--type", "sha256", item); got != want {
			o.t.Errorf("%s came back with the hash %s, want %s", item, got, want)
		}
	}
}

// push runs narfold push with --json and returns its summary.
func (o *origin) push(args ...string) (pushSummary, string, exitCode) {
	o.t.Helper()
	return o.pushWith(o.tokenFile(), args...)
}

func (o *origin) pushWith(tokenFile string, args ...string) (sum pushSummary, stderr string, code exitCode) {
	o.t.Helper()
	stdout, stderr, code := narfold(o.t, nil, append([]string{"push", "--json", "--quiet", "--to", o.url, "--token-file", tokenFile}, args...)...)
	if len(stdout) > 0 {
		if err := json.Unmarshal(stdout, &sum); err != nil {
			o.t.Fatalf("push answered %s: %v", stdout, err)
		}
	}
	return sum, stderr, code
}

// pushed is push that must do all.
func (o *origin) pushed(args ...string) pushSummary {
	o.t.Helper()
	sum, stderr, code := o.push(args...)
	if code != exitDone {
		o.t.Fatalf("push: exit code %d: %+v: %s", code, sum.Failures, stderr)
	}
	return sum
}

// twoPackages builds the closure of dep and app and returns their paths: dep, app and app-dev.
func twoPackages(t *testing.T, nix *nixtest.Root) (dep, app, dev string) {
	t.Helper()
	file := nix.Expression("two.nix", nixtest.TwoPackages)
	return nix.Run("nix-build", file, "--no-out-link", "-A", "dep"), nix.Run("nix-build", file, "--no-out-link", "-A", "app"),
		nix.Run("nix-build", file, "--no-out-link", "-A", "app.dev")
}

// wait polls what another goroutine brings about; it fails the test if that does not come.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s: %v", what, errors.Join(ctx.Err(), context.Cause(t.Context())))
		}
	}
}

// loosen undoes the read-only modes of a store, so that it can be removed.
func loosen(dir string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o755)
		}
		return nil
	})
}

func digestOfFile(t *testing.T, name string) digest.SHA256 {
	t.Helper()
	return digest.Of(slurp(t, name))
}

// response is what a herder answered, whole.
type response struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, url string) response {
	t.Helper()
	return ask(t, http.MethodGet, url, "", nil)
}

// ask makes one request, with a token if there is one.
func ask(t *testing.T, method, url, token string, body []byte, fields ...string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.SetBasicAuth("publisher", token)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, string(text)}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

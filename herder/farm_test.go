package herder_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/herder"
	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/herder/feedserver"
	"narfold/herder/publish"
	"narfold/herder/serve"
	"narfold/herder/upload"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/storepath"
)

// program is the built narfold, for what only another process can show.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "narfold-herder-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "narfold")
		if out, err := exec.Command("go", "build", "-o", program, "narfold/cmd/narfold").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build narfold/cmd/narfold: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// farm is a running herder with a deployment of its own.
type farm struct {
	t      testing.TB
	d      *deployment.Deployment
	herder *herder.Herder
	cfg    serve.Config // as it was started, to be changed and reloaded
	scrub  *check.Scrub // which begins ten minutes after the herder
	url    string
	logged *lockedBuffer
	stop   func() error // ends the herder and waits for it
}

// options change how a farm is started.
type options struct {
	config func(*deployment.Config)
	tls    *tls.Config
}

func newFarm(t testing.TB, o options) *farm {
	t.Helper()
	cfg := deployment.Defaults(filepath.Join(t.TempDir(), "state"))
	cfg.Keys.Host = "farm.example"
	cfg.Publish.Reserve = 0
	if o.config != nil {
		o.config(&cfg)
	}
	f := &farm{t: t, logged: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(f.logged, nil))
	var err error
	if f.d, err = deployment.Open(t.Context(), cfg, true, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.d.Close() })
	for _, dir := range []storepath.Dir{storepath.Nix, storepath.Guix} {
		if _, err := f.d.EnsureKey(dir); err != nil {
			t.Fatal(err)
		}
	}
	s := f.d.Config.Serve
	f.cfg = serve.Config{Catalogue: f.d.Catalogue, Objects: f.d.Objects, Root: f.d.Root, Presign: f.d.Presigner,
		TTL: time.Duration(s.TTL), NewTTL: time.Duration(s.NewTTL), NegativeTTL: time.Duration(s.NegativeTTL), StoreDir: s.StoreDir,
		Priority: s.Priority, Prefer: []compress.Method{s.Prefer}, Log: log,
		Keys: serve.PublicKeys{Guix: f.d.Keys.GuixPublic(), Nix: f.d.Keys.NixPublic()}}
	feedKey, _, err := f.d.FeedKey()
	if err != nil {
		t.Fatal(err)
	}
	changes, err := feedserver.New(f.d.Catalogue, f.d.Objects, feedKey, rand.Reader, log)
	if err != nil {
		t.Fatal(err)
	}
	f.scrub = &check.Scrub{Every: time.Hour, Config: check.Config{Catalogue: f.d.Catalogue, Objects: f.d.Objects, Log: log}}
	f.herder, err = herder.New(herder.Parts{Serve: f.cfg, Publisher: f.d.Publisher(), Feed: changes, Check: f.scrub, Popularity: f.d.Catalogue, Log: log,
		Uploads: &upload.Uploads{Dir: f.d.Incoming(), Catalogue: f.d.Catalogue, Leaser: f.d.Catalogue, Objects: f.d.Objects, Presigner: f.d.Presigner, Log: log, Keep: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + l.Addr().String()
	if o.tls != nil {
		l, f.url = tls.NewListener(l, o.tls), "https://"+l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- f.herder.Run(ctx, l) }()
	f.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("the herder ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the herder logged:\n%s", f.logged)
		}
	})
	return f
}

// onBothStores runs a test on a herder with a directory store, and on one whose objects are with a real S3 server.
func onBothStores(t *testing.T, test func(t *testing.T, f *farm)) {
	t.Run("directory", func(t *testing.T) { test(t, newFarm(t, options{})) })
	t.Run("S3", func(t *testing.T) { test(t, newFarm(t, options{config: inBucket(t, false)})) })
}

// inBucket puts the objects into a bucket of a new S3 server.
func inBucket(t *testing.T, redirect bool) func(*deployment.Config) {
	t.Helper()
	s := objstoretest.S3(t)
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, []byte(s.AccessKey+"\n"+s.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *deployment.Config) {
		c.Objects = deployment.Objects{Endpoint: s.Endpoint, Bucket: s.Bucket, Region: s.Region, Prefix: "farm", CredentialsFile: credentials, PathStyle: "auto", Redirect: redirect}
	}
}

// everyForm are the compressions that Narfold writes.
var everyForm = []compress.Method{compress.Zstd, compress.Lzip, compress.Gzip, compress.Xz, compress.None}

// item is a store item that no package manager built: a folder with a program, a link and some text.
type item struct {
	dir  storepath.Dir
	name string
	refs []string
	text string
}

func (i item) path() storepath.Path {
	return storepath.Path{Dir: i.dir, Base: catalogtest.Base(i.name)}
}

// publish publishes items, signed by the farm's keys, in the given compressions.
func (f *farm) publish(forms []compress.Method, items ...item) {
	f.t.Helper()
	p := f.d.Publisher()
	p.Compressions = forms
	jobs := func(yield func(publish.Job, error) bool) {
		for _, it := range items {
			n := &narinfo.Narinfo{StorePath: it.path()}
			for _, r := range it.refs {
				n.References = append(n.References, catalogtest.Base(r))
			}
			slices.Sort(n.References)
			tree := it.tree(f.t)
			dump := func(ctx context.Context, w io.Writer) error { return nar.Dump(ctx, w, tree) }
			if !yield(publish.Job{Narinfo: n, Dump: dump, Sign: true, By: "test"}, nil) {
				return
			}
		}
	}
	published := 0
	err := p.Run(f.t.Context(), jobs, func(r publish.Result) {
		published++
		if r.Err != nil {
			f.t.Errorf("publish %s: %v", r.Path, r.Err)
		}
	})
	if err != nil || published != len(items) {
		f.t.Fatalf("%d of %d published: %v", published, len(items), err)
	}
}

func (i item) tree(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "bin", "run"), []byte("#!/bin/sh\necho "+i.name+"\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "text"), []byte(i.text+strings.Repeat("so it goes with "+i.name+"\n", 300)), 0o644))
	must(t, os.Symlink("text", filepath.Join(root, "link")))
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guixKey is the file of the public key that Guix clients authorize.
func (f *farm) guixKey() string { return filepath.Join(f.d.Config.State, "keys", "guix.pub") }

// nixKey is the word for trusted-public-keys.
func (f *farm) nixKey() string { return f.d.Keys.NixPublic()[0] }

// asked names the deployment on the command line of another process. A state folder alone would not say where the objects are.
func (f *farm) asked() string {
	f.t.Helper()
	c, o := f.d.Config, f.d.Config.Objects
	text := fmt.Sprintf("state = %q\n[publish]\nreserve = \"0\"\n", c.State)
	if o.Endpoint != "" {
		text += fmt.Sprintf("[objects]\nendpoint = %q\nbucket = %q\nprefix = %q\nregion = %q\ncredentials_file = %q\n", o.Endpoint, o.Bucket, o.Prefix, o.Region, o.CredentialsFile)
	}
	file := filepath.Join(f.t.TempDir(), "narfold.toml")
	must(f.t, os.WriteFile(file, []byte(text), 0o644))
	return "--config=" + file
}

// object is the only file or object of an item in one compression.
func (f *farm) object(base storepath.Base, m compress.Method) objstore.Key {
	f.t.Helper()
	it, err := f.d.Catalogue.Item(f.t.Context(), base.HashPart())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range it.Files {
		if file.Compression == m {
			return file.Key
		}
	}
	f.t.Fatalf("%s has no %s form: %+v", base, m, it.Files)
	return ""
}

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   string
}

// get sends one request with header fields given as name, value, name, value.
func (f *farm) get(method, path string, fields ...string) answer {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// client shows answers as they are: it follows no redirect and decodes nothing.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// narfold runs the program in a process of its own and returns what it said and its exit code.
func narfold(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// lockedBuffer is written by a logger and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

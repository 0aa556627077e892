package herder_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// middleman stands between a client and a farm, and may change answers.
type middleman struct {
	url string

	mu   sync.Mutex
	seen []string // requests for nars and what was answered: path, Range, status
}

func newMiddleman(t *testing.T, f *farm, change func(*http.Response)) *middleman {
	t.Helper()
	m := &middleman{}
	to, err := url.Parse(f.url)
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(res *http.Response) error {
			if strings.HasPrefix(res.Request.URL.Path, "/nar/") {
				m.mu.Lock()
				m.seen = append(m.seen, fmt.Sprintf("%s %q %d", res.Request.URL.Path, res.Request.Header.Get("Range"), res.StatusCode))
				m.mu.Unlock()
			}
			change(res)
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0), // it would tell of every cut that is made on purpose
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	m.url = s.URL
	return m
}

// rewrite changes the body of an answer and its length.
func rewrite(t *testing.T, res *http.Response, change func([]byte) []byte) {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	res.Body.Close()
	body = change(body)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	res.Header.Set("Content-Length", fmt.Sprint(len(body)))
}

func TestNixRefusesWhatAMiddlemanForges(t *testing.T) {
	b := newBuilder(t)
	f := newFarm(t, options{})
	b.importInto(f, []compress.Method{compress.Zstd}, b.app)
	whole := newMiddleman(t, f, func(*http.Response) {})
	if _, err := b.realise(whole.url, f.nixKey(), b.app); err != nil {
		t.Fatalf("through a middleman who changes nothing: %v", err)
	}
	for name, forge := range map[string]func(string) string{
		"signature": func(s string) string {
			at := strings.Index(s, "\nSig: ") + len("\nSig: farm.example-1:")
			other := "A"
			if s[at:at+1] == other {
				other = "B"
			}
			return s[:at] + other + s[at+1:]
		},
		"no signature": func(s string) string { return s[:strings.Index(s, "Sig: ")] },
		"nar size":     func(s string) string { return strings.Replace(s, "NarSize: ", "NarSize: 1", 1) },
		"references": func(s string) string {
			return strings.Replace(s, "References: ", "References: "+strings.Repeat("0", 32)+"-added ", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMiddleman(t, f, func(res *http.Response) {
				if strings.HasSuffix(res.Request.URL.Path, ".narinfo") && res.Request.Method == "GET" {
					rewrite(t, res, func(b []byte) []byte {
						forged := forge(string(b))
						if forged == string(b) {
							t.Errorf("nothing was forged in\n%s", b)
						}
						return []byte(forged)
					})
				}
			})
			b.t = t
			// One item, since an added reference is not there to be fetched.
			uri, _ := b.store()
			_, err := b.Try("nix", "copy", "--no-recursive", "--from", m.url, "--to", uri, b.all[0], "--option", "trusted-public-keys", f.nixKey(), "--option", "require-sigs", "true")
			if err == nil || !strings.Contains(err.Error(), "lacks a valid signature") {
				t.Errorf("nix says %v", err)
			}
		})
	}
	b.t = t
}

func TestNixRefusesANarThatAMiddlemanChanges(t *testing.T) {
	b := newBuilder(t)
	f := newFarm(t, options{})
	b.importInto(f, []compress.Method{compress.None}, b.app)
	m := newMiddleman(t, f, func(res *http.Response) {
		if strings.HasPrefix(res.Request.URL.Path, "/nar/") {
			rewrite(t, res, func(b []byte) []byte { return bytes.Replace(b, []byte("hello"), []byte("jello"), 1) })
		}
	})
	if _, err := b.realise(m.url, f.nixKey(), b.app); err == nil || !strings.Contains(err.Error(), "hash mismatch importing path") {
		t.Errorf("nix says %v", err)
	}
}

// damage changes the file of an object behind the herder's back.
func (f *farm) damage(base storepath.Base, m compress.Method, change func(name string, b []byte)) {
	f.t.Helper()
	name := filepath.Join(f.d.Root, filepath.FromSlash(string(f.object(base, m))))
	b, err := os.ReadFile(name)
	must(f.t, err)
	must(f.t, os.Chmod(name, 0o644))
	change(name, b)
}

func TestDamageOnDiskIsNeverTakenForAbsence(t *testing.T) {
	b := newBuilder(t)
	base := storepath.Base(filepath.Base(b.all[0]))
	for name, c := range map[string]struct {
		form   compress.Method
		change func(t *testing.T) func(name string, b []byte)
		status int
		says   string // what nix says
		logged string
	}{
		"a byte flipped": {compress.None, func(t *testing.T) func(string, []byte) {
			return func(name string, b []byte) {
				must(t, os.WriteFile(name, bytes.Replace(b, []byte("hello"), []byte("jello"), 1), 0o644))
			}
		}, 200, "hash mismatch importing path", ""},
		"a compressed byte flipped": {compress.Xz, func(t *testing.T) func(string, []byte) {
			return func(name string, b []byte) {
				b[len(b)/2] ^= 1
				must(t, os.WriteFile(name, b, 0o644))
			}
		}, 200, "Corrupted input data", ""},
		"an object lost": {compress.Zstd, func(t *testing.T) func(string, []byte) {
			return func(name string, b []byte) { must(t, os.Remove(name)) }
		}, 500, "HTTP error 500", "of a published item is lost"},
		"an object cut short": {compress.Zstd, func(t *testing.T) func(string, []byte) {
			return func(name string, b []byte) { must(t, os.Truncate(name, int64(len(b)-1))) }
		}, 500, "HTTP error 500", "bytes, the catalogue says"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			f := newFarm(t, options{})
			b.importInto(f, []compress.Method{c.form}, b.app)
			f.damage(base, c.form, c.change(t))
			path := "/nar/" + string(c.form) + "/" + string(base)
			for _, method := range []string{"GET", "HEAD"} {
				a := f.get(method, path)
				if a.status != c.status {
					t.Errorf("%s is answered %d, want %d", method, a.status, c.status)
				}
				if a.status != 200 && a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("damage may be remembered: %q", a.header.Get("Cache-Control"))
				}
			}
			if _, err := b.realise(f.url, f.nixKey(), b.app, "--option", "download-attempts", "1"); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("nix says %v\nwant %s", err, c.says)
			}
			if !strings.Contains(f.logged.String(), c.logged) {
				t.Errorf("the operator is not told: want %q in\n%s", c.logged, f.logged)
			}
		})
	}
	b.t = t
}

func TestForgedAndDamagedCachesAreNotPublished(t *testing.T) {
	b := newBuilder(t)
	in := func(name string) string { return filepath.Join(b.Dir, name) }
	b.Run("nix-store", "--generate-binary-cache-key", "theirs-1", in("sec"), in("pub"))
	key, err := os.ReadFile(in("pub"))
	must(t, err)
	// Damage is done to what dep has; app, which references it, must not be published either.
	for name, c := range map[string]struct {
		change func(t *testing.T, narinfo, nar string)
		reason string
	}{
		"signature forged": {func(t *testing.T, narinfo, nar string) {
			edit(t, narinfo, func(s string) string { return strings.Replace(s, "NarSize: ", "NarSize: 1", 1) })
		}, "signature is not acceptable"},
		"signature missing": {func(t *testing.T, narinfo, nar string) {
			edit(t, narinfo, func(s string) string { return s[:strings.Index(s, "Sig: ")] })
		}, "signature is not acceptable: none is by a trusted key"},
		"nar changed": {func(t *testing.T, narinfo, nar string) {
			edit(t, nar, func(s string) string { return strings.Replace(s, "hello", "jello", 1) })
		}, "nar differs from its narinfo"},
		"nar cut": {func(t *testing.T, narinfo, nar string) {
			edit(t, nar, func(s string) string { return s[:len(s)-8] })
		}, "truncated"},
		"nar missing": {func(t *testing.T, narinfo, nar string) { must(t, os.Remove(nar)) }, "not in the source"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			cache := filepath.Join(t.TempDir(), "cache")
			b.Run("nix", "copy", "--to", "file://"+cache+"?compression=none&secret-key="+in("sec"), b.app)
			f := newFarm(t, options{})
			narinfo := filepath.Join(cache, filepath.Base(b.all[0])[:32]+".narinfo")
			text, err := os.ReadFile(narinfo)
			must(t, err)
			_, rest, _ := strings.Cut(string(text), "URL: ")
			nar, _, _ := strings.Cut(rest, "\n")
			c.change(t, narinfo, filepath.Join(cache, nar))
			out, said, code := narfold(t, "import", f.asked(), "--key", in("pub"), cache)
			if code != 1 || !strings.Contains(out, c.reason) || !strings.Contains(out, "references are not published") || !strings.Contains(out, "0 published, 2 refused") {
				t.Errorf("import: exit code %d: %s%s", code, out, said)
			}
			for _, item := range b.all {
				if a := f.get("GET", "/"+filepath.Base(item)[:32]+".narinfo"); a.status != 404 {
					t.Errorf("%s is answered %d", item, a.status)
				}
			}
			// The whole cache mends it.
			must(t, os.RemoveAll(cache))
			b.Run("nix", "copy", "--to", "file://"+cache+"?compression=none&secret-key="+in("sec"), b.app)
			if out, said, code := narfold(t, "import", f.asked(), "--key", in("pub"), cache); code != 0 || !strings.Contains(out, "2 published") {
				t.Errorf("then the whole cache: exit code %d: %s%s", code, out, said)
			}
			if _, err := b.realise(f.url, strings.TrimSpace(string(key)), b.app); err != nil {
				t.Error(err)
			}
		})
	}
	b.t = t
}

func edit(t *testing.T, name string, change func(string) string) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	after := change(string(b))
	if after == string(b) {
		t.Fatalf("nothing was changed in %s", name)
	}
	must(t, os.Chmod(name, 0o644))
	must(t, os.WriteFile(name, []byte(after), 0o644))
}

// breaking is a body that breaks off after some bytes.
type breaking struct {
	io.ReadCloser
	left int
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func TestNixResumesWhatWasCut(t *testing.T) {
	b := newBuilder(t)
	b.app = b.Run("nix-build", b.Expression("big.nix", `derivation { name = "big"; system = builtins.currentSystem; builder = "/bin/sh";
		args = [ "-c" "PATH=/usr/bin:/bin; seq 1 300000 > $out" ]; }`), "--no-out-link")
	b.all = []string{b.app}
	onBothStores(t, func(t *testing.T, f *farm) {
		b.t = t
		b.importInto(f, []compress.Method{compress.None}, b.app)
		var mu sync.Mutex
		cuts := 0
		m := newMiddleman(t, f, func(res *http.Response) {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(res.Request.URL.Path, "/nar/") && cuts < 2 {
				cuts++
				res.Body = &breaking{res.Body, 700_000}
			}
		})
		dir, err := b.realise(m.url, f.nixKey(), b.app)
		if err != nil {
			t.Fatal(err)
		}
		b.installed(dir)
		path := "/nar/" + filepath.Base(b.app)
		if len(m.seen) != 3 || m.seen[0] != path+` "" 200` {
			t.Fatalf("requests seen: %q", m.seen)
		}
		for _, s := range m.seen[1:] {
			var from int
			if _, err := fmt.Sscanf(strings.TrimPrefix(s, path), ` "bytes=%d-" 206`, &from); err != nil || from == 0 {
				t.Errorf("not resumed by a range that was given: %q", s)
			}
		}
		t.Logf("requests seen: %q", m.seen)
	})
	b.t = t
}

package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/nixkey/nixtest"
)

// nixPush has the real nix copy items to the herder, with the token in a netrc file.
func (o *origin) nixPush(token, query string, items ...string) error {
	o.t.Helper()
	netrc := spit(o.t, filepath.Join(o.t.TempDir(), "netrc"), []byte("machine 127.0.0.1\nlogin publisher\npassword "+token+"\n"))
	_, err := o.nix.Try("nix", append([]string{"copy", "--to", o.url + query, "--option", "netrc-file", netrc,
		"--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0"}, items...)...)
	return err
}

func TestNixPushesEveryCompressionItWrites(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	for query, kept := range map[string]compress.Method{
		"zstd": compress.Zstd, "xz": compress.Xz, "none": compress.None, "lzip": compress.Lzip, "gzip": compress.Gzip,
		// Read, and served in a compression that all clients know.
		"bzip2": compress.Zstd, "br": compress.Zstd, "lz4": compress.Zstd,
	} {
		t.Run(query, func(t *testing.T) {
			o := newOrigin(t, nix, true, nil)
			if err := o.nixPush(o.token(nil), "?compression="+query, dev); err != nil {
				t.Fatal(err)
			}
			o.holds(dep, app, dev)
			for _, item := range []string{dep, app, dev} {
				it := o.item(item)
				if len(it.Files) != 1 || it.Files[0].Compression != kept {
					t.Errorf("%s is kept as %v, want %s", item, it.Files, kept)
				}
			}
			o.fetch(dep, app, dev)
		})
	}
}

func TestNixIsToldWhyItsTokenIsNotGood(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	ended := func(tok *catalog.Token) { tok.Expires = time.Now().Add(-time.Second) }
	revoked := func(tok *catalog.Token) { tok.Revoked = time.Now().Add(-time.Second) }
	mirror := func(tok *catalog.Token) { tok.Scopes = []catalog.Scope{catalog.ScopeMirror} }
	for name, want := range map[string]struct {
		token  string
		status string
		says   string
	}{
		"wrong":      {catalog.NewTokenText(), "401", "the token is not known"},
		"expired":    {o.token(ended), "401", "has expired"},
		"revoked":    {o.token(revoked), "401", "was revoked"},
		"for mirror": {o.token(mirror), "403", "is not for publish"},
	} {
		t.Run(name, func(t *testing.T) {
			err := o.nixPush(want.token, "", dep)
			if err == nil || !strings.Contains(err.Error(), "HTTP error "+want.status) || !strings.Contains(err.Error(), want.says) {
				t.Errorf("nix says: %v", err)
			}
			o.holds()

			file := spit(t, filepath.Join(t.TempDir(), "token"), []byte(want.token))
			_, stderr, code := o.pushWith(file, dep)
			if code != exitRefused || !strings.Contains(stderr, want.says) || !strings.Contains(stderr, "narfold token create") {
				t.Errorf("narfold push: exit code %d, says %s", code, stderr)
			}
			o.holds()
		})
	}
	// The same words without the client in between: curl's, which is Nix's, needs the challenge to send what netrc says.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, o.url+"/nix-cache-info", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("without a token: status %d, WWW-Authenticate %q", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
	}
	if err := o.nixPush(o.token(nil), "", dep); err != nil {
		t.Errorf("a good token: %v", err)
	}
	o.holds(dep)
}

func TestARevokedTokenEndsAtOnce(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	token := o.token(func(tok *catalog.Token) { tok.Name = "ci" })
	if err := o.nixPush(token, "", dep); err != nil {
		t.Fatal(err)
	}
	if err := o.d.Catalogue.RevokeToken(t.Context(), "ci", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := o.nixPush(token, "", app); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("nix says: %v", err)
	}
	o.holds(dep)
}

func TestNixPushesLogs(t *testing.T) {
	nix := nixtest.New(t)
	expr := nix.Expression("log.nix", `derivation { name = "talks-1.0"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo this is said while building; echo done > $out" ]; }`)
	item := nix.Run("nix-build", expr, "--no-out-link")
	drv := nix.Run("nix-instantiate", expr)
	o := newOrigin(t, nix, true, nil)
	netrc := func(token string) string {
		return spit(t, filepath.Join(t.TempDir(), "netrc"), []byte("machine 127.0.0.1 login publisher password "+token+"\n"))
	}
	if _, err := nix.Try("nix", "store", "copy-log", "--to", o.url, "--option", "netrc-file", netrc(catalog.NewTokenText()), drv); err == nil {
		t.Error("a log was taken with a wrong token")
	}
	if resp := get(t, o.url+"/log/"+filepath.Base(drv)); resp.status != http.StatusNotFound {
		t.Errorf("after the refusal the log is status %d: %s", resp.status, resp.body)
	}
	nix.Run("nix", "store", "copy-log", "--to", o.url, "--option", "netrc-file", netrc(o.token(nil)), drv)
	if resp := get(t, o.url+"/log/"+filepath.Base(drv)); resp.status != http.StatusOK || resp.body != "this is said while building\n" {
		t.Errorf("the log is status %d: %q", resp.status, resp.body)
	}
	// Of an item the client asks for the narinfo, and then for the log of its deriver.
	if err := o.nixPush(o.token(nil), "", item); err != nil {
		t.Fatal(err)
	}
	if got := nix.Run("nix", "log", "--store", o.url, item); got != "this is said while building" {
		t.Errorf("nix log says %q", got)
	}
	o.holds(item)
}

// A farm that Nix fills and empties: what it pushed in one run a fresh client has in one run, every content and signature verified
// by Nix itself.
func TestNixPushesAndPullsTwoThousandItems(t *testing.T) {
	nix := nixtest.New(t)
	_, _, dev := twoPackages(t, nix)
	sources := t.TempDir()
	add := []string{"--add"}
	for i := range 2000 {
		add = append(add, spit(t, filepath.Join(sources, fmt.Sprintf("item-%04d", i)), fmt.Appendf(nil, "contents of %d, and then some\n", i)))
	}
	items := append(strings.Fields(nix.Run("nix-store", add...)), dev)
	o := newOrigin(t, nix, true, nil)
	if err := o.nixPush(o.token(nil), "", items...); err != nil {
		t.Fatal(err)
	}
	if n := len(o.published()); n != 2003 { // dep and app came with dev
		t.Errorf("%d items are published, want 2003", n)
	}
	to := t.TempDir()
	t.Cleanup(func() { loosen(to) })
	trust := []string{"--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0", "--option", "require-sigs", "true", "--option", "trusted-public-keys", o.nixKey()}
	if _, err := nix.Try("nix", append(append([]string{"copy", "--quiet", "--from", o.url, "--to", to}, trust...), items...)...); err != nil {
		t.Fatal(err)
	}
	nix.Run("nix", append([]string{"store", "verify", "--quiet", "--all", "--store", to}, trust...)...)
	if got := strings.Fields(nix.Run("nix", "path-info", "--all", "--store", to)); len(got) != 2003 {
		t.Errorf("the client has %d items, want 2003", len(got))
	}
}

package herder_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/compress"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// builder is an installation of Nix with a closure in it: app, which refers to itself and to dep.
type builder struct {
	*nixtest.Root
	t    testing.TB
	app  string
	all  []string // the closure, references first
	news int      // stores made
}

func newBuilder(t testing.TB) *builder {
	t.Helper()
	b := &builder{Root: nixtest.New(t), t: t}
	b.app = b.Run("nix-build", b.Expression("two.nix", nixtest.TwoPackages), "-A", "app", "--no-out-link")
	b.all = strings.Fields(b.Run("nix-store", "-qR", b.app))
	if len(b.all) != 2 || b.all[1] != b.app {
		t.Fatalf("closure of %s: %v", b.app, b.all)
	}
	return b
}

// importInto brings items with their closure into a farm, by a process of its own.
func (b *builder) importInto(f *farm, forms []compress.Method, items ...string) {
	b.t.Helper()
	args := []string{"import", f.asked(), "--closure", "--database", filepath.Join(b.Dir, "var/nix/db/db.sqlite")}
	for _, m := range forms {
		args = append(args, "--compression", string(m))
	}
	if out, said, code := narfold(b.t, append(args, items...)...); code != 0 {
		b.t.Fatalf("import: exit code %d: %s%s", code, out, said)
	}
}

// store is an empty store of the same store directory, in another place.
func (b *builder) store() (uri, dir string) {
	b.t.Helper()
	b.news++
	root := filepath.Join(b.Dir, fmt.Sprintf("user%d", b.news))
	b.t.Cleanup(func() {
		filepath.WalkDir(root, func(name string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				os.Chmod(name, 0o755)
			}
			return nil
		})
	})
	return fmt.Sprintf("local?store=%s&state=%s/var&log=%s/log&real=%s/store", b.Store, root, root, root), filepath.Join(root, "store")
}

// realise has the real client install an item into an empty store from url, trusting one key, and returns what the client said if
// it could not.
func (b *builder) realise(url, key, item string, more ...string) (dir string, err error) {
	b.t.Helper()
	uri, dir := b.store()
	args := append([]string{"-r", item, "--store", uri, "--option", "substituters", url, "--option", "trusted-public-keys", key, "--option", "require-sigs", "true",
		"--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0", "--option", "download-attempts", "3"}, more...)
	if _, err := b.Try("nix-store", args...); err != nil {
		return dir, err
	}
	_, err = b.Try("nix-store", "--verify", "--check-contents", "--store", uri)
	return dir, err
}

// installed checks that every item of the closure is in dir as it was built.
func (b *builder) installed(dir string) {
	b.t.Helper()
	for _, item := range b.all {
		var want, got bytes.Buffer
		must(b.t, nar.Dump(b.t.Context(), &want, item))
		must(b.t, nar.Dump(b.t.Context(), &got, filepath.Join(dir, filepath.Base(item))))
		if !bytes.Equal(want.Bytes(), got.Bytes()) {
			b.t.Errorf("%s was installed differently", item)
		}
	}
}

func TestNixInstallsEveryForm(t *testing.T) {
	b := newBuilder(t)
	onBothStores(t, func(t *testing.T, f *farm) {
		b.t = t
		b.importInto(f, everyForm, b.app)
		for _, m := range everyForm {
			t.Run(string(m), func(t *testing.T) {
				b.t = t
				f.cfg.Prefer = []compress.Method{m}
				must(t, f.herder.Reload(f.cfg))
				var infos []struct{ URL string }
				must(t, json.Unmarshal([]byte(b.Run("nix", "path-info", "--json", "--store", f.url, b.app, "--option", "narinfo-cache-positive-ttl", "0")), &infos))
				if want := narinfo.NarURL(m, storepath.Base(filepath.Base(b.app))); len(infos) != 1 || infos[0].URL != want {
					t.Fatalf("nix chose %+v, want %s", infos, want)
				}
				dir, err := b.realise(f.url, f.nixKey(), b.app)
				if err != nil {
					t.Fatal(err)
				}
				b.installed(dir)
			})
		}
		b.t = t
		if _, err := b.realise(f.url, "other-1:"+strings.Repeat("A", 43)+"=", b.app); err == nil {
			t.Error("a client that does not know our key took our word: this test proves nothing")
		}
	})
}

func TestNixFollowsToTheBucket(t *testing.T) {
	b := newBuilder(t)
	f := newFarm(t, options{config: inBucket(t, true)})
	b.importInto(f, []compress.Method{compress.Zstd}, b.app)
	dir, err := b.realise(f.url, f.nixKey(), b.app)
	if err != nil {
		t.Fatal(err)
	}
	b.installed(dir)
	nar := "/nar/zstd/" + filepath.Base(b.app)
	if a := f.get("GET", nar, "User-Agent", "curl/7.85.0 Nix/2.8.0"); a.status != 302 || a.header.Get("Location") == "" {
		t.Errorf("Nix is answered %d", a.status)
	}
	if a := f.get("GET", nar, "User-Agent", "GNU Guile"); a.status != 200 || a.body == "" {
		t.Errorf("Guix, which may not follow, is answered %d", a.status)
	}
	if a := f.get("GET", "/"+filepath.Base(b.app)[:32]+".narinfo", "User-Agent", "curl/7.85.0 Nix/2.8.0"); a.status != 200 {
		t.Errorf("a narinfo is answered %d", a.status)
	}
}

func TestNixInstallsOverHTTP2(t *testing.T) {
	authority, certificate := authority(t)
	t.Setenv("NIX_SSL_CERT_FILE", authority)
	b := newBuilder(t)
	var mu sync.Mutex
	var protocols []string
	f := newFarm(t, options{tls: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
		VerifyConnection: func(s tls.ConnectionState) error {
			mu.Lock()
			defer mu.Unlock()
			protocols = append(protocols, s.NegotiatedProtocol)
			return nil
		}}})
	b.importInto(f, []compress.Method{compress.Zstd}, b.app)
	dir, err := b.realise(f.url, f.nixKey(), b.app)
	if err != nil {
		t.Fatal(err)
	}
	b.installed(dir)
	mu.Lock()
	defer mu.Unlock()
	if len(protocols) == 0 || slices.ContainsFunc(protocols, func(p string) bool { return p != "h2" }) {
		t.Errorf("connections spoke %q", protocols)
	}
}

// authority makes a certification authority and a certificate by it for the loopback address.
func authority(t *testing.T) (file string, certificate tls.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		if signer == nil {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		must(t, err)
		return der, key
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	root := template("an authority")
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	rootDER, rootKey := make(root, root, nil)
	leaf := template("a herder")
	leaf.IPAddresses, leaf.ExtKeyUsage, leaf.KeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, x509.KeyUsageDigitalSignature
	leafDER, leafKey := make(leaf, root, rootKey)
	file = filepath.Join(t.TempDir(), "authority.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), 0o644))
	return file, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}
}

package nixkey_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/nixkey/nixtest"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// narinfos parses every narinfo of a file:// cache.
func narinfos(t *testing.T, cache string) map[string]*narinfo.Narinfo {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(cache, "*.narinfo"))
	if err != nil || len(paths) < 3 {
		t.Fatalf("%d narinfos: %v", len(paths), err)
	}
	all := make(map[string]*narinfo.Narinfo)
	for _, path := range paths {
		n, err := narinfo.Parse(read(t, path))
		if err != nil {
			t.Fatalf("%v\n%s", err, read(t, path))
		}
		all[path] = n
	}
	return all
}

func TestNixAndWeTrustEachOther(t *testing.T) {
	nix := nixtest.New(t)
	expression := nix.Expression("two.nix", nixtest.TwoPackages)
	items := strings.Fields(nix.Run("nix-build", expression, "--no-out-link"))
	dev := filepath.Join(nix.Dir, "dev")
	nix.Run("nix-build", expression, "-A", "app.dev", "-o", dev)
	link, err := filepath.EvalSymlinks(dev + "-dev")
	if err != nil {
		t.Fatal(err)
	}
	items = append(items, link)

	// Their key files are ours.
	sec, pub := filepath.Join(nix.Dir, "key.sec"), filepath.Join(nix.Dir, "key.pub")
	nix.Run("nix-store", "--generate-binary-cache-key", "their-1", sec, pub)
	theirs, err := nixkey.ParseSecret(read(t, sec))
	if err != nil {
		t.Fatal(err)
	}
	if string(theirs.File()) != string(read(t, sec)) || theirs.Public().String() != string(read(t, pub)) {
		t.Errorf("their key files are written otherwise: %q", read(t, pub))
	}
	// Our key file is theirs.
	our, err := nixkey.Generate("our-1", rand.NewChaCha8([32]byte{5}))
	if err != nil {
		t.Fatal(err)
	}
	ourSec := write(t, filepath.Join(nix.Dir, "our.sec"), our.File())

	// An item that its content names has a CA field.
	items = append(items, nix.Run("nix-store", "--add", expression))

	for _, c := range []struct {
		name, compression, file string
		secret                  *nixkey.Secret
	}{
		{"their key", "xz", sec, theirs},
		{"our key", "none", ourSec, our},
		{"our key and zstd", "zstd", ourSec, our},
		{"our key and bzip2", "bzip2", ourSec, our},
		{"our key and brotli", "br", ourSec, our},
	} {
		cache := filepath.Join(nix.Dir, "cache-"+c.compression)
		nix.Run("nix", append([]string{"copy", "--to", "file://" + cache + "?compression=" + c.compression + "&secret-key=" + c.file}, items...)...)
		trust := nixkey.TrustIn(c.secret.Public())
		references, named := 0, 0
		for path, n := range narinfos(t, cache) {
			references += len(n.References)
			if n.CA != "" {
				named++
			}
			if string(n.Files[0].Compression) != c.compression || n.Files[0].FileSize <= 0 || n.Files[0].FileHash.IsZero() {
				t.Errorf("%s: the file is %+v", c.name, n.Files[0])
			}
			if len(n.Sigs) != 1 || n.Sigs[0] != c.secret.Sign(n.Fingerprint()) {
				t.Errorf("%s: nix signs %q, we %q", c.name, n.Sigs, c.secret.Sign(n.Fingerprint()))
			}
			if key, err := trust.Verify(n.Fingerprint(), n.Sigs); err != nil || key != c.secret.Public() {
				t.Errorf("%s: %v", c.name, err)
			}
			if got := narinfo.Nix(n); string(got) != string(n.Raw) {
				t.Errorf("%s: %s rendered as\n%s\nnix writes\n%s", c.name, path, got, n.Raw)
			}
		}
		if references != 3 || named != 1 {
			t.Errorf("%s: %d references and %d items named by content, want 3 and 1", c.name, references, named)
		}
	}
}

func TestNixBelievesWhatWeSignAfterwards(t *testing.T) {
	nix := nixtest.New(t)
	expression := nix.Expression("two.nix", nixtest.TwoPackages)
	nix.Run("nix-build", expression, "--no-out-link")
	app := nix.Run("nix-build", expression, "-A", "app", "--no-out-link")
	nix.Run("nix-build", expression, "-A", "app.dev", "-o", filepath.Join(nix.Dir, "dev"))
	dev, err := filepath.EvalSymlinks(filepath.Join(nix.Dir, "dev-dev"))
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(nix.Dir, "cache-unsigned")
	nix.Run("nix", "copy", "--to", "file://"+cache+"?compression=none", app, dev)
	our, err := nixkey.Generate("our-1", rand.NewChaCha8([32]byte{6}))
	if err != nil {
		t.Fatal(err)
	}
	verify := func(key nixkey.PublicKey) error {
		_, err := nix.Try("nix", "store", "verify", "--store", "file://"+cache, "--sigs-needed", "1", "--all", "--option", "trusted-public-keys", key.String())
		return err
	}
	if err := verify(our.Public()); err == nil {
		t.Error("nix believes what nobody signed")
	}
	for path, n := range narinfos(t, cache) {
		if _, err := nixkey.TrustIn(our.Public()).Verify(n.Fingerprint(), n.Sigs); err == nil {
			t.Errorf("%s is signed already", path)
		}
		write(t, path, narinfo.WithFiles(n, n.Files, []string{our.Sign(n.Fingerprint())}))
	}
	// What nix remembers of the cache is older than our signatures.
	for _, old := range []string{"cache", "home"} {
		if err := os.RemoveAll(filepath.Join(nix.Dir, old)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(nix.Dir, old), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := verify(our.Public()); err != nil {
		t.Errorf("nix does not believe us: %v", err)
	}
	other, err := nixkey.Generate("our-1", rand.NewChaCha8([32]byte{7}))
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(other.Public()); err == nil {
		t.Error("nix believes another key of the same name")
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/herder/check"
	"narfold/herder/repair"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
)

// otherwise writes a cache that has a parcel's nar in another compression, in as many pieces as there are limits, one after the other.
func otherwise(t *testing.T, p parcel, m compress.Method, cuts ...int) (dir string, squeezed []byte) {
	t.Helper()
	z, err := compress.NewReader(compress.Zstd, bytes.NewReader(p.nar))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for from, i := 0, 0; i <= len(cuts); i++ {
		to := len(plain)
		if i < len(cuts) {
			to = cuts[i]
		}
		w, err := compress.NewWriter(m, &out, compress.Fastest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain[from:to]); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		from = to
	}
	n, err := narinfo.Parse(p.narinfo)
	if err != nil {
		t.Fatal(err)
	}
	file := digest.Of(out.Bytes())
	n.Files = []narinfo.File{{URL: "nar/x", Compression: m, FileHash: file, FileSize: int64(out.Len())}}
	dir = t.TempDir()
	writeAll(t, filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"))
	writeAll(t, filepath.Join(dir, "nar", "x"), out.Bytes())
	writeAll(t, filepath.Join(dir, string(p.path.HashPart())+".narinfo"), narinfo.Nix(n))
	return dir, out.Bytes()
}

// repaired runs the command and returns what it said, which must hold every one of want.
func repaired(t *testing.T, code exitCode, want []string, args ...string) string {
	t.Helper()
	stdout, stderr, got := narfold(t, nil, append([]string{"repair", "--quiet"}, args...)...)
	said := string(stdout) + stderr
	if got != code {
		t.Errorf("repair %v: exit code %d, want %d: %s", args, got, code, said)
	}
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("repair %v: %q is not in\n%s", args, w, said)
		}
	}
	return string(stdout)
}

// flip changes a byte of a file in its place, as a disk does.
func flip(t *testing.T, name string) {
	t.Helper()
	b := slurp(t, name)
	b[len(b)/2] ^= 0x10
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestARunningHerderServesWhatWasRepaired(t *testing.T) {
	state := t.TempDir()
	cache, p := cacheOf(t, "precious", strings.Repeat("a thing that many need, ", 2000))
	must(t, nil, "import", "--state", state, cache)
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	nar := s.url() + "/nar/zstd/" + string(p.path.Base)
	served := func() string { return get(t, nar).body }
	if served() != string(p.nar) {
		t.Fatal("another nar is served than was imported")
	}
	object := filepath.Join(state, "objects", "nar", "zstd", string(p.path.Base))
	with := func(more ...string) []string { return append([]string{"--state", state}, more...) }
	repaired(t, exitDone, []string{"nothing is damaged"}, with("--deep", cache)...)

	flip(t, object)
	if served() == string(p.nar) {
		t.Fatal("the damage is not served: this test sees nothing")
	}
	repaired(t, exitDone, []string{"nothing is damaged"}, with(cache)...)
	repaired(t, exitDone, []string{"mendable: nar/zstd/", "corrupt: its bytes have changed", "1 could be mended"}, with("--deep", "--dry-run", cache)...)
	repaired(t, exitDone, []string{"restored: nar/zstd/", "from: " + cache, "1 restored"}, with("--deep", cache)...)
	wait(t, "the mended nar to be served", func() bool { return served() == string(p.nar) })

	if err := os.Remove(object); err != nil {
		t.Fatal(err)
	}
	repaired(t, exitDone, []string{"restored: nar/zstd/", "missing: the object is not in the store"}, with(cache)...)
	wait(t, "the nar that was gone to be served", func() bool { return served() == string(p.nar) })
	checked(t, exitDone, []string{"all is well"}, with("--deep", "--quiet", "--older-than", "0s")...)
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestARunningHerderServesWhatTookAnotherPlace(t *testing.T) {
	state := t.TempDir()
	_, p := cacheOf(t, "precious", strings.Repeat("a thing that many need, ", 2000))
	// Three frames of zstd: what no encoder makes of one nar.
	first, published := otherwise(t, p, compress.Zstd, 3000, 20000)
	second, _ := otherwise(t, p, compress.Gzip)
	must(t, nil, "import", "--state", state, first)
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	url := s.url() + "/" + string(p.path.HashPart()) + ".narinfo"
	nar := s.url() + "/nar/zstd/" + string(p.path.Base)
	if get(t, nar).body != string(published) {
		t.Fatal("another nar is served than was imported")
	}
	flip(t, filepath.Join(state, "objects", "nar", "zstd", string(p.path.Base)))
	var sum repairSummary
	said := repaired(t, exitDone, nil, "--state", state, "--json", "--item", string(p.path.HashPart()), second)
	if err := json.Unmarshal([]byte(said), &sum); err != nil || sum.Replaced != 1 || len(sum.Mendings) != 1 || sum.Mendings[0].Result != repair.Replaced || !strings.HasSuffix(string(sum.Mendings[0].NewKey), ";2") {
		t.Errorf("%v: %s", err, said)
	}
	var (
		n   *narinfo.Narinfo
		r   response
		err error
	)
	wait(t, "the narinfo to tell of other bytes", func() bool {
		n, err = narinfo.Parse([]byte(get(t, url).body))
		return err != nil || n.Files[0].FileHash != digest.Of(published)
	})
	if err != nil {
		t.Fatal(err)
	}
	r = get(t, nar)
	if r.status != http.StatusOK || digest.Of([]byte(r.body)) != n.Files[0].FileHash || int64(len(r.body)) != n.Files[0].FileSize {
		t.Errorf("status %d, %d bytes; the narinfo says %+v", r.status, len(r.body), n.Files)
	}
	with := []string{"--state", state, "--older-than", "0s"}
	checked(t, exitDone, []string{"removed: 1 abandoned uploads", "all is well"}, append(with, "--remove-abandoned")...)
	var report check.Report
	text := checked(t, exitDone, nil, append(with, "--deep", "--quiet", "--json")...)
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.Items != 1 || report.Files != 1 || report.Objects-report.Feed != 1 {
		t.Errorf("%v: %s", err, text) // nothing but the nar, and the herder's copies of its feed
	}
	if got := get(t, nar); got.body != r.body {
		t.Errorf("after the old object was removed: %d", got.status)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestRepairSaysWhatItCouldNotMendAndWhy(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	cache, p := cacheOf(t, "precious", "contents")
	other, _ := cacheOf(t, "another", "contents of its own")
	must(t, nil, "import", "--state", state, cache)
	if err := os.Remove(filepath.Join(state, "objects", "nar", "zstd", string(p.path.Base))); err != nil {
		t.Fatal(err)
	}
	repaired(t, exitRefused, []string{"damaged: nar/zstd/" + string(p.path.Base), "not in the source", "try: another source", "1 damaged still"}, "--state", state, other)
	repaired(t, exitUnavailable, []string{"damaged: nar/zstd/", "source: ", "connection refused"}, "--state", state, "http://127.0.0.1:1/")
	repaired(t, exitDone, []string{"restored: nar/zstd/", "1 restored"}, "--state", state, other, "http://127.0.0.1:1/", cache)
	if err := os.Remove(filepath.Join(state, "objects", "nar", "zstd", string(p.path.Base))); err != nil {
		t.Fatal(err)
	}
	repaired(t, exitRefused, []string{"not a source of store items"}, "--state", state, "gopher://x", cache)
}

func TestRepairRefusesWhatMakesNoSense(t *testing.T) {
	state := t.TempDir()
	cache, _ := cacheOf(t, "precious", "contents")
	repaired(t, exitRefused, []string{"no deployment here"}, "--state", state, cache)
	repaired(t, exitUsage, []string{"which deployment is meant"}, cache)
	repaired(t, exitUsage, []string{"want one of the two"}, "--state", state, "--deep", "--item", "x", cache)
	repaired(t, exitUsage, []string{"--workers"}, "--state", state, "--workers=-1", cache)
	repaired(t, exitUsage, []string{"<source>"}, "--state", state)
	must(t, nil, "import", "--state", state, cache)
	repaired(t, exitUsage, []string{"--item"}, "--state", state, "--item", "nonsense", cache)
	repaired(t, exitRefused, []string{"not in the catalogue"}, "--state", state, "--item", "00000000000000000000000000000000", cache)
}

package herder_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

func TestRangesAndConditionsAreAnswered(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		it := item{dir: storepath.Guix, name: "ranged"}
		f.publish([]compress.Method{compress.Zstd, compress.None}, it)
		path := "/nar/" + string(it.path().Base)
		whole := f.get("GET", path)
		tag, size := whole.header.Get("ETag"), len(whole.body)
		if whole.status != 200 || tag == "" || whole.header.Get("Accept-Ranges") != "bytes" || whole.header.Get("Content-Encoding") != "" || whole.header.Get("Content-Type") != "application/x-nix-nar" {
			t.Fatalf("whole: %d %v", whole.status, whole.header)
		}
		for name, c := range map[string]struct {
			method string
			fields []string
			status int
			body   string
			length int // of Content-Length; -1 for none
			ranged string
		}{
			"HEAD":                     {"HEAD", nil, 200, "", size, ""},
			"general path":             {"GET", []string{"If-None-Match", `"other"`}, 200, whole.body, size, ""},
			"begin":                    {"GET", []string{"Range", "bytes=0-9"}, 206, whole.body[:10], 10, fmt.Sprintf("bytes 0-9/%d", size)},
			"middle to end":            {"GET", []string{"Range", "bytes=1000-"}, 206, whole.body[1000:], size - 1000, fmt.Sprintf("bytes 1000-%d/%d", size-1, size)},
			"last":                     {"GET", []string{"Range", "bytes=-5"}, 206, whole.body[size-5:], 5, fmt.Sprintf("bytes %d-%d/%d", size-5, size-1, size)},
			"cut at the end":           {"GET", []string{"Range", fmt.Sprintf("bytes=%d-%d", size-3, size+100)}, 206, whole.body[size-3:], 3, fmt.Sprintf("bytes %d-%d/%d", size-3, size-1, size)},
			"past the end":             {"GET", []string{"Range", fmt.Sprintf("bytes=%d-", size)}, 416, "", -2, fmt.Sprintf("bytes */%d", size)},
			"HEAD of a range":          {"HEAD", []string{"Range", "bytes=0-9"}, 206, "", 10, fmt.Sprintf("bytes 0-9/%d", size)},
			"not a range":              {"GET", []string{"Range", "lines=1-2"}, 416, "", -2, ""},
			"unchanged":                {"GET", []string{"If-None-Match", tag}, 304, "", -1, ""},
			"unchanged, among others":  {"GET", []string{"If-None-Match", `"x", ` + tag}, 304, "", -1, ""},
			"range of what it has":     {"GET", []string{"If-Range", tag, "Range", "bytes=5-6"}, 206, whole.body[5:7], 2, fmt.Sprintf("bytes 5-6/%d", size)},
			"range of something else":  {"GET", []string{"If-Range", `"other"`, "Range", "bytes=5-6"}, 200, whole.body, size, ""},
			"only if it is unchanged":  {"GET", []string{"If-Match", `"other"`}, 412, "", -2, ""},
			"with a query":             {"GET", nil, 200, whole.body, size, ""},
			"after a percent escape":   {"GET", nil, 200, whole.body, size, ""},
			"as /nar/none/ and a name": {"GET", nil, 200, whole.body, size, ""},
		} {
			at := path
			switch name {
			case "with a query":
				at += "?x=1"
			case "after a percent escape":
				at = strings.Replace(path, "ranged", "r%61nged", 1)
			case "as /nar/none/ and a name":
				at = "/nar/none/" + string(it.path().Base)
			}
			a := f.get(c.method, at, c.fields...)
			if a.status != c.status || c.length != -2 && a.body != c.body {
				t.Errorf("%s: %d with %d bytes, want %d with %d", name, a.status, len(a.body), c.status, len(c.body))
			}
			if got := a.header.Get("Content-Length"); c.length >= 0 && got != fmt.Sprint(c.length) || c.length == -1 && got != "" {
				t.Errorf("%s: Content-Length %q, want %d", name, got, c.length)
			}
			if got := a.header.Get("Content-Range"); got != c.ranged {
				t.Errorf("%s: Content-Range %q, want %q", name, got, c.ranged)
			}
			if a.status < 400 && a.header.Get("ETag") != tag {
				t.Errorf("%s: ETag %q, want %q", name, a.header.Get("ETag"), tag)
			}
		}
		if other := f.get("HEAD", "/nar/zstd/"+string(it.path().Base)).header.Get("ETag"); other == "" || other == tag {
			t.Errorf("two forms have the ETags %q and %q", tag, other)
		}
		severalRanges(t, f.get("GET", path, "Range", "bytes=7-9,0-1,-2"), whole.body)
		for _, gone := range []string{"/nar/zstd/", "/nar/", "/nar/xz/" + string(it.path().Base), "/nar/zstd/" + string(it.path().Base) + "x", "/nar/zstd/zstd/" + string(it.path().Base)} {
			if a := f.get("GET", gone); a.status != 404 || a.body != "not found\n" {
				t.Errorf("%s is answered %d: %s", gone, a.status, a.body)
			}
		}
	})
}

func severalRanges(t *testing.T, a answer, whole string) {
	t.Helper()
	kind, parameters, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if a.status != 206 || kind != "multipart/byteranges" || err != nil {
		t.Fatalf("several ranges: %d %v", a.status, a.header)
	}
	r := multipart.NewReader(strings.NewReader(a.body), parameters["boundary"])
	for _, want := range []string{whole[7:10], whole[:2], whole[len(whole)-2:]} {
		part, err := r.NextPart()
		must(t, err)
		if got, err := io.ReadAll(part); err != nil || string(got) != want {
			t.Errorf("a part is %q, want %q: %v", got, want, err)
		}
	}
}

func TestSourceFilesAreServedByTheirHash(t *testing.T) {
	nix := nixtest.New(t)
	contents := bytes.Repeat([]byte("what a tarball holds\n"), 9000)
	sum := digest.SHA256(sha256.Sum256(contents))
	must(t, os.WriteFile(filepath.Join(nix.Dir, "source"), contents, 0o644))
	build := func(name, hash string) string {
		return nix.Run("nix-build", "--no-out-link", nix.Expression("fixed.nix", fmt.Sprintf(`derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" "PATH=/usr/bin:/bin; cp %s/source $out" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "%s"; }`, name, nix.Dir, hash)))
	}
	fixed := build("hello+x-2.12.tar.gz", hex.EncodeToString(sum[:]))
	fetched := nix.Run("nix-instantiate", "--eval", "--json", "--expr", fmt.Sprintf(`builtins.fetchurl { url = "file://%s/source"; sha256 = "%s"; }`, nix.Dir, sum.Base32()))
	onBothStores(t, func(t *testing.T, f *farm) {
		out, said, code := narfold(t, "import", f.asked(), "--database", nix.Dir+"/var/nix/db/db.sqlite", "--compression", "zstd", fixed, strings.Trim(fetched, `"`))
		if code != 0 {
			t.Fatalf("import: exit code %d: %s%s", code, out, said)
		}
		path := "/file/hello+x-2.12.tar.gz/sha256/" + sum.Base32()
		saved := filepath.Join(t.TempDir(), "saved")
		for _, p := range []string{path, "/file/hello%2Bx-2.12.tar.gz/sha256/" + sum.Base32(), "/file/hello+x-2.12.tar.gz/sha256/" + hex.EncodeToString(sum[:]), "/file/source/sha256/" + sum.Base32()} {
			a := f.get("GET", p)
			if a.status != 200 || a.header.Get("Content-Length") != fmt.Sprint(len(contents)) || a.header.Get("Content-Type") != "application/octet-stream" {
				t.Fatalf("%s is answered %d %v", p, a.status, a.header)
			}
			must(t, os.WriteFile(saved, []byte(a.body), 0o644))
			check, err := exec.CommandContext(t.Context(), "sha256sum", saved).Output()
			if err != nil || !strings.HasPrefix(string(check), hex.EncodeToString(sum[:])+" ") {
				t.Errorf("sha256sum of %s says %s %v", p, check, err)
			}
		}
		for r, want := range map[string]string{"bytes=100000-100041": string(contents[100000:100042]), "bytes=188990-": string(contents[188990:]), "bytes=-3": string(contents[len(contents)-3:])} {
			if a := f.get("GET", path, "Range", r); a.status != 206 || a.body != want {
				t.Errorf("%s: %d %q, want %q", r, a.status, a.body, want)
			}
		}
		if a := f.get("GET", path, "Range", "bytes=5-6,0-1"); a.status != 200 || a.body != string(contents) {
			t.Errorf("several ranges: %d with %d bytes", a.status, len(a.body))
		}
		if a := f.get("HEAD", path); a.status != 200 || a.header.Get("Content-Length") != fmt.Sprint(len(contents)) || a.body != "" {
			t.Errorf("HEAD: %d %v", a.status, a.header)
		}
		if a := f.get("GET", path, "If-None-Match", f.get("HEAD", path).header.Get("ETag")); a.status != 304 {
			t.Errorf("unchanged: %d", a.status)
		}
		// Resumed by curl, from the middle.
		must(t, os.WriteFile(saved, contents[:77777], 0o644))
		if out, err := exec.CommandContext(t.Context(), "curl", "-sSf", "-C", "-", "-o", saved, f.url+path).CombinedOutput(); err != nil {
			t.Errorf("curl: %v: %s", err, out)
		}
		if got, err := os.ReadFile(saved); err != nil || !bytes.Equal(got, contents) {
			t.Errorf("curl resumed to %d bytes: %v", len(got), err)
		}
		other := digest.Of([]byte("other")).Base32()
		for _, p := range []string{"/file/hello-2.12.tar.gz/sha256/" + sum.Base32(), "/file/hello+x-2.12.tar.gz/sha256/" + other, "/file/hello+x-2.12.tar.gz/sha512/" + sum.Base32(),
			"/file/hello+x-2.12.tar.gz/sha256/nothing", "/file/.hidden/sha256/" + sum.Base32(), "/file/a%2Fb/sha256/" + sum.Base32()} {
			if a := f.get("GET", p); a.status != 404 || a.body != "not found\n" {
				t.Errorf("%s is answered %d: %s", p, a.status, a.body)
			}
		}
	})
}

func TestLogsCanBeReadByEveryClient(t *testing.T) {
	nix := nixtest.New(t)
	text := strings.Repeat("checking for a working compiler... yes\n", 500)
	programs := map[string]string{"plain": "cat", "gzip": "gzip", "bzip2": "bzip2"}
	built := make(map[string]string)
	for name := range programs {
		built[name] = nix.Run("nix-build", "--no-out-link", nix.Expression("logged.nix", fmt.Sprintf(`derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }`, name)))
	}
	onBothStores(t, func(t *testing.T, f *farm) {
		token := catalog.NewTokenText()
		must(t, f.d.Catalogue.AddToken(t.Context(), catalog.Token{Name: "builder", Scopes: []catalog.Scope{catalog.ScopePublish}, Created: time.Now()}, catalog.HashToken(token)))
		if out, said, code := narfold(t, "import", f.asked(), "--database", nix.Dir+"/var/nix/db/db.sqlite", built["plain"], built["gzip"], built["bzip2"]); code != 0 {
			t.Fatalf("import: exit code %d: %s%s", code, out, said)
		}
		within(t, time.Second, func() error { return storeDirIs(f, nix.Store) })
		for name, program := range programs {
			kept, err := piped(t, text, program)
			must(t, err)
			drv, err := nix.Try("nix-store", "-q", "--deriver", built[name])
			must(t, err)
			path := "/log/" + filepath.Base(drv)
			put(t, f, path, token, kept)
			if a := f.get("GET", path); a.status != 200 || a.body != text || a.header.Get("Content-Encoding") != "" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
				t.Errorf("%s, asked for as it is: %d, %d bytes, %v", name, a.status, len(a.body), a.header)
			}
			a := f.get("GET", path, "Accept-Encoding", "br, gzip;q=0.8")
			if name == "gzip" && (a.header.Get("Content-Encoding") != "gzip" || a.body != kept) || name != "gzip" && (a.header.Get("Content-Encoding") != "" || a.body != text) {
				t.Errorf("%s, gzip being welcome: %d bytes, %v", name, len(a.body), a.header)
			}
			if a := f.get("HEAD", path); a.status != 200 || a.body != "" {
				t.Errorf("%s, HEAD: %d", name, a.status)
			}
			for _, flags := range [][]string{{"-sSf"}, {"-sSf", "--compressed"}, {"-sSf", "--http1.0"}} {
				out, err := exec.CommandContext(t.Context(), "curl", append(flags, f.url+path)...).Output()
				if err != nil || string(out) != text {
					t.Errorf("%s: curl %v: %d bytes of %d: %v", name, flags, len(out), len(text), err)
				}
			}
			if got, err := nix.Try("nix", "log", "--store", f.url, built[name]); err != nil || got != strings.TrimSuffix(text, "\n") {
				t.Errorf("%s: nix log shows %d bytes of %d: %v", name, len(got), len(text), err)
			}
		}
		if a := f.get("GET", "/log/"+string(catalogtest.Base("none.drv"))); a.status != 404 {
			t.Errorf("no log: %d", a.status)
		}
	})
}

func TestALogThatIsDamagedIsCutAndNotEnded(t *testing.T) {
	f := newFarm(t, options{})
	token := catalog.NewTokenText()
	must(t, f.d.Catalogue.AddToken(t.Context(), catalog.Token{Name: "builder", Scopes: []catalog.Scope{catalog.ScopePublish}, Created: time.Now()}, catalog.HashToken(token)))
	kept, err := piped(t, strings.Repeat("a line\n", 100_000), "gzip", "-c")
	must(t, err)
	base := catalogtest.Base("cut.drv")
	put(t, f, "/log/"+string(base), token, kept[:len(kept)-9])
	res, err := client.Get(f.url + "/log/" + string(base))
	must(t, err)
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a damaged log looks whole, with %d bytes", len(b))
	}
	key, err := f.d.Catalogue.Log(t.Context(), base)
	must(t, err)
	must(t, os.Remove(filepath.Join(f.d.Root, filepath.FromSlash(string(key)))))
	if a := f.get("GET", "/log/"+string(base)); a.status != 500 || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a lost log is answered %d, %q", a.status, a.header.Get("Cache-Control"))
	}
}

func piped(t *testing.T, text, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	return string(out), err
}

func put(t *testing.T, f *farm, path, token, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", f.url+path, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close()
	if res.StatusCode != 201 {
		said, err := io.ReadAll(res.Body)
		t.Fatalf("put %s: %s: %s %v", path, res.Status, said, err)
	}
}

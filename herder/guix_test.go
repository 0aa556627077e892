package herder_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// guix fetches an item as a Guix client does: with Guile's HTTP client over one connection, the compression libraries that Guix
// uses, and libgcrypt for the signature. It returns what was seen, line by line.
func guix(t *testing.T, f *farm, item string) string {
	t.Helper()
	path, err := exec.LookPath("guile")
	if err != nil {
		t.Fatal("want the Debian packages guile-3.0, guile-gcrypt, guile-zlib, guile-lzlib and guile-zstd: ", err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--no-auto-compile", "testdata/mini-substitute.scm", f.url, f.guixKey(), item)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("guile says of %s: %v\n%s", item, err, out)
	}
	return string(out)
}

// guileForms are the compressions for which Guile has a library.
var guileForms = []compress.Method{compress.Zstd, compress.Lzip, compress.Gzip, compress.None}

func TestGuixTakesEveryFormOverOneConnection(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		items := []item{
			{dir: storepath.Guix, name: "plain-1.0"},
			{dir: storepath.Guix, name: "gtk+-3.24.1", refs: []string{"plain-1.0"}},
			{dir: storepath.Guix, name: "q=1+2?x-0", refs: []string{"plain-1.0", "gtk+-3.24.1"}},
		}
		f.publish(guileForms, items...)
		for _, it := range items {
			said := guix(t, f, it.path().String())
			if !strings.Contains(said, "signature ok: "+it.path().String()) {
				t.Errorf("no signature was seen:\n%s", said)
			}
			for _, m := range guileForms {
				if !strings.Contains(said, "nar ok: "+string(m)+" ") {
					t.Errorf("%s: the %s nar was not seen:\n%s", it.name, m, said)
				}
			}
		}
		if info := f.get("GET", "/"+string(items[1].path().HashPart())+".narinfo").body; !strings.Contains(info, "URL: nar/zstd/"+string(items[1].path().HashPart())+"-gtk%2B-3.24.1\n") {
			t.Errorf("the URL is not written as guix publish writes it:\n%s", info)
		}
	})
}

// A store with Guix's prefix, filled by Nix, so that hashes, references and names are those of a real store. Nothing is built in it,
// since that needs the right to make a chroot: texts and derivations have references too.
func TestGuixTakesWhatLiesInItsStore(t *testing.T) {
	nix := nixtest.New(t)
	root := nix.Dir + "/gnu"
	expression := nix.Expression("gnu.nix", `
		let dep = builtins.toFile "dep+x-1.0" "of dep"; app = builtins.toFile "app-1.0" "needs ${dep}";
		in derivation { name = "user-1.0"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ app ]; }`)
	user := guixStore(t, nix, root, "nix-instantiate", expression)
	f := newFarm(t, options{})
	out, said, code := narfold(t, "import", f.asked(), "--closure", "--derivations", "--compression", "zstd", "--compression", "gzip",
		"--real", root+"/store", "--database", root+"/var/db/db.sqlite", user)
	if code != 0 || !strings.Contains(out, "3 published") {
		t.Fatalf("import: exit code %d: %s%s", code, out, said)
	}
	for path := range strings.FieldsSeq(guixStore(t, nix, root, "nix-store", "-qR", user)) {
		got := guix(t, f, path)
		for _, want := range []string{"signature ok: " + path, "nar ok: zstd", "nar ok: gzip"} {
			if !strings.Contains(got, want) {
				t.Errorf("want %q:\n%s", want, got)
			}
		}
	}
	if info := f.get("GET", "/"+user[len("/gnu/store/"):][:32]+".narinfo").body; !strings.Contains(info, "-app-1.0 ") && !strings.Contains(info, "-app-1.0\n") {
		t.Errorf("narinfo lacks a reference:\n%s", info)
	}
}

// pipelined sends all requests in one write and reads the answers in order.
func pipelined(t *testing.T, f *farm, requests ...string) []answer {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(strings.Join(requests, "")))
		sent <- err
	}()
	var got []answer
	r := bufio.NewReader(c)
	for _, request := range requests {
		method, _, _ := strings.Cut(request, " ")
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("answer %d of %d: %v", len(got)+1, len(requests), err)
		}
		body, err := io.ReadAll(res.Body)
		must(t, err)
		got = append(got, answer{res.StatusCode, res.Header, string(body)})
	}
	must(t, <-sent)
	return got
}

func TestAThousandPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	f := newFarm(t, options{})
	var items []item
	for i := range 100 {
		items = append(items, item{dir: storepath.Guix, name: fmt.Sprintf("one-of-many-%d", i)})
	}
	f.publish([]compress.Method{compress.Zstd}, items...)
	var requests, hashes []string
	for i := range 500 {
		for _, h := range []storepath.HashPart{items[i%len(items)].path().HashPart(), catalogtest.Base(fmt.Sprintf("nobody-has-%d", i)).HashPart()} {
			hashes = append(hashes, string(h))
			requests = append(requests, "GET /"+string(h)+".narinfo HTTP/1.1\r\nHost: x\r\nUser-Agent: GNU Guile\r\n\r\n")
		}
	}
	begun := time.Now()
	got := pipelined(t, f, requests...)
	t.Logf("%d answers in %v", len(got), time.Since(begun))
	for i, a := range got {
		if i%2 == 1 {
			if a.status != 404 || a.body != "not found\n" || a.header.Get("Cache-Control") != "public, max-age=120" {
				t.Fatalf("a miss: %+v", a)
			}
			continue
		}
		if a.status != 200 || !strings.HasPrefix(a.body, "StorePath: /gnu/store/"+hashes[i]+"-one-of-many-") || a.header.Get("Cache-Control") != "public, max-age=129600" {
			t.Fatalf("answer %d: %+v", i, a)
		}
	}
}

func TestConnectionsAreKeptAsHTTPSays(t *testing.T) {
	f := newFarm(t, options{})
	it := item{dir: storepath.Guix, name: "kept"}
	f.publish([]compress.Method{compress.Zstd}, it)
	info, nar := "/"+string(it.path().HashPart())+".narinfo", "/nar/zstd/"+string(it.path().Base)
	size := len(f.get("GET", nar).body)
	for name, c := range map[string]struct {
		requests string
		answers  int
		closed   bool
	}{
		"HTTP/1.1 keeps":                {"GET %s HTTP/1.1\r\nHost: x\r\n\r\nGET %s HTTP/1.1\r\nHost: x\r\n\r\n", 2, false},
		"HTTP/1.1 closes when asked":    {"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 1, true},
		"HTTP/1.0 closes":               {"GET %s HTTP/1.0\r\n\r\n", 1, true},
		"HTTP/1.0 keeps when asked":     {"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 2, false},
		"HEAD has no body between GETs": {"HEAD %s HTTP/1.1\r\nHost: x\r\n\r\nGET %s HTTP/1.1\r\nHost: x\r\n\r\n", 2, false},
	} {
		for what, path := range map[string]string{"narinfo": info, "nar": nar} {
			t.Run(name+"/"+what, func(t *testing.T) {
				conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
				must(t, err)
				defer conn.Close()
				must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
				_, err = io.WriteString(conn, strings.ReplaceAll(c.requests, "%s", path))
				must(t, err)
				r := bufio.NewReader(conn)
				for i := range c.answers {
					method, _, _ := strings.Cut(strings.Split(c.requests, "\r\n\r\n")[i], " ")
					res, err := http.ReadResponse(r, &http.Request{Method: method})
					must(t, err)
					body, err := io.ReadAll(res.Body)
					must(t, err)
					if res.StatusCode != 200 || res.ContentLength < 1 || method == "GET" && int64(len(body)) != res.ContentLength || what == "nar" && res.ContentLength != int64(size) {
						t.Errorf("%s: %s, %d bytes of %d", method, res.Status, len(body), res.ContentLength)
					}
				}
				must(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
				_, err = r.ReadByte()
				if closed := err == io.EOF; closed != c.closed {
					t.Errorf("then the connection says %v", err)
				}
			})
		}
	}
}

func TestClientsAreToldWhatTheOperatorConfigured(t *testing.T) {
	f := newFarm(t, options{})
	it := item{dir: storepath.Guix, name: "told"}
	f.publish([]compress.Method{compress.Zstd}, it)
	hit, miss := "/"+string(it.path().HashPart())+".narinfo", "/"+strings.Repeat("0", 32)+".narinfo"
	told := func() string {
		return f.get("GET", hit).header.Get("Cache-Control") + "; " + f.get("GET", hit, "Range", "bytes=0-3").header.Get("Cache-Control") + "; " +
			f.get("GET", "/nar/zstd/"+string(it.path().Base)).header.Get("Cache-Control") + "; " + f.get("GET", miss).header.Get("Cache-Control")
	}
	const year = "public, max-age=129600"
	if got, want := told(), year+"; "+year+"; "+year+"; public, max-age=120"; got != want {
		t.Errorf("at first: %s\nwant      %s", got, want)
	}
	f.cfg.NewTTL, f.cfg.NegativeTTL = time.Hour, 5*time.Second
	must(t, f.herder.Reload(f.cfg))
	const hour = "public, max-age=3600"
	if got, want := told(), hour+"; "+hour+"; "+hour+"; public, max-age=5"; got != want {
		t.Errorf("reloaded: %s\nwant      %s", got, want)
	}
	f.cfg.NewTTL = 1000 * time.Hour
	if err := f.herder.Reload(f.cfg); err == nil {
		t.Error("clients may be told to keep narinfos for longer than nars stay")
	}
	if got := f.get("GET", hit).header.Get("Cache-Control"); got != hour {
		t.Errorf("after a reload that was refused: %s", got)
	}
	if n := strings.Count(f.get("GET", "/metrics").body, `narfold_requests_total{kind="narinfo",result="miss"} 2`); n != 1 {
		t.Error("counters did not survive the reload")
	}
}

// guixStore runs a program of Nix on a store of /gnu/store whose files are below root.
func guixStore(t *testing.T, nix *nixtest.Root, root, program string, args ...string) string {
	t.Helper()
	store := fmt.Sprintf("local?store=/gnu/store&state=%s/var&log=%s/log&real=%s/store", root, root, root)
	cmd := exec.CommandContext(t.Context(), "env", append([]string{"-u", "NIX_REMOTE", "NIX_STORE_DIR=/gnu/store", "NIX_CONF_DIR=" + nix.Dir + "/etc",
		"HOME=" + nix.Dir + "/home", "XDG_CACHE_HOME=" + nix.Dir + "/cache", program, "--store", store}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, &said)
	}
	return strings.TrimSpace(string(out))
}

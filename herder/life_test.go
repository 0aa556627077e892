package herder_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// large is an item whose uncompressed nar does not fit into the buffers between server and client.
var large = item{dir: storepath.Guix, name: "large", text: strings.Repeat("a line of a large text\n", 1<<20)}

// slowly asks for the nar of large and reads a little of it.
func slowly(t *testing.T, f *farm) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+"/nar/none/"+string(large.path().Base), nil)
	must(t, err)
	res, err := (&http.Transport{ReadBufferSize: 4 << 10, DialContext: narrow}).RoundTrip(req)
	must(t, err)
	t.Cleanup(func() { res.Body.Close() })
	begin := make([]byte, 1000)
	_, err = io.ReadFull(res.Body, begin)
	must(t, err)
	return res, begin
}

// narrow connects with a small buffer, so that the server feels how slow its client is.
func narrow(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) }); e != nil {
			return e
		}
		return err
	}}
	return d.DialContext(ctx, network, address)
}

func TestSlowClientsBlockNobody(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		f.publish([]compress.Method{compress.None}, large, item{dir: storepath.Guix, name: "small"})
		for range 30 {
			slowly(t, f)
		}
		begun := time.Now()
		for range 20 {
			small := item{name: "small"}.path()
			for _, path := range []string{"/" + string(small.HashPart()) + ".narinfo", "/nar/" + string(small.Base), "/nix-cache-info"} {
				if a := f.get("GET", path); a.status != 200 {
					t.Errorf("%s is answered %d", path, a.status)
				}
			}
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("60 small answers beside 30 slow clients took %v", took)
		}
	})
}

func TestAStoppedHerderLetsTransfersFinish(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		f.publish([]compress.Method{compress.None}, large)
		res, begin := slowly(t, f)
		ended := make(chan error, 1)
		go func() { ended <- f.stop() }()
		refused := time.Now().Add(5 * time.Second)
		for {
			c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
			if err != nil {
				break
			}
			c.Close()
			if time.Now().After(refused) {
				t.Fatal("a herder that stops goes on to take connections")
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("the herder ended in the middle of a transfer: %v", err)
		default:
		}
		rest, err := io.ReadAll(res.Body)
		if err != nil || int64(len(begin)+len(rest)) != res.ContentLength {
			t.Errorf("%d of %d bytes came: %v", len(begin)+len(rest), res.ContentLength, err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// wide is an expression of many items, each of which references the one before.
const wide = `
let
  build = name: before: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo ${before} > $out" ]; };
  chain = n: if n == 0 then "nothing" else build "link-${toString n}" (chain (n - 1));
in chain 60`

func TestANarinfoIsNeverSeenWithoutItsNarAndReferences(t *testing.T) {
	b := newBuilder(t)
	last := b.Run("nix-build", b.Expression("wide.nix", wide), "--no-out-link")
	closure := strings.Fields(b.Run("nix-store", "-qR", last))
	onBothStores(t, func(t *testing.T, f *farm) {
		b.t = t
		var done atomic.Bool
		var seen, early atomic.Int64
		var g errgroup.Group
		for reader := range 4 {
			g.Go(func() error {
				known := make(map[string]bool)
				for len(known) < len(closure) {
					for i := range closure {
						// Some read from the end, since what comes last is what can be seen too early.
						hash := filepath.Base(closure[i])[:32]
						if reader%2 == 1 {
							hash = filepath.Base(closure[len(closure)-1-i])[:32]
						}
						ended := done.Load()
						ok, err := complete(t.Context(), f, hash, known[hash])
						switch {
						case err != nil:
							return err
						case !ok && known[hash]:
							return fmt.Errorf("%s was there and is no more", hash)
						case !ok && ended:
							return fmt.Errorf("%s is not seen though its import has ended", hash)
						case ok && !known[hash]:
							known[hash] = true
							seen.Add(1)
							if !ended {
								early.Add(1)
							}
						}
					}
				}
				return nil
			})
		}
		b.importInto(f, []compress.Method{compress.Zstd}, last)
		done.Store(true)
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if seen.Load() != int64(4*len(closure)) {
			t.Errorf("%d items were seen, want %d by each of 4", seen.Load(), len(closure))
		}
		t.Logf("%d of %d first sights were during the import", early.Load(), seen.Load())
	})
}

// complete asks for a narinfo, and if it is there for its nars and the narinfos of its references. Damage is an error.
func complete(ctx context.Context, f *farm, hash string, known bool) (bool, error) {
	status, text, err := fetch(ctx, f, "/"+hash+".narinfo")
	if err != nil || status == 404 {
		return false, err
	}
	if status != 200 {
		return false, fmt.Errorf("%s is answered %d", hash, status)
	}
	if known {
		return true, nil
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return false, err
	}
	for _, file := range n.Files {
		if status, body, err := fetch(ctx, f, "/"+file.URL); err != nil || status != 200 || int64(len(body)) != file.FileSize {
			return false, fmt.Errorf("narinfo %s is there, its nar is answered %d with %d bytes of %d: %v", hash, status, len(body), file.FileSize, err)
		}
	}
	for _, ref := range n.References {
		if status, _, err := fetch(ctx, f, "/"+string(ref.HashPart())+".narinfo"); err != nil || status != 200 {
			return false, fmt.Errorf("narinfo %s is there, its reference %s is answered %d: %v", hash, ref, status, err)
		}
	}
	return true, nil
}

func fetch(ctx context.Context, f *farm, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", f.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

func TestWhatAnotherProcessImportsIsServedAtOnce(t *testing.T) {
	b := newBuilder(t)
	f := newFarm(t, options{})
	info := "/" + filepath.Base(b.app)[:32] + ".narinfo"
	// Everything is asked for before, so that whatever could be remembered is.
	if a := f.get("GET", info); a.status != 404 {
		t.Fatalf("before: %d", a.status)
	}
	if a := f.get("GET", "/nix-cache-info"); !strings.Contains(a.body, "StoreDir: /nix/store\n") {
		t.Errorf("an empty herder says %s", a.body)
	}
	b.importInto(f, []compress.Method{compress.Zstd}, b.app)
	if a := f.get("GET", info); a.status != 200 {
		t.Errorf("after an import that succeeded: %d", a.status)
	}
	within(t, time.Second, func() error { return storeDirIs(f, b.Store) })
	// A second form of a nar that was answered before.
	before := f.get("GET", info).body
	b.importInto(f, []compress.Method{compress.Gzip}, b.app)
	within(t, time.Second, func() error {
		if got := f.get("GET", info).body; got == before || !strings.Contains(got, "Compression: gzip\n") {
			return fmt.Errorf("the narinfo is still\n%s", got)
		}
		return nil
	})
}

func storeDirIs(f *farm, dir string) error {
	if a := f.get("GET", "/nix-cache-info"); !strings.Contains(a.body, "StoreDir: "+dir+"\n") {
		return fmt.Errorf("nix-cache-info says %s", a.body)
	}
	return nil
}

// within asks again until f is content.
func within(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("for %v: %v", limit, err)
			return
		}
	}
}

func TestOperatorsAndPublishersAreAnswered(t *testing.T) {
	f := newFarm(t, options{})
	f.publish([]compress.Method{compress.Zstd}, item{dir: storepath.Guix, name: "a"})
	f.get("GET", "/"+string(item{name: "a"}.path().HashPart())+".narinfo")
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"GET", "/readyz", 200, "ready\n"},
		{"HEAD", "/readyz", 200, ""},
		{"GET", "/metrics", 200, "\nnarfold_items 1\n"},
		{"GET", "/metrics", 200, `narfold_requests_total{kind="narinfo",result="hit"} 1`},
		{"GET", "/metrics", 200, "\nnarfold_catalogue_readable 1\n"},
		{"PUT", "/" + strings.Repeat("0", 32) + ".narinfo", 401, `"code":"denied"`},
		{"PUT", "/nar/x.nar", 401, `"code":"denied"`},
		{"PUT", "/nix-cache-info", 401, `"code":"denied"`},
		{"POST", "/api/v1/missing", 401, `"code":"denied"`},
		{"POST", "/", 405, "POST is not for this path"},
		{"DELETE", "/nar/zstd/x", 405, "DELETE is not for this path"},
		{"PATCH", "/" + strings.Repeat("0", 32) + ".narinfo", 405, "PATCH is not for this path"},
		{"GET", "/favicon.ico", 404, "not found\n"},
		{"GET", "/nar/zstd/../../keys/nix.sec", 307, `href="/keys/nix.sec"`},
		{"GET", "/keys/nix.sec", 404, "not found\n"},
		{"GET", "/nar/..%2f..%2fkeys%2fnix.sec", 404, "not found\n"},
		{"GET", "/catalogue.db", 404, "not found\n"},
	} {
		a := f.get(c.method, c.path)
		if a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%s %s is answered %d: %s", c.method, c.path, a.status, a.body)
		}
		if a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s %s does not say how to authenticate", c.method, c.path)
		}
		if a.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s does not say what is allowed", c.method, c.path)
		}
	}
}

func TestAProcessReloadsOnHangupAndStopsOnTerm(t *testing.T) {
	state := t.TempDir()
	config := filepath.Join(state, "narfold.toml")
	write := func(negative string) {
		must(t, os.WriteFile(config, []byte(fmt.Sprintf("state = %q\n[serve]\nnegative_ttl = %q\n", state, negative)), 0o644))
	}
	write("7s")
	cmd := exec.CommandContext(t.Context(), program, "herder", "run", "--config", config, "--listen", "127.0.0.1:0")
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	waited := sync.OnceValue(cmd.Wait)
	defer waited()
	defer cmd.Process.Kill()
	var address string
	within(t, 10*time.Second, func() error {
		_, rest, ok := strings.Cut(said.String(), "msg=serving address=")
		if !ok {
			return fmt.Errorf("the process said\n%s", &said)
		}
		address, _, _ = strings.Cut(rest, " ")
		return nil
	})
	maxAge := func() string {
		res, err := client.Get("http://" + address + "/" + strings.Repeat("0", 32) + ".narinfo")
		if err != nil {
			return err.Error()
		}
		res.Body.Close()
		return res.Header.Get("Cache-Control")
	}
	told := func(want string) {
		t.Helper()
		within(t, 10*time.Second, func() error {
			if got := maxAge(); got != want {
				return fmt.Errorf("clients are told %q, want %q; the process said\n%s", got, want, &said)
			}
			return nil
		})
	}
	told("public, max-age=7")
	write("9s")
	must(t, cmd.Process.Signal(syscall.SIGHUP))
	told("public, max-age=9")
	must(t, os.WriteFile(config, []byte("serve = 1\n"), 0o644))
	must(t, cmd.Process.Signal(syscall.SIGHUP))
	within(t, 10*time.Second, func() error {
		if !strings.Contains(said.String(), "configuration was not reloaded") {
			return fmt.Errorf("the process said\n%s", &said)
		}
		return nil
	})
	told("public, max-age=9")
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := waited(); err != nil {
		t.Errorf("stopped by SIGTERM, the process ended with %v:\n%s", err, &said)
	}
}

package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// cacheOf writes a binary cache with one item that holds contents.
func cacheOf(t *testing.T, name, contents string) (dir string, p parcel) {
	t.Helper()
	dir = t.TempDir()
	p = pack(t, string(storepath.Nix), name, contents, nil)
	if err := os.Mkdir(filepath.Join(dir, "nar"), 0o755); err != nil {
		t.Fatal(err)
	}
	spit(t, filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"))
	spit(t, filepath.Join(dir, "nar", p.name), p.nar)
	spit(t, filepath.Join(dir, string(p.path.HashPart())+".narinfo"), p.narinfo)
	return dir, p
}

// configFile writes a configuration for a state folder of its own.
func configFile(t *testing.T, text string) (file, state string) {
	t.Helper()
	dir := t.TempDir()
	state = filepath.Join(dir, "state")
	return spit(t, filepath.Join(dir, "narfold.toml"), []byte("state = '"+state+"'\nlisten = ['127.0.0.1:0']\n"+text)), state
}

func TestTheHerderTellsHowItIs(t *testing.T) {
	s := startService(t, serviceOptions{args: []string{"--state", t.TempDir(), "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--debug-listen", "127.0.0.1:0"}})
	for i := range 2 {
		for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n", "/nix-cache-info": "StoreDir: "} {
			if r := get(t, "http://"+s.address("serving", i)+path); r.status != http.StatusOK || !strings.HasPrefix(r.body, want) {
				t.Errorf("socket %d, %s: %d %q", i, path, r.status, r.body)
			}
		}
	}
	inside := "http://" + s.address("serving profiles and metrics", 0)
	for _, url := range []string{s.url() + "/metrics", inside + "/metrics"} {
		r := get(t, url)
		problems, err := promlint.New(strings.NewReader(r.body)).Lint()
		if err != nil || len(problems) > 0 || r.status != http.StatusOK {
			t.Errorf("%s: %d, %v: %v", url, r.status, err, problems)
		}
		for _, line := range []string{"narfold_catalogue_readable 1", "narfold_items 0", `narfold_requests_total{kind="narinfo",result="hit"} 0`, "narfold_front_connections "} {
			if !strings.Contains(r.body, "\n"+line) {
				t.Errorf("%s does not tell %q", url, line)
			}
		}
	}
	if r := get(t, inside+"/debug/pprof/goroutine?debug=1"); r.status != http.StatusOK || !strings.HasPrefix(r.body, "goroutine profile:") {
		t.Errorf("profile: %d %.100q", r.status, r.body)
	}
	if r := get(t, s.url()+"/debug/pprof/"); r.status != http.StatusNotFound {
		t.Errorf("profiles are open to everybody: %d", r.status)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAHangupReadsTheConfigurationAgain(t *testing.T) {
	file, state := configFile(t, "[serve]\nttl = '1h'\nnegative_ttl = '10s'\npriority = 11\n")
	cache, p := cacheOf(t, "kept", "for a while")
	must(t, nil, "import", "--config", file, cache)
	s := startService(t, serviceOptions{args: []string{"--config", file}})
	narinfo, absent := "/"+string(p.path.HashPart())+".narinfo", "/00000000000000000000000000000000.narinfo"
	tells := func(when, ttl, negative, priority string) {
		t.Helper()
		for path, want := range map[string]string{narinfo: ttl, absent: negative} {
			if got := get(t, s.url()+path).header.Get("Cache-Control"); got != "public, max-age="+want {
				t.Errorf("%s: of %s clients are told %q, want %s seconds", when, path, got, want)
			}
		}
		if got := get(t, s.url()+"/nix-cache-info").body; !strings.Contains(got, "Priority: "+priority+"\n") {
			t.Errorf("%s: nix-cache-info is %q, want priority %s", when, got, priority)
		}
	}
	change := func(text string) string {
		t.Helper()
		spit(t, file, []byte("state = '"+state+"'\nlisten = ['127.0.0.1:0']\n"+text))
		return s.reload()
	}
	tells("at the start", "3600", "10", "11")
	if said := change("[serve]\nttl = '2h'\nnegative_ttl = '20s'\npriority = 12\n"); !strings.Contains(said, "configuration reloaded") || strings.Contains(said, "WARN") {
		t.Errorf("said %s", said)
	}
	tells("after a change", "7200", "20", "12")
	if said := change("[serve]\nttl = '3h'\nnegative_ttl = 'soon'\npriority = 13\n"); !strings.Contains(said, "configuration was not reloaded") || !strings.Contains(said, "serve.negative_ttl: ") {
		t.Errorf("of a mistake it said %s", said)
	}
	tells("after a mistake", "7200", "20", "12")
	if said := change("[serve]\nttl = '2h'\nnew_ttl = '30m'\nnegative_ttl = '20s'\n[publish]\nlevel = 'best'\nreserve = '2GiB'\n[keys]\nhost = 'other'\n"); !strings.Contains(said, `takes a restart" keys="keys.host publish.level publish.reserve"`) {
		t.Errorf("of keys that it cannot take over it said %s", said)
	}
	tells("while the time is shortened", "1800", "20", "50")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if said := s.reload(); !strings.Contains(said, "configuration was not reloaded") || !strings.Contains(said, file) {
		t.Errorf("without the file it said %s", said)
	}
	tells("without the file", "1800", "20", "50")
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestADownloadUnderWayEndsWhole(t *testing.T) {
	random := make([]byte, 24<<20)
	rand.Read(random)
	cache, p := cacheOf(t, "large", hex.EncodeToString(random)) // of which zstd leaves about half: more than sockets hold
	state := t.TempDir()
	must(t, nil, "import", "--state", state, cache)
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	idle := get(t, s.url()+"/healthz") // and stays connected
	res, err := http.Get(s.url() + "/nar/zstd/" + string(p.path.Base))
	if err != nil || idle.status != http.StatusOK || res.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", res, err)
	}
	defer res.Body.Close()
	var nar strings.Builder
	if _, err := io.CopyN(&nar, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	s.send(syscall.SIGTERM)
	if got := s.told(); got != "STOPPING=1" {
		t.Errorf("the service manager was told %q", got)
	}
	wait(t, "the socket to close", func() bool { return refused(t, s.address("serving", 0)) })
	select {
	case <-s.ended:
		t.Fatal("it ended with a download under way")
	default:
	}
	if _, err := io.Copy(&nar, res.Body); err != nil {
		t.Errorf("the download broke off: %v", err)
	}
	if digest.Of([]byte(nar.String())) != digest.Of(p.nar) {
		t.Errorf("%d bytes came that are not the %d of the nar", nar.Len(), len(p.nar))
	}
	<-s.ended
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAnAddressThatIsTaken(t *testing.T) {
	l := loopback(t)
	for _, args := range [][]string{{"--listen", l.Addr().String()}, {"--listen", "127.0.0.1:0", "--debug-listen", l.Addr().String()}} {
		_, stderr, code := narfold(t, nil, append([]string{"herder", "run", "--state", t.TempDir()}, args...)...)
		if code != exitUnavailable || !strings.Contains(stderr, "listen on "+l.Addr().String()+": ") || !strings.Contains(stderr, "\n  try: another address: --listen ") {
			t.Errorf("%v: exit code %d, said %q", args, code, stderr)
		}
	}
}

func TestHandedOverSocketsAreServed(t *testing.T) {
	var files []*os.File
	var addresses []string
	for range 2 {
		l := loopback(t)
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, addresses = append(files, f), append(addresses, l.Addr().String())
	}
	taken := loopback(t)
	s := startService(t, serviceOptions{sockets: files, args: []string{"--state", t.TempDir(), "--listen", taken.Addr().String()}})
	for i, a := range addresses {
		if r := get(t, "http://"+a+"/healthz"); r.status != http.StatusOK || s.address("serving", i) != a {
			t.Errorf("socket %d: %d, served is %s", i, r.status, s.address("serving", i))
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if refused(t, addresses[0]) {
		t.Error("the service manager's socket does not outlive the herder")
	}
}

func TestWhatOtherProcessesDoCountsAtOnce(t *testing.T) {
	state := t.TempDir()
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	for i := range 5 {
		cache, p := cacheOf(t, fmt.Sprintf("item-%d", i), "new")
		narinfo := s.url() + "/" + string(p.path.HashPart()) + ".narinfo"
		if r := get(t, narinfo); r.status != http.StatusNotFound {
			t.Fatalf("before the import: %d", r.status)
		}
		must(t, nil, "import", "--state", state, cache)
		if r := get(t, narinfo); r.status != http.StatusOK {
			t.Errorf("after the import: %d %q", r.status, r.body)
		}
	}
	if r := get(t, s.url()+"/metrics"); !strings.Contains(r.body, "\nnarfold_items 5\n") {
		t.Error("the metrics do not tell of the imports")
	}
	asked := func(token string) int {
		return ask(t, http.MethodPost, s.url()+"/api/v1/missing", token, []byte(`{"items":[]}`)).status
	}
	token := strings.TrimSpace(string(must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci")))
	if got := []int{asked(""), asked("narfold_guess"), asked(token)}; !slices.Equal(got, []int{401, 401, 200}) {
		t.Errorf("without a token, with a guess and with the token: %v", got)
	}
	must(t, nil, "token", "revoke", "--state", state, "ci")
	if got := asked(token); got != 401 {
		t.Errorf("with the revoked token: %d", got)
	}
}

func TestTheSpoolOfAKilledHerderIsCleanedUp(t *testing.T) {
	state := t.TempDir()
	args := []string{"--state", state, "--listen", "127.0.0.1:0"}
	runs := func() []string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(state, "spool", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	killed := startService(t, serviceOptions{args: args})
	left := runs()
	if len(left) != 1 {
		t.Fatalf("spool of one process: %v", left)
	}
	spit(t, filepath.Join(left[0], "nar"), []byte("half of a nar"))
	killed.send(syscall.SIGKILL)
	<-killed.ended

	living := startService(t, serviceOptions{args: args})
	now := runs()
	if len(now) != 1 || now[0] == left[0] {
		t.Fatalf("after a kill left %v, the spool is %v", left, now)
	}
	kept := spit(t, filepath.Join(now[0], "nar"), []byte("half of a nar"))
	cache, _ := cacheOf(t, "other", "by another process")
	must(t, nil, "import", "--state", state, cache)
	if got := runs(); !slices.Equal(got, now) {
		t.Errorf("after an import the spool is %v, want %v", got, now)
	}
	if got := string(slurp(t, kept)); got != "half of a nar" {
		t.Errorf("another process has cleaned the spool of a living one: %q", got)
	}
	if code := living.stop(); code != 0 || len(runs()) != 0 {
		t.Errorf("exit code %d, the spool is %v", code, runs())
	}
}

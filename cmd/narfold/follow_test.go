package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"narfold/internal/narinfo"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// nginx serves a directory with the real program until the test ends.
func nginx(t *testing.T, dir string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // nginx chooses no port by itself
	own := t.TempDir()
	var temps strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temps, "%s_temp_path %s/%s;\n", kind, own, kind)
	}
	config := spit(t, filepath.Join(own, "nginx.conf"), fmt.Appendf(nil, "daemon off;\nmaster_process off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n%sserver { listen %s; root %s; }\n}\n",
		own, &temps, address, dir))
	cmd := exec.CommandContext(t.Context(), "/usr/sbin/nginx", "-c", config, "-e", "stderr", "-p", own)
	said := &logBuffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatalf("want the Debian package nginx-light: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx said:\n%s", said)
		}
	})
	wait(t, "nginx", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// farmCache has the real Nix sign and write a cache of the given items.
func farmCache(t *testing.T, nix *nixtest.Root, items ...string) (dir, public string) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "farm.sec")
	public = secret + ".pub"
	nix.Run("nix-store", "--generate-binary-cache-key", "farm.example-1", secret, public)
	dir = t.TempDir()
	// nginx may run as another account.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nix.Run("nix", append([]string{"copy", "--to", "file://" + dir + "?compression=zstd&secret-key=" + secret}, items...)...)
	return dir, public
}

// installs has the real Nix copy items out of a herder into a store of its own, which trusts the farm's key and nothing else.
func installs(t *testing.T, nix *nixtest.Root, url, public string, items ...string) {
	t.Helper()
	to := t.TempDir()
	t.Cleanup(func() { loosen(to) })
	trust := []string{"--option", "require-sigs", "true", "--option", "trusted-public-keys", string(slurp(t, public)),
		"--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0"}
	if _, err := nix.Try("nix", slices.Concat([]string{"copy", "--from", url, "--to", to}, trust, items)...); err != nil {
		t.Fatalf("copy from the follower: %v", err)
	}
	nix.Run("nix", append([]string{"store", "verify", "--all", "--store", to}, trust...)...)
	for _, item := range items {
		if got, want := nix.Run("nix-hash", "--type", "sha256", filepath.Join(to, "nix", "store", filepath.Base(item))), nix.Run("nix-hash", "--type", "sha256", item); got != want {
			t.Errorf("%s has the hash %s, want %s", item, got, want)
		}
	}
}

// followOnce makes a round and returns its only summary.
func followOnce(t *testing.T, want exitCode, args ...string) followed {
	t.Helper()
	stdout, stderr, code := narfold(t, nil, append([]string{"follow", "--once", "--json"}, args...)...)
	var sum followSummary
	if err := json.Unmarshal(stdout, &sum); err != nil || code != want || len(sum.Upstreams) != 1 {
		t.Fatalf("exit code %d, want %d; %v: %s%s", code, want, err, stdout, stderr)
	}
	return sum.Upstreams[0]
}

// A cache that the real Nix wrote and signed, behind the real nginx, as cache.nixos.org is: narinfos, nars and a list of store paths.
func TestACacheBehindNginxIsFollowed(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	dir, public := farmCache(t, nix, dev)
	url := nginx(t, dir)
	state := t.TempDir()
	config := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), []byte(fmt.Sprintf("state = %q\nlisten = ['127.0.0.1:0']\n[serve]\nstore_dir = %q\n[publish]\nreserve = '1MiB'\n", state, nix.Store)))
	flags := []string{"--config", config, "--from", url, "--key", public}

	if _, stderr, code := narfold(t, nil, append([]string{"follow", "--once"}, flags...)...); code != exitRefused || !strings.Contains(stderr, "neither store-paths.xz nor store-paths") {
		t.Errorf("a cache without a list: exit code %d: %s", code, stderr)
	}
	xz := exec.Command("xz", "-c")
	xz.Stdin = strings.NewReader(app + "\n")
	list, err := xz.Output()
	if err != nil {
		t.Fatalf("want the Debian package xz-utils: %v", err)
	}
	spit(t, filepath.Join(dir, "store-paths.xz"), list)
	if sum := followOnce(t, exitDone, flags...); sum.Wanted != 1 || sum.Published != 2 {
		t.Errorf("by its list: %+v", sum)
	}
	if sum := followOnce(t, exitDone, append(flags, "--item", filepath.Base(dev))...); sum.Wanted != 1 || sum.Published != 1 {
		t.Errorf("by name: %+v", sum)
	}
	if sum := followOnce(t, exitDone, append(flags, "--store-paths", spit(t, filepath.Join(t.TempDir(), "list"), []byte(dep+"\n"+dev+"\n")))...); sum.Wanted != 0 || sum.Published != 0 {
		t.Errorf("what is here already: %+v", sum)
	}
	s := startService(t, serviceOptions{args: []string{"--config", config}})
	installs(t, nix, s.url(), public, dev)
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Two herders: what is imported into one comes to be served by the other, with the signatures of the farm, also when that is killed
// and started again meanwhile.
func TestAHerderFollowsAnotherByItsFeed(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	first, public := farmCache(t, nix, dep)
	all := filepath.Join(t.TempDir(), "all")
	serve := fmt.Sprintf("[serve]\nstore_dir = %q\n[publish]\nreserve = '1MiB'\n", nix.Store)
	origin, originState := configFile(t, serve)
	must(t, nil, "import", "--config", origin, "--key", public, first)
	a := startService(t, serviceOptions{args: []string{"--config", origin}})
	upstream := fmt.Sprintf("[[upstream]]\nurl = %q\ntrust = [%q]\nfeed_key = %q\nevery = '1s'\n", a.url(), public, filepath.Join(originState, "keys", "feed.pub"))
	config, _ := configFile(t, serve+upstream)
	b := startService(t, serviceOptions{args: []string{"--config", config}})
	has := func(item string) func() bool {
		return func() bool {
			return get(t, b.url()+"/"+filepath.Base(item)[:32]+".narinfo").status == http.StatusOK
		}
	}
	wait(t, "the first item", has(dep))
	metrics := func(name string) bool {
		return strings.Contains(get(t, b.url()+"/metrics").body, fmt.Sprintf("narfold_upstream_%s{upstream=%q} 1\n", name, a.url()))
	}
	wait(t, "metrics", func() bool { return metrics("published_total") })
	installs(t, nix, b.url(), public, dep)

	// The same key signs what comes later.
	nix.Run("nix", "copy", "--to", "file://"+all+"?compression=xz&secret-key="+strings.TrimSuffix(public, ".pub"), dev)
	must(t, nil, "import", "--config", origin, "--key", public, all)
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.ended
	b = startService(t, serviceOptions{args: []string{"--config", config}})
	wait(t, "all items", func() bool { return has(app)() && has(dev)() })
	installs(t, nix, b.url(), public, dev)
	if want, got := get(t, a.url()+"/"+filepath.Base(dev)[:32]+".narinfo").body, get(t, b.url()+"/"+filepath.Base(dev)[:32]+".narinfo").body; sigLine(got) == "" || sigLine(got) != sigLine(want) {
		t.Errorf("the follower serves\n%s\nand the origin\n%s", got, want)
	}
	for _, s := range []*service{a, b} {
		if code := s.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	checked(t, exitDone, []string{"3 published items"}, "--config", config, "--deep", "--quiet")
}

func sigLine(narinfo string) string {
	for line := range strings.Lines(narinfo) {
		if strings.HasPrefix(line, "Sig: ") {
			return line
		}
	}
	return ""
}

// Items of Guix, named by the manifest of a profile and signed by a key in an acl, as those of a Guix farm are.
func TestAManifestOfGuixIsFollowed(t *testing.T) {
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "farm.sec")
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", secret, "--public", secret+".pub")
	item := func(name string, refs ...storepath.Base) parcel {
		p := pack(t, string(storepath.Guix), name, "contents of "+name, nil, refs...)
		n, err := narinfo.Parse(p.narinfo)
		if err != nil {
			t.Fatal(err)
		}
		p.narinfo = must(t, narinfo.Guix(n), "narinfo", "sign", "--key", secret)
		writeAll(t, filepath.Join(dir, n.Files[0].URL), p.nar)
		spit(t, filepath.Join(dir, string(p.path.HashPart())+".narinfo"), p.narinfo)
		return p
	}
	glibc := item("glibc-2.39")
	hello := item("hello-2.12.1", glibc.path.Base)
	spit(t, filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n"))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	acl := spit(t, filepath.Join(t.TempDir(), "acl"), fmt.Appendf(nil, "(acl (entry %s (tag (guix import))))", slurp(t, secret+".pub")))
	manifest := spit(t, filepath.Join(t.TempDir(), "manifest"), fmt.Appendf(nil, `(manifest (version 4) (packages (("hello" "2.12.1" "out" %q (propagated-inputs ())))))`, hello.path))
	state := t.TempDir()
	if sum := followOnce(t, exitDone, "--state", state, "--from", nginx(t, dir), "--key", acl, "--store-paths", manifest); sum.Wanted != 1 || sum.Published != 2 {
		t.Errorf("%+v", sum)
	}
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	for _, p := range []parcel{glibc, hello} {
		served := get(t, s.url()+"/"+string(p.path.HashPart())+".narinfo").body
		must(t, nil, "narinfo", "verify", "--acl", acl, spit(t, filepath.Join(t.TempDir(), "n.narinfo"), []byte(served)))
		if before, _, _ := strings.Cut(string(p.narinfo), "\nURL: "); !strings.HasPrefix(served, before+"\n") {
			t.Errorf("served\n%s\nsigned\n%s", served, p.narinfo)
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestScriptsLearnWhatFollowingCameTo(t *testing.T) {
	nix := nixtest.New(t)
	_, _, dev := twoPackages(t, nix)
	dir, public := farmCache(t, nix, dev)
	other := filepath.Join(t.TempDir(), "other.sec")
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "other-1", "--secret", other, "--public", other+".pub")
	url := nginx(t, dir)
	state := t.TempDir()
	from := func(url, key string, more ...string) []string {
		return append([]string{"--state", state, "--from", url, "--key", key}, more...)
	}

	// Signed by somebody who is not trusted: refused before any nar is asked for.
	sum := followOnce(t, exitRefused, from(url, other+".pub", "--item", filepath.Base(dev))...)
	if sum.Refused != 1 || len(sum.Failures) != 1 || !strings.Contains(sum.Failures[0].Error, "none is by a trusted key") {
		t.Errorf("%+v", sum)
	}
	stdout, _, code := narfold(t, nil, append([]string{"follow", "--once"}, from(url, other+".pub", "--item", filepath.Base(dev))...)...)
	if code != exitRefused || !strings.Contains(string(stdout), "refused: "+filepath.Base(dev)[:32]) || !strings.Contains(string(stdout), "1 wanted, 0 published, 1 refused") {
		t.Errorf("for people: exit code %d: %s", code, stdout)
	}
	// No server.
	l := loopback(t)
	gone := "http://" + l.Addr().String()
	l.Close()
	if sum := followOnce(t, exitUnavailable, from(gone, public, "--item", filepath.Base(dev))...); sum.Error == "" {
		t.Errorf("%+v", sum)
	}
	// No feed, and a key that is none.
	feedKey := spit(t, filepath.Join(t.TempDir(), "feed.pub"), slurp(t, other+".pub"))
	if sum := followOnce(t, exitRefused, from(url, public, "--feed-key", feedKey)...); !strings.Contains(sum.Error, "has no change feed") {
		t.Errorf("%+v", sum)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"nobody named":         {[]string{"--state", state}, "no server to follow is named"},
		"no key":               {[]string{"--state", state, "--from", url}, "trust: want the files"},
		"a secret key":         {from(url, other), "want the public half"},
		"a key that is no key": {from(url, spit(t, filepath.Join(t.TempDir(), "x"), []byte("x"))), "not a key"},
		"no URL":               {from("cache.example", public), "want the URL of a substitute server"},
		"flags without a URL":  {[]string{"--state", state, "--item", "x"}, "go with --from"},
		"feed and list":        {from(url, public, "--feed-key", feedKey, "--store-paths", feedKey), "is set beside items or list"},
	} {
		if _, stderr, code := narfold(t, nil, append([]string{"follow", "--once"}, c.args...)...); code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
	}
	// Nothing of all that has left anything behind.
	if sum := followOnce(t, exitDone, from(url, public, "--item", filepath.Base(dev))...); sum.Published != 3 {
		t.Errorf("%+v", sum)
	}
}

// Without --once it goes on until a signal.
func TestFollowIsAProcessOfItsOwnToo(t *testing.T) {
	dir, p := cacheOf(t, "one", "contents")
	secret := filepath.Join(t.TempDir(), "sec")
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "farm-1", "--secret", secret, "--public", secret+".pub")
	info := filepath.Join(dir, string(p.path.HashPart())+".narinfo")
	spit(t, info, must(t, slurp(t, info), "narinfo", "sign", "--key", secret))
	spit(t, filepath.Join(dir, "store-paths"), []byte(p.path.String()+"\n"))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	cmd := exec.CommandContext(t.Context(), self, "follow", "--state", state, "--from", nginx(t, dir), "--key", secret+".pub")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	said := &logBuffer{}
	cmd.Stdout, cmd.Stderr = io.Discard, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the item", func() bool { return strings.Contains(said.String(), "msg=followed") })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v: %s", err, said)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not end: %s", said)
	}
	checked(t, exitDone, []string{"1 published item"}, "--state", state, "--deep", "--quiet")
}

// A small herder in front of a large one has what its users have asked for, and nothing else. The real Nix asks.
func TestAHerderBringsWhatItsUsersAskFor(t *testing.T) {
	nix := nixtest.New(t)
	_, app, dev := twoPackages(t, nix)
	dir, public := farmCache(t, nix, dev)
	config, _ := configFile(t, fmt.Sprintf("[serve]\nstore_dir = %q\nnegative_ttl = '1s'\n[publish]\nreserve = '1MiB'\n[[upstream]]\nurl = %q\ntrust = [%q]\non_demand = true\n", nix.Store, nginx(t, dir), public))
	s := startService(t, serviceOptions{args: []string{"--config", config}})
	wait(t, "the first round", func() bool {
		return strings.Contains(get(t, s.url()+"/metrics").body, `narfold_upstream_rounds_total{result="done"`)
	})
	// The first who asks waits, and has it: with Nix's own time for remembering what is not there, an hour.
	installs(t, nix, s.url(), public, app)
	// The reload leaves it in force.
	s.reload()
	if r := get(t, s.url()+"/metrics"); !strings.Contains(r.body, "\nnarfold_items 2\n") {
		t.Error("what nobody asked for is there too")
	}
	if r := get(t, s.url()+"/"+filepath.Base(dev)[:32]+".narinfo"); r.status != http.StatusOK {
		t.Errorf("the other item: status %d", r.status)
	}
	if r := get(t, s.url()+"/"+strings.Repeat("9", 32)+".narinfo"); r.status != http.StatusNotFound {
		t.Errorf("what the upstream does not have: status %d", r.status)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	checked(t, exitDone, []string{"3 published items"}, "--config", config, "--deep", "--quiet")
}

package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/herder/deployment"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// process is a herder in a process of its own.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string
	ended   chan struct{}
}

// startHerder starts the program as a herder on state and returns when it serves.
func startHerder(t *testing.T, state, config string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(t.Context(), self, "herder", "run", "--config", config, "--state", state, "--listen", "127.0.0.1:0", "--log-format", "json")
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan string, 1)
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var event struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &event) == nil && event.Msg == "serving" {
				serving <- event.Address
			}
		}
	}()
	select {
	case p.address = <-serving:
	case <-p.ended:
		t.Fatalf("herder ended: %v", p.cmd.Wait())
	}
	t.Cleanup(func() { p.kill() })
	return p
}

// kill ends the process as a power cut would, and returns when it has gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.cmd.Wait() // says that it was killed
}

// severed forwards connections to address until limit bytes have gone there; then it calls cut, and all connections end.
func severed(t *testing.T, address string, limit int64, cut func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		once  sync.Once
		mu    sync.Mutex
		left  = limit
		conns sync.WaitGroup
	)
	forward := func(from net.Conn) {
		defer from.Close()
		to, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		defer to.Close()
		back := make(chan struct{})
		go func() {
			defer close(back)
			_, _ = io.Copy(from, to)
			from.Close()
		}()
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			mu.Lock()
			left -= int64(n)
			over := left < 0
			mu.Unlock()
			if over {
				once.Do(cut)
				break
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				break
			}
		}
		to.Close()
		<-back
	}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { forward(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return "http://" + l.Addr().String()
}

func TestAPushSurvivesTheHerdersDeath(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	noise := make([]byte, 6<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	large := nix.Run("nix-store", "--add", spit(t, filepath.Join(t.TempDir(), "noise"), noise))
	state := t.TempDir()
	config := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), []byte("[serve]\nstore_dir = \""+nix.Store+"\"\n[publish]\nreserve = \"1MiB\"\n[keys]\nhost = \"origin.example\"\n"))
	cfg := deployment.Defaults(state)
	cfg.Keys.Host = "origin.example"
	d, err := deployment.Open(t.Context(), cfg, true, discard())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.EnsureKey(storepath.Dir(nix.Store)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--out", token)

	first := startHerder(t, state, config)
	url := severed(t, first.address, 2<<20, first.kill)
	_, stderr, code := narfold(t, nil, "push", "--quiet", "--to", url, "--token-file", token, "--patience", "0s", "--closure", dev, large)
	if code != exitUnavailable {
		t.Fatalf("push to a herder that was killed: exit code %d: %s", code, stderr)
	}
	leftovers, err := filepath.Glob(filepath.Join(state, "incoming", ".incoming-*"))
	if err != nil || len(leftovers) == 0 {
		t.Fatalf("nothing was being received when the herder was killed: %v", err)
	}
	for _, name := range leftovers {
		past := time.Now().Add(-2 * time.Minute)
		if err := os.Chtimes(name, past, past); err != nil {
			t.Fatal(err)
		}
	}

	second := startHerder(t, state, config)
	wait(t, "what was half received to be swept", func() bool {
		names, err := filepath.Glob(filepath.Join(state, "incoming", ".incoming-*"))
		return err == nil && len(names) == 0
	})
	must(t, nil, "push", "--quiet", "--to", "http://"+second.address, "--token-file", token, "--closure", dev, large)
	second.kill() // at once: what was acknowledged is there

	third := startHerder(t, state, config)
	d, err = deployment.Open(t.Context(), cfg, false, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	o := &origin{t: t, nix: nix, url: "http://" + third.address, d: d}
	o.holds(dep, app, dev, large)
	o.fetch(dep, app, dev, large)
	if strings.Contains(string(must(t, nil, "push", "--quiet", "--to", o.url, "--token-file", token, "--closure", dev, large)), "refused") {
		t.Error("a third push refuses something")
	}
}

package httpfront

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary a front over the directory that it names; it prints its address and serves until SIGTERM.
const childEnv = "NARFOLD_FRONT_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := frontOver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// tree answers as a substitute server does: narinfos of dir from memory, nars from its files.
type tree struct {
	root  string
	infos map[string][2][]byte
	nars  map[string]narAnswer
	files *FileCache
}

type narAnswer struct {
	head []byte
	path string
}

func (t *tree) Answer(r *Request, a *Answer) bool {
	if i, ok := t.infos[string(r.Path)]; ok {
		a.Header, a.Body = i[0], i[1]
		return true
	}
	if n, ok := t.nars[string(r.Path)]; ok {
		f, err := t.files.Open(n.path)
		if err != nil {
			return false
		}
		a.Header, a.File, a.Length, a.Release = n.head, f.File, f.Size, f.Release
		return true
	}
	return false
}

func frontOver(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	t := &tree{root: dir, infos: map[string][2][]byte{}, nars: map[string]narAnswer{}, files: NewFileCache(1024, time.Minute)}
	defer t.files.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		if strings.HasSuffix(e.Name(), ".narinfo") {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			h, err := Head(200, int64(len(b)), Field{"Content-Type", "text/x-nix-narinfo"}, Field{"Last-Modified", info.ModTime().UTC().Format(http.TimeFormat)}, Field{"Cache-Control", "max-age=129600"})
			if err != nil {
				return err
			}
			t.infos["/"+e.Name()] = [2][]byte{h, b}
			continue
		}
		h, err := Head(200, info.Size(), Field{"Content-Type", "application/x-nix-nar"}, Field{"Accept-Ranges", "bytes"})
		if err != nil {
			return err
		}
		t.nars["/"+e.Name()] = narAnswer{h, name}
	}
	if p := os.Getenv("NARFOLD_BENCH_PROFILE"); p != "" {
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	s, err := New(Config{Plain: t, HTTP: &http.Server{Handler: http.FileServer(http.Dir(dir))}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return s.Serve(ctx, l)
}

const infoCount = 302 // as in the closure that the reference figures were taken with

// benchTree writes narinfos of real size, a nar of 100 MB and 64 of 1 MB.
func benchTree(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	for i := range infoCount {
		var b bytes.Buffer
		fmt.Fprintf(&b, "StorePath: /gnu/store/%032d-package-1.%d\nURL: nar/zstd/%032d-package\nCompression: zstd\nFileSize: %d\n", i, i, i, i*1000)
		fmt.Fprintf(&b, "NarHash: sha256:%052d\nNarSize: %d\nReferences: %s\nSignature: 1;host;%s\n", i, i*4000, strings.Repeat("0123456789abcdfghijklmnpqrsvwxyz-ref-1.0 ", 1+i%8), strings.Repeat("KHNpZ25h", 75))
		write(infoName(i), b.Bytes())
	}
	block := bytes.Repeat([]byte("a nar is the deterministic archive of one store item\n"), 1<<20/53+1)[:1<<20]
	write("big.nar", bytes.Repeat(block, 100))
	for i := range 64 {
		write(fmt.Sprintf("%d.nar", i), block)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func infoName(i int) string { return fmt.Sprintf("%032d.narinfo", i) }

// contender is a server process under test.
type contender struct {
	name, addr string
	pid        int
	tree       bool // the CPU time is that of its children too
}

// startFront runs this test binary as a front.
func startFront(tb testing.TB, dir string) contender {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("front does not say where it listens: %v", err)
	}
	return contender{name: "front", addr: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// startNginx runs nginx with two workers, tuned as its users do for static files.
func startNginx(tb testing.TB, dir string) contender {
	tb.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(program); err != nil {
		tb.Fatal("nginx is missing: install the Debian package nginx-light")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	state := tb.TempDir()
	conf := filepath.Join(state, "nginx.conf")
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	text := fmt.Sprintf(`%s daemon off; worker_processes 2; pid %s/pid; error_log %s/error.log;
events { worker_connections 4096; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 120s;
	open_file_cache max=4096 inactive=60s; open_file_cache_valid 60s;
	types { text/x-nix-narinfo narinfo; application/x-nix-nar nar; }
	client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
	server { listen %s; root %s; location ~ narinfo$ { add_header Cache-Control max-age=129600; } }
}
`, user, state, state, state, state, state, state, state, addr, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(program, "-e", state+"/error.log", "-c", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("nginx does not answer: %v", err)
		}
	}
	return contender{name: "nginx", addr: addr, pid: cmd.Process.Pid, tree: true}
}

// cpu is the user and system time that the contender has used.
func (c contender) cpu(tb testing.TB) time.Duration {
	tb.Helper()
	pids := []string{strconv.Itoa(c.pid)}
	if c.tree {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.pid, c.pid))
		if err != nil {
			tb.Fatal(err)
		}
		pids = append(pids, strings.Fields(string(b))...)
	}
	var ticks int64
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			tb.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(after)
		for _, s := range f[11:13] { // utime and stime, in hundredths of a second
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

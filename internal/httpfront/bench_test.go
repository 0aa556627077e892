package httpfront

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The benchmarks below compare the front with nginx over the same files, in the same run, alternately, each in a process of its
// own, and report the front's share of nginx's rate ("x nginx") and of its CPU time ("x nginx-cpu"). Run them with
//
//	go test -run '^$' -bench Nginx -benchtime 1x ./internal/httpfront
//
// NARFOLD_BENCH_ROUNDS (default 3) and NARFOLD_BENCH_SECONDS (default 3) set how long; NARFOLD_BENCH_PROFILE names a file for a
// CPU profile of the front.

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

func envInt(tb testing.TB, name string, std int) int {
	v := os.Getenv(name)
	if v == "" {
		return std
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		tb.Fatalf("%s is %q: want a positive number", name, v)
	}
	return n
}

// duel runs load against both, alternately, and reports the medians. load returns how much was done and in what time.
func duel(b *testing.B, unit string, load func(b *testing.B, c contender, d time.Duration) (float64, time.Duration)) {
	dir := benchTree(b)
	both := []contender{startFront(b, dir), startNginx(b, dir)}
	rounds, d := envInt(b, "NARFOLD_BENCH_ROUNDS", 3), time.Duration(envInt(b, "NARFOLD_BENCH_SECONDS", 3))*time.Second
	for _, c := range both {
		load(b, c, min(d, time.Second)) // warm
	}
	rate, cost := map[string][]float64{}, map[string][]float64{}
	b.ResetTimer()
	for range b.N {
		for r := range rounds {
			if r%2 == 1 {
				both[0], both[1] = both[1], both[0]
			}
			for _, c := range both {
				before := c.cpu(b)
				done, took := load(b, c, d)
				used := c.cpu(b) - before
				rate[c.name] = append(rate[c.name], done/took.Seconds())
				cost[c.name] = append(cost[c.name], used.Seconds()/done)
			}
		}
	}
	b.StopTimer()
	load1, _ := os.ReadFile("/proc/loadavg")
	report := fmt.Sprintf("%d CPUs, load %s", runtime.NumCPU(), bytes.TrimSpace(load1))
	for _, c := range both {
		report += fmt.Sprintf("\n%s: %s/s %.0f", c.name, unit, rate[c.name])
		for i := range cost[c.name] {
			cost[c.name][i] *= 1e6
		}
		report += fmt.Sprintf("; µs of server CPU per %s %.2f", unit, cost[c.name])
	}
	b.Log(report)
	b.ReportMetric(median(rate["front"]), unit+"/s")
	b.ReportMetric(median(rate["front"])/median(rate["nginx"]), "x_nginx")
	b.ReportMetric(median(cost["front"])/median(cost["nginx"]), "x_nginx_cpu")
	b.ReportMetric(0, "ns/op")
}

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// wrk runs wrk with one thread over the narinfos, depth requests at a time on each connection.
func wrk(b *testing.B, c contender, d time.Duration, conns, depth int) (float64, time.Duration) {
	b.Helper()
	script := filepath.Join(b.TempDir(), "narinfo.lua")
	lua := fmt.Sprintf(`
local i = 0
request = function()
	local r = {}
	for k = 1, %d do
		r[k] = "GET /" .. string.format("%%032d", i) .. ".narinfo HTTP/1.1\r\nHost: cache\r\nUser-Agent: GNU Guile\r\n\r\n"
		i = (i + 1) %% %d
	end
	return table.concat(r)
end
done = function(s, l, r)
	io.write(string.format("RESULT %%d %%d %%d\n", s.requests, s.duration, s.errors.status + s.errors.read + s.errors.timeout))
end
`, depth, infoCount)
	if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command("wrk", "-t1", "-c"+strconv.Itoa(conns), fmt.Sprintf("-d%ds", int(d.Seconds())), "-s", script, "http://"+c.addr).CombinedOutput()
	if err != nil {
		b.Fatalf("wrk (Debian package wrk): %v\n%s", err, out)
	}
	_, line, ok := strings.Cut(string(out), "RESULT ")
	var n, us, bad int64
	if _, err := fmt.Sscan(line, &n, &us, &bad); !ok || err != nil || bad > 0 {
		b.Fatalf("wrk had %d errors: %s", bad, out)
	}
	return float64(n), time.Duration(us) * time.Microsecond
}

func BenchmarkNginxSingle(b *testing.B) {
	duel(b, "req", func(b *testing.B, c contender, d time.Duration) (float64, time.Duration) { return wrk(b, c, d, 64, 1) })
}

func BenchmarkNginxPipelinedWrk(b *testing.B) {
	duel(b, "req", func(b *testing.B, c contender, d time.Duration) (float64, time.Duration) { return wrk(b, c, d, 16, 32) })
}

// BenchmarkNginxGuix asks as guix substitute does: a new connection, 1000 requests in one write, answers read in order.
func BenchmarkNginxGuix(b *testing.B) {
	var burst strings.Builder
	for i := range 1000 {
		burst.WriteString(get("/" + infoName(i%infoCount)))
	}
	buf := make([]byte, 256<<10)
	size := map[string]int64{}
	duel(b, "req", func(b *testing.B, c contender, d time.Duration) (float64, time.Duration) {
		if size[c.name] == 0 {
			size[c.name] = burstSize(b, c, burst.String())
		}
		start, n := time.Now(), 0
		for ; time.Since(start) < d; n += 1000 {
			conn, err := net.Dial("tcp", c.addr)
			if err != nil {
				b.Fatal(err)
			}
			sent := make(chan error, 1)
			go func() { _, err := io.WriteString(conn, burst.String()); sent <- err }()
			for got := int64(0); got < size[c.name]; {
				k, err := conn.Read(buf)
				if err != nil {
					b.Fatalf("%s: %v after %d of %d bytes", c.name, err, got, size[c.name])
				}
				got += int64(k)
			}
			if err := <-sent; err != nil {
				b.Fatal(err)
			}
			conn.Close()
		}
		return float64(n), time.Since(start)
	})
}

// burstSize is how many bytes c answers to burst with, which does not change from burst to burst.
func burstSize(b *testing.B, c contender, burst string) int64 {
	b.Helper()
	conn := dial(b, c.addr)
	go io.WriteString(conn, burst)
	var size counting
	r := bufio.NewReader(io.TeeReader(conn, &size))
	for i := range strings.Count(burst, "GET ") {
		if resp, _ := reply(b, r, "GET"); resp.StatusCode != 200 {
			b.Fatalf("%s: answer %d is %s", c.name, i, resp.Status)
		}
	}
	return int64(size)
}

type counting int64

func (c *counting) Write(p []byte) (int, error) { *c += counting(len(p)); return len(p), nil }

// fetch downloads names over one connection until d has passed and counts megabytes.
func fetch(b *testing.B, c contender, d time.Duration, names []string, size int64) (float64, time.Duration) {
	b.Helper()
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 256<<10)
	start, n := time.Now(), 0.0
	for i := 0; time.Since(start) < d; i++ {
		if _, err := io.WriteString(conn, get("/"+names[i%len(names)])); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		if resp.StatusCode != 200 || resp.ContentLength != size {
			b.Fatalf("%s: %s, %d bytes", c.name, resp.Status, resp.ContentLength)
		}
		if got, err := r.Discard(int(size)); int64(got) != size {
			b.Fatalf("%s: %d bytes, then %v", c.name, got, err)
		}
		n += float64(size) / 1e6
	}
	return n, time.Since(start)
}

func BenchmarkNginxNar100MB(b *testing.B) {
	duel(b, "MB", func(b *testing.B, c contender, d time.Duration) (float64, time.Duration) {
		return fetch(b, c, d, []string{"big.nar"}, 100<<20)
	})
}

func BenchmarkNginxNar1MB(b *testing.B) {
	names := make([]string, 64)
	for i := range names {
		names[i] = fmt.Sprintf("%d.nar", i)
	}
	duel(b, "MB", func(b *testing.B, c contender, d time.Duration) (float64, time.Duration) {
		return fetch(b, c, d, names, 1<<20)
	})
}

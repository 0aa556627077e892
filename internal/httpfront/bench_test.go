package httpfront

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
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

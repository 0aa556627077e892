package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// get is a request as guix substitute writes it.
func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: cache\r\nUser-Agent: GNU Guile\r\n\r\n"
}

// wrk asks for paths in turn, from one thread, depth requests at a time on each connection. want is whether answers are to be found.
func wrk(s *server, script string, d time.Duration, conns, depth int, paths []string, want bool) (float64, time.Duration, error) {
	var lua strings.Builder
	lua.WriteString("local paths = {")
	for _, p := range paths {
		fmt.Fprintf(&lua, "%q,", p)
	}
	fmt.Fprintf(&lua, `}
local requests, i = {}, 0
init = function()
	for k = 1, #paths do
		requests[k] = "GET " .. paths[k] .. " HTTP/1.1\r\nHost: cache\r\nUser-Agent: GNU Guile\r\n\r\n"
	end
end
request = function()
	local r = {}
	for k = 1, %d do
		i = i %% #paths + 1
		r[k] = requests[i]
	end
	return table.concat(r)
end
done = function(s, l, r)
	io.write(string.format("RESULT %%d %%d %%d %%d\n", s.requests, s.duration, s.errors.status, s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout))
end
`, depth)
	if err := os.WriteFile(script, []byte(lua.String()), 0o644); err != nil {
		return 0, 0, err
	}
	out, err := exec.Command("wrk", "-t1", "-c"+strconv.Itoa(conns), fmt.Sprintf("-d%ds", int(d.Seconds())), "-s", script, "http://"+s.addr).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	_, line, _ := strings.Cut(string(out), "RESULT ")
	var n, us, notFound, broken int64
	if _, err := fmt.Sscan(line, &n, &us, &notFound, &broken); err != nil {
		return 0, 0, fmt.Errorf("wrk said: %s", out)
	}
	if broken > 0 || want && notFound > 0 || !want && notFound < n-int64(conns*depth) {
		return 0, 0, fmt.Errorf("%s: of %d answers %d were not 200, and %d were broken", s.name, n, notFound, broken)
	}
	return float64(n), time.Duration(us) * time.Microsecond, nil
}

// guix asks as guix substitute does for a thousand narinfos: a new connection, all requests in one write, answers read in order.
func guix(s *server, d time.Duration, paths []string) (float64, time.Duration, error) {
	var burst strings.Builder
	for i := range 1000 {
		burst.WriteString(get(paths[i%len(paths)]))
	}
	size, err := answerSize(s, burst.String(), 1000)
	if err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 256<<10)
	begun, n := time.Now(), 0
	for ; time.Since(begun) < d; n += 1000 {
		if err := exchange(s, burst.String(), size, buf); err != nil {
			return 0, 0, err
		}
	}
	return float64(n), time.Since(begun), nil
}

// exchange writes all and reads as many bytes as the answers have.
func exchange(s *server, burst string, size int64, buf []byte) error {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() { _, err := io.WriteString(conn, burst); sent <- err }()
	for got := int64(0); got < size; {
		n, err := conn.Read(buf)
		if got += int64(n); err != nil && got < size {
			return errors.Join(fmt.Errorf("%s: %w after %d of %d bytes", s.name, err, got, size), conn.Close(), <-sent)
		}
	}
	return <-sent
}

// answerSize parses the answers to a burst once, and tells how many bytes they are, which does not change from burst to burst.
func answerSize(s *server, burst string, answers int) (int64, error) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() { _, err := io.WriteString(conn, burst); sent <- err }()
	var size counter
	r := bufio.NewReader(io.TeeReader(conn, &size))
	for i := range answers {
		res, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: answer %d: %w", s.name, i, err)
		}
	}
	return int64(size), <-sent
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// download has clients fetch nars and throw them away, each on its own connection, until d has passed; it counts megabytes.
func download(s *server, d time.Duration, clients int, paths []string) (float64, time.Duration, error) {
	var (
		group sync.WaitGroup
		done  = make([]float64, clients)
		errs  = make([]error, clients)
		begun = time.Now()
	)
	for c := range clients {
		group.Go(func() { done[c], errs[c] = fetch(s, begun.Add(d), c*len(paths)/clients, paths) })
	}
	group.Wait()
	wall, total := time.Since(begun), 0.0
	for _, n := range done {
		total += n
	}
	return total, wall, errors.Join(errs...)
}

func fetch(s *server, until time.Time, first int, paths []string) (megabytes float64, err error) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 256<<10)
	for i := first; time.Now().Before(until); i++ {
		if _, err := io.WriteString(conn, get(paths[i%len(paths)])); err != nil {
			return 0, err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
		if res.StatusCode != http.StatusOK || res.ContentLength < 0 {
			return 0, fmt.Errorf("%s: %s: %s, %d bytes", s.name, paths[i%len(paths)], res.Status, res.ContentLength)
		}
		if n, err := r.Discard(int(res.ContentLength)); err != nil {
			return 0, fmt.Errorf("%s: %w after %d of %d bytes", s.name, err, n, res.ContentLength)
		}
		megabytes += float64(res.ContentLength) / 1e6
	}
	return megabytes, nil
}

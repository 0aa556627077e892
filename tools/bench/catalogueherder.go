package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// herded is what a herder on the full catalogue took.
type herded struct {
	serves  float64 // seconds from its start to its first narinfo
	rss     float64 // bytes, after the change feed was written and narinfos were asked for
	written float64 // bytes of the catalogue with the change feed
}

// herder starts a herder on Narfold's catalogue, cold, and loads it as the part "serving" does.
func (c *catalogueBench) herder() (h herded, err error) {
	state := c.at[catalogues[0].kind]
	c.report.print(`
` + "`narfold herder run`" + ` on that catalogue, which was not in the page cache: seconds until the first narinfo was served; then, after the
change feed of all items was written and sealed, narinfos and misses by ` + "`wrk -t1 -c64`" + ` on the same processors, 10,000 names of each in turn.
Memory is that of the process after all that.

`)
	var names struct {
		Hits   []string `json:"hits"`
		Misses []string `json:"misses"`
	}
	if err := c.step(&names, "names", ""); err != nil {
		return h, err
	}
	paths := func(hashes []string) (paths []string) {
		for _, h := range hashes {
			paths = append(paths, "/"+h+".narinfo")
		}
		return paths
	}
	database := filepath.Join(state, "catalogue.db")
	// Reading nothing of a file without a cache is how dd drops what is cached of it.
	if _, _, err := timed(exec.Command("dd", "if="+database, "iflag=nocache", "count=0", "status=none")); err != nil {
		return h, err
	}
	addr, err := freeAddr()
	if err != nil {
		return h, err
	}
	begun := time.Now()
	s, err := startServer("narfold herder run", addr, paths(names.Hits)[0], exec.Command(c.narfold, "herder", "run", "--state", state, "--listen", addr))
	if err != nil {
		return h, err
	}
	defer s.stop()
	h.serves = time.Since(begun).Seconds()
	c.progress("waiting for the herder's change feed")
	if err := c.awaitFeed(addr); err != nil {
		return h, err
	}
	fed := (time.Since(begun) - 6*time.Second).Seconds()

	script := filepath.Join(c.disk, "catalogue.lua")
	load := func(paths []string, want bool) (peer, error) {
		turn := func(int) (sample, error) {
			return loaded(s, func() (float64, time.Duration, error) { return wrk(s, script, c.seconds, 64, 1, paths, want) })
		}
		_, err := turn(0) // warm
		return peer{fmt.Sprint("found ", want), turn}, err
	}
	hits, err := load(paths(names.Hits), true)
	if err != nil {
		return h, err
	}
	misses, err := load(paths(names.Misses), false)
	if err != nil {
		return h, err
	}
	samples, err := alternate(c.rounds, []peer{hits, misses})
	if err != nil {
		return h, err
	}
	if h.rss, err = s.memory(); err != nil {
		return h, err
	}
	s.stop()
	info, err := os.Stat(database)
	if err != nil {
		return h, err
	}
	h.written = float64(info.Size())
	n := float64(c.items)
	c.report.table("herder", "")
	c.report.row("first narinfo served after, s", figure(h.serves))
	c.report.row("change feed written after, s", figure(fed))
	c.report.row("bytes of the catalogue per item, change feed included", figure(h.written/n))
	c.report.row("memory, MB", figure(h.rss/1e6))
	c.report.row("memory, bytes per item", figure(h.rss/n))
	c.report.row("narinfos per second", rates(samples[hits.name]).String())
	c.report.row("misses per second", rates(samples[misses.name]).String())
	return h, nil
}

// awaitFeed waits until the herder's change feed has all items, which is when the catalogue has not grown for some seconds.
func (c *catalogueBench) awaitFeed(addr string) error {
	begun, last, same := time.Now(), int64(-1), 0
	for ; same < 3; time.Sleep(2 * time.Second) {
		size, err := sizeOf(c.at[catalogues[0].kind])
		if err != nil {
			return err
		}
		same++
		if size != last {
			last, same = size, 0
		}
		if time.Since(begun) > time.Hour {
			return errors.New("the change feed is not written after an hour")
		}
	}
	res, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// sizeOf is the size of the files in a folder, without those in folders below it.
func sizeOf(folder string) (total int64, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Type().IsRegular() {
			total += info.Size()
		}
	}
	return total, nil
}

// memory is what of the server is resident, in bytes.
func (s *server) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kB * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: the system does not tell its memory", s.name)
}

// goals says which of part 2's goals for the catalogue are reached at this size. They are for ten million items.
func (c *catalogueBench) goals(h herded) {
	ours, n := catalogues[0].kind, float64(c.items)
	f := c.filled[slices.IndexFunc(imports, func(w way) bool { return w.kind == ours && w.flags == nil })]
	c.report.print("\nThe goals are those for 10,000,000 items and two processors.\n\n")
	c.report.table("goal", "here", "")
	verdict := func(what string, have float64, reached bool) {
		word := "**not reached**"
		if reached {
			word = "reached"
		}
		c.report.row(what, figure(have), word)
	}
	atMost := func(what string, have, limit float64) { verdict(what, have, have <= limit) }
	atLeast := func(what string, have, limit float64) { verdict(what, have, have >= limit) }
	atMost("a herder serves within 5 s of its start", h.serves, 5)
	atMost("look-ups at 20,000 a second take at most 1 ms at p99", c.of(ours, func(a asked) float64 { return a.Latency.P99 }).median, 1)
	atMost("at most 500 bytes of database per item", f.Bytes/n, 500)
	atMost("the same with the change feed", h.written/n, 500)
	atMost("at most 40 bytes of memory per item: open, with the table of hash parts", c.of(ours, func(a asked) float64 { return a.RSS }).median/n, 40)
	atMost("the same for the herder that has served", h.rss/n, 40)
	atLeast("bulk import of at least 30,000 items a second", n/f.Seconds, 30_000)
}

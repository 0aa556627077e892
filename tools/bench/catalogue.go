package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type database struct{ kind, name string }

// way is how a database is filled; flags are those of catalogbench.
type way struct {
	kind, how string
	flags     []string
}

// catalogues are what is measured: the first is the one that others are compared with. Kinds are those of catalogbench.
var catalogues = []database{
	{"sqlite", "Narfold, SQLite"},
	{"postgres", "Narfold, PostgreSQL"},
	{"rows", "tables of text, a row per reference, SQLite"},
}

// imports are the ways to fill them; the last of each catalogue is what is used afterwards.
var imports = []way{
	{"sqlite", "2,000 in a transaction", []string{"-publish"}},
	{"sqlite", "built at once", nil},
	{"postgres", "2,000 in a transaction", nil},
	{"rows", "2,000 in a transaction", nil},
}

// Results of catalogbench; see there what they mean.
type (
	filled struct {
		Items      float64 `json:"items"`
		Seconds    float64 `json:"seconds"`
		CPUSeconds float64 `json:"cpu_seconds"`
		Bytes      float64 `json:"bytes"`
		PeakRSS    float64 `json:"peak_rss_bytes"`
	}
	made struct {
		Items        float64 `json:"items"`
		Seconds      float64 `json:"seconds"`
		CPUSeconds   float64 `json:"cpu_seconds"`
		NarinfoBytes float64 `json:"narinfo_bytes"`
		References   float64 `json:"references"`
	}
	repeated struct {
		Done       float64 `json:"done"`
		Seconds    float64 `json:"seconds"`
		CPUSeconds float64 `json:"cpu_seconds"`
	}
	asked struct {
		Open     float64  `json:"open_seconds"`
		Answer   float64  `json:"answer_seconds"`
		Table    float64  `json:"table_seconds"`
		RSS      float64  `json:"rss_bytes"`
		RSSAfter float64  `json:"rss_after_bytes"`
		Hits     repeated `json:"hits"`
		Misses   repeated `json:"misses"`
		Scan     repeated `json:"scan"`
		Latency  struct {
			Rate float64 `json:"rate"`
			P50  float64 `json:"p50_ms"`
			P99  float64 `json:"p99_ms"`
			P999 float64 `json:"p999_ms"`
			Most float64 `json:"most_ms"`
			Late float64 `json:"late_p99_ms"`
		} `json:"latency"`
	}
)

func (r repeated) sample() sample {
	return sample{done: r.Done, wall: seconds(r.Seconds), cpu: seconds(r.CPUSeconds)}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// catalogueBench is what the steps of this part share.
type catalogueBench struct {
	*bench
	rounds   int // at most 3: a step takes up to some minutes
	program  string
	postgres *postgres
	items    int
	at       map[string]string  // folders and URLs, by kind
	filled   []filled           // as imports; without items if it was not done
	asked    map[string][]asked // by kind, one for each round
}

// catalogue measures the catalogues at each of the sizes asked for.
func (b *bench) catalogue() error {
	program := filepath.Join(b.disk, "catalogbench")
	c := exec.Command("go", "build", "-trimpath", "-o", program, "./internal/catalog/catalogbench")
	c.Dir = b.source
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build catalogbench: %w\n%s", err, out)
	}
	pg, err := b.startPostgres()
	if err != nil {
		return err
	}
	defer pg.stop()
	for _, n := range b.items {
		s := &catalogueBench{bench: b, rounds: min(b.rounds, 3), program: program, postgres: pg, items: n, at: map[string]string{}, filled: make([]filled, len(imports)), asked: map[string][]asked{}}
		if err := s.measure(); err != nil {
			return fmt.Errorf("%d items: %w", n, err)
		}
	}
	return nil
}

// step runs a step of catalogbench in a process of its own and reads its result.
func (c *catalogueBench) step(result any, name, kind string, flags ...string) error {
	args := append([]string{name, "-items", strconv.Itoa(c.items)}, flags...)
	if kind != "" {
		args = append(args, "-kind", kind, "-at", c.at[kind])
	}
	cmd := exec.Command(c.program, args...)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("catalogbench %s: %w\n%s", strings.Join(args, " "), err, failure.String())
	}
	return json.Unmarshal(out, result)
}

func (c *catalogueBench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %s items: "+format+"\n", append([]any{thousands(c.items)}, args...)...)
}

// measured are the kinds that are measured at this size.
func (c *catalogueBench) measured() (kinds []int) {
	for i := range catalogues {
		if i == 0 || c.items <= c.peerItems {
			kinds = append(kinds, i)
		}
	}
	return kinds
}

func (c *catalogueBench) measure() error {
	var m made
	if err := c.step(&m, "generate", ""); err != nil {
		return err
	}
	c.report.section(fmt.Sprintf("The catalogue with %s items", thousands(c.items)), fmt.Sprintf(`
Synthetic items as guix publish describes them, %.1f references and %.0f bytes of narinfo each on average, one compressed file each. They are
made while they are imported, which takes %.3f ms of CPU for each and is part of the import's CPU; made alone there are %s a second.
Each step is a process of its own. Import is counted from opening an empty catalogue to the end of closing it, once for each
database; bytes are those of the files after that. The other steps were done %d times, in turn. PostgreSQL has Debian's settings, but for shared_buffers
of 1 GB and max_wal_size of 8 GB, and is a server of its own, so that CPU and memory here are those of its client.`,
		m.References/m.Items, m.NarinfoBytes/m.Items, m.CPUSeconds/m.Items*1e3, figure(m.Items/m.Seconds), c.rounds))
	if err := c.fill(); err != nil {
		return err
	}
	defer c.empty()
	for round := range c.rounds {
		kinds := c.measured()
		for k := range kinds {
			kind := catalogues[kinds[(k+round)%len(kinds)]].kind
			c.progress("round %d of %d: using %s", round+1, c.rounds, catalogues[kinds[(k+round)%len(kinds)]].name)
			var a asked
			if err := c.step(&a, "use", kind, "-for", c.seconds.String()); err != nil {
				return err
			}
			c.asked[kind] = append(c.asked[kind], a)
		}
	}
	c.tables()
	h, err := c.herder()
	if err != nil {
		return err
	}
	c.goals(h)
	return nil
}

// fill imports in every way that is measured at this size.
func (c *catalogueBench) fill() error {
	for i, way := range imports {
		if !slices.ContainsFunc(c.measured(), func(k int) bool { return catalogues[k].kind == way.kind }) {
			continue
		}
		before := int64(0)
		if way.kind == "postgres" {
			var err error
			if c.at[way.kind], err = c.postgres.create(fmt.Sprintf("items%d", c.items)); err != nil {
				return err
			}
			if before, err = c.postgres.size(); err != nil {
				return err
			}
		} else {
			c.at[way.kind] = filepath.Join(c.disk, fmt.Sprintf("catalogue-%s-%d", way.kind, c.items))
			if err := os.RemoveAll(c.at[way.kind]); err != nil {
				return err
			}
			if err := os.Mkdir(c.at[way.kind], 0o755); err != nil {
				return err
			}
		}
		c.progress("importing (%s, %s)", way.kind, way.how)
		f := &c.filled[i]
		if err := c.step(f, "import", way.kind, way.flags...); err != nil {
			return err
		}
		if way.kind == "postgres" {
			after, err := c.postgres.size()
			if err != nil {
				return err
			}
			f.Bytes = float64(after - before)
		}
	}
	return nil
}

// empty deletes the databases of files; those of the server go with it.
func (c *catalogueBench) empty() {
	for kind, at := range c.at {
		if kind != "postgres" {
			os.RemoveAll(at)
		}
	}
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// of collects one figure of all rounds of a database.
func (c *catalogueBench) of(kind string, f func(asked) float64) spread {
	a := c.asked[kind]
	return spreadOf(len(a), func(i int) float64 { return f(a[i]) })
}

func nameOf(kind string) string {
	return catalogues[slices.IndexFunc(catalogues, func(c database) bool { return c.kind == kind })].name
}

// ratio compares Narfold with another, round by round.
func (c *catalogueBench) ratio(kind string, f func(asked) float64) string {
	ours, theirs := c.asked[catalogues[0].kind], c.asked[kind]
	if kind == catalogues[0].kind {
		return ""
	}
	return spreadOf(min(len(ours), len(theirs)), func(i int) float64 { return f(ours[i]) / f(theirs[i]) }).bold()
}

func (c *catalogueBench) tables() {
	n := float64(c.items)
	c.report.table("import", "", "items/s", "CPU ms per item", "bytes per item", "most memory, MB", "rate ÷ that of the tables", "bytes ÷ those of the tables")
	theirs := c.filled[len(imports)-1]
	for i, way := range imports {
		f := c.filled[i]
		if f.Items == 0 {
			continue
		}
		rate, size := "", ""
		if theirs.Items > 0 && i < len(imports)-1 {
			rate, size = "**"+figure(theirs.Seconds/f.Seconds)+"**", "**"+figure(f.Bytes/theirs.Bytes)+"**"
		}
		c.report.row(nameOf(way.kind), way.how, figure(n/f.Seconds), figure(f.CPUSeconds/n*1e3), figure(f.Bytes/n), figure(f.PeakRSS/1e6), rate, size)
	}

	c.report.print(`
Opening is measured with nothing of the database in the page cache, except for PostgreSQL, whose server goes on running: until it is
open, until the first item is found, and until the hash parts of all items are in a table in memory, as a herder keeps one. Memory is
what all that has added to the process.

`)
	c.report.table("opening", "open, ms", "first answer, ms", "table, s", "memory, bytes per item", "Narfold's table ÷ this")
	for _, i := range c.measured() {
		kind := catalogues[i].kind
		c.report.row(catalogues[i].name, c.of(kind, func(a asked) float64 { return a.Open * 1e3 }).String(), c.of(kind, func(a asked) float64 { return a.Answer * 1e3 }).String(),
			c.of(kind, func(a asked) float64 { return a.Table }).String(), c.of(kind, func(a asked) float64 { return a.RSS / n }).String(),
			c.ratio(kind, func(a asked) float64 { return a.Table }))
	}

	c.report.print(`
Then the database is read into the page cache. Look-ups take any item, with its narinfo and files, by its hash part, and as many
goroutines ask as there are processors. The walk takes all items in the order of publication, with their references and files.

`)
	c.report.table("", "", "per second", "CPU µs each", "Narfold's rate ÷ this", "Narfold's CPU ÷ this")
	for _, m := range []struct {
		what string
		of   func(asked) repeated
	}{
		{"look-ups, found", func(a asked) repeated { return a.Hits }},
		{"look-ups, not found", func(a asked) repeated { return a.Misses }},
		{"walk of all items", func(a asked) repeated { return a.Scan }},
	} {
		for _, i := range c.measured() {
			kind := catalogues[i].kind
			rate, cost := func(a asked) float64 { return m.of(a).sample().rate() }, func(a asked) float64 { return m.of(a).sample().cost() * 1e6 }
			c.report.row(m.what, catalogues[i].name, c.of(kind, rate).String(), c.of(kind, cost).String(), c.ratio(kind, rate), c.ratio(kind, cost))
		}
	}

	c.report.print(`
Latency of look-ups that are found and due at fixed times, %s a second, counted from when each was due, so that what one holds up
is counted for those behind it. "begun late" is how late the 99th percentile began: where it is most of the latency, the processors were
not there. Memory is that after all look-ups, with full caches.

`, figure(c.asked[catalogues[0].kind][0].Latency.Rate))
	c.report.table("latency, ms", "p50", "p99", "p99.9", "most", "begun late, p99", "memory, MB")
	for _, i := range c.measured() {
		kind := catalogues[i].kind
		c.report.row(catalogues[i].name, c.of(kind, func(a asked) float64 { return a.Latency.P50 }).String(), c.of(kind, func(a asked) float64 { return a.Latency.P99 }).String(),
			c.of(kind, func(a asked) float64 { return a.Latency.P999 }).String(), c.of(kind, func(a asked) float64 { return a.Latency.Most }).String(),
			c.of(kind, func(a asked) float64 { return a.Latency.Late }).String(), c.of(kind, func(a asked) float64 { return a.RSSAfter / 1e6 }).String())
	}
}

// parseItems reads sizes such as "1000000,10000000".
func parseItems(s string) (sizes []int, err error) {
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1000 {
			return nil, fmt.Errorf("items %q: want numbers from 1000 with commas between them", s)
		}
		sizes = append(sizes, n)
	}
	if len(sizes) == 0 {
		return nil, errors.New("items: want a number")
	}
	return sizes, nil
}

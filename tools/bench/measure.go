package main

import (
	"fmt"
	"io"
	"math"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// sample is one turn of one peer.
type sample struct {
	done float64 // in the unit of the measurement
	wall time.Duration
	cpu  time.Duration
}

func (s sample) rate() float64 { return s.done / s.wall.Seconds() }

// cost is seconds of CPU for one unit.
func (s sample) cost() float64 { return s.cpu.Seconds() / s.done }

// peer is who is measured, and how one turn of it goes.
type peer struct {
	name string
	turn func(round int) (sample, error)
}

// alternate lets each peer have its turn in each round, in another order each time, and returns the samples by peer.
func alternate(rounds int, peers []peer) (map[string][]sample, error) {
	samples := make(map[string][]sample)
	for round := range rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			s, err := p.turn(round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			samples[p.name] = append(samples[p.name], s)
		}
	}
	return samples, nil
}

// spread is a median with what lies around it.
type spread struct{ median, least, most float64 }

func spreadOf(n int, f func(i int) float64) spread {
	v := make([]float64, 0, n)
	for i := range n {
		if x := f(i); !math.IsNaN(x) && !math.IsInf(x, 0) {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(v)
	median := v[len(v)/2]
	if len(v)%2 == 0 {
		median = (median + v[len(v)/2-1]) / 2
	}
	return spread{median, v[0], v[len(v)-1]}
}

func rates(s []sample) spread { return spreadOf(len(s), func(i int) float64 { return s[i].rate() }) }
func costs(s []sample) spread { return spreadOf(len(s), func(i int) float64 { return s[i].cost() }) }

// against compares round by round.
func against(ours, theirs []sample, of func(sample) float64) spread {
	return spreadOf(min(len(ours), len(theirs)), func(i int) float64 { return of(ours[i]) / of(theirs[i]) })
}

// figure writes three digits, or as many as a large number has.
func figure(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func (s spread) String() string {
	if math.IsNaN(s.median) {
		return "–"
	}
	return fmt.Sprintf("%s (%s..%s)", figure(s.median), figure(s.least), figure(s.most))
}

func (s spread) bold() string {
	if math.IsNaN(s.median) {
		return "–"
	}
	return fmt.Sprintf("**%s** (%s..%s)", figure(s.median), figure(s.least), figure(s.most))
}

// timed runs a process to its end.
func timed(c *exec.Cmd) (wall, cpu time.Duration, err error) {
	var failure strings.Builder
	if c.Stderr == nil {
		c.Stderr = &failure
	}
	begun := time.Now()
	err = c.Run()
	wall = time.Since(begun)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", strings.Join(c.Args[:min(3, len(c.Args))], " "), err, failure.String())
	}
	return wall, c.ProcessState.UserTime() + c.ProcessState.SystemTime(), nil
}

// report is the page as it grows.
type report struct {
	out  io.Writer // sees it meanwhile
	text strings.Builder
}

func (r *report) print(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	r.text.WriteString(s)
	fmt.Fprint(r.out, s)
}

func (r *report) section(title, how string) {
	r.print("\n## %s\n\n%s\n\n", title, strings.TrimSpace(how))
}

func (r *report) table(columns ...string) {
	r.row(columns...)
	r.print("|%s\n", strings.Repeat("---|", len(columns)))
}

func (r *report) row(cells ...string) { r.print("| %s |\n", strings.Join(cells, " | ")) }

package main

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// window is the time over which a rate is measured: long enough to be steady over a few large files, short enough to show that a
// link has become slow.
const window = 20 * time.Second

// meter computes rates and the time left from what was done at which time. It is not safe for concurrent use.
type meter struct {
	done, total work     // total may be less than done, or zero, if it is not known
	samples     []sample // of the last window and one before it, oldest first
}

type sample struct {
	at   time.Time
	done work
}

// rate is work per second.
type rate struct{ items, bytes float64 }

// observe remembers what is done at now, which never goes back.
func (m *meter) observe(now time.Time) {
	m.samples = append(m.samples, sample{now, m.done})
	old := 0
	for old+1 < len(m.samples) && now.Sub(m.samples[old+1].at) >= window {
		old++
	}
	m.samples = append(m.samples[:0], m.samples[old:]...)
}

// rate returns the work per second over the window, zero if there is no telling yet.
func (m *meter) rate() rate {
	if len(m.samples) < 2 {
		return rate{}
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return rate{}
	}
	return rate{
		items: float64(last.done.items-first.done.items) / seconds,
		bytes: float64(last.done.bytes-first.done.bytes) / seconds,
	}
}

// left returns the time until all is done at the present rate: by bytes where their total is known, else by items.
func (m *meter) left() (time.Duration, bool) {
	r := m.rate()
	per, rest := r.items, m.total.items-m.done.items
	if m.total.bytes > 0 {
		per, rest = r.bytes, m.total.bytes-m.done.bytes
	}
	switch {
	case m.total == (work{}) || rest < 0 || per <= 0:
		return 0, false
	case float64(rest)/per > (1000 * time.Hour).Seconds():
		return 0, false // it stands still
	}
	return time.Duration(float64(rest) / per * float64(time.Second)).Round(time.Second), true
}

// text returns one line on what is done, what is to do, how fast it goes and how long it will take.
func (m *meter) text(what string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d", what, m.done.items)
	if m.total.items > 0 {
		fmt.Fprintf(&b, "/%d", m.total.items)
	}
	b.WriteString(" items, " + sizeText(m.done.bytes))
	if m.total.bytes > 0 {
		b.WriteString("/" + sizeText(m.total.bytes))
	}
	b.WriteString(", " + sizeText(int64(m.rate().bytes)) + "/s")
	if left, ok := m.left(); ok {
		b.WriteString(", " + left.String() + " left")
	}
	return b.String()
}

// fit returns s cut to at most width characters.
func fit(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	runes := []rune(s)
	return string(runes[:max(width, 0)])
}

// sizeText returns a number of bytes for people: three digits and a binary unit.
func sizeText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for v >= 1023.5 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	digits := 0
	switch {
	case v < 9.995:
		digits = 2
	case v < 99.95:
		digits = 1
	}
	// Rounded here, so that 9.999 does not become 10.00.
	scale := math.Pow10(digits)
	return fmt.Sprintf("%.*f %s", digits, math.Round(v*scale)/scale, units[unit])
}

package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/publishapi"
)

func TestMeter(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type observation struct {
		after time.Duration
		done  work
	}
	for name, c := range map[string]struct {
		total  work
		did    []observation
		rate   rate
		left   time.Duration
		known  bool
		spoken string
	}{
		"nothing yet": {work{10, 1000}, []observation{{0, work{}}}, rate{}, 0, false, "push: 0/10 items, 0 B/1000 B, 0 B/s"},
		"steady": {work{100, 100 << 20}, []observation{{0, work{}}, {5 * time.Second, work{10, 10 << 20}}},
			rate{2, 2 << 20}, 45 * time.Second, true, "push: 10/100 items, 10.0 MiB/100 MiB, 2.00 MiB/s, 45s left"},
		"only the last window counts": {work{}, []observation{{0, work{}}, {100 * time.Second, work{1000, 0}}, {110 * time.Second, work{1000, 0}}, {120 * time.Second, work{1020, 0}}},
			rate{1, 0}, 0, false, "push: 1020 items, 0 B, 0 B/s"},
		"by items where bytes are not known": {work{items: 30}, []observation{{0, work{}}, {10 * time.Second, work{10, 1 << 10}}},
			rate{1, 102.4}, 20 * time.Second, true, "push: 10/30 items, 1.00 KiB, 102 B/s, 20s left"},
		"standing still": {work{10, 1000}, []observation{{0, work{1, 10}}, {10 * time.Second, work{1, 10}}},
			rate{}, 0, false, "push: 1/10 items, 10 B/1000 B, 0 B/s"},
		"more than was expected": {work{10, 1000}, []observation{{0, work{}}, {10 * time.Second, work{11, 2000}}},
			rate{1.1, 200}, 0, false, "push: 11/10 items, 1.95 KiB/1000 B, 200 B/s"},
		"done": {work{10, 1000}, []observation{{0, work{}}, {10 * time.Second, work{10, 1000}}},
			rate{1, 100}, 0, true, "push: 10/10 items, 1000 B/1000 B, 100 B/s, 0s left"},
	} {
		t.Run(name, func(t *testing.T) {
			m := meter{total: c.total}
			for _, o := range c.did {
				m.done = o.done
				m.observe(start.Add(o.after))
			}
			if got := m.rate(); got != c.rate {
				t.Errorf("rate %v, want %v", got, c.rate)
			}
			if left, known := m.left(); left != c.left || known != c.known {
				t.Errorf("left %v, %v; want %v, %v", left, known, c.left, c.known)
			}
			if got := m.text("push"); got != c.spoken {
				t.Errorf("%q, want %q", got, c.spoken)
			}
		})
	}
}

func TestAMeterKeepsFewSamples(t *testing.T) {
	var m meter
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 10_000 {
		now = now.Add(drawEvery)
		m.done.items++
		m.observe(now)
	}
	if most := int(window/drawEvery) + 1; len(m.samples) > most {
		t.Errorf("%d samples, more than %d", len(m.samples), most)
	}
	if got, want := m.rate().items, 1/drawEvery.Seconds(); got != want {
		t.Errorf("%v items a second, want %v", got, want)
	}
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10234: "9.99 KiB", 10235: "10.0 KiB", 102348: "99.9 KiB", 102400: "100 KiB",
		1<<20 - 1: "1.00 MiB", 5 << 30: "5.00 GiB", 1<<63 - 1: "8.00 EiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// onTerminal returns an invocation whose standard error is a terminal of the given width, and what is written to it.
func onTerminal(width int) (*invocation, *bytes.Buffer) {
	var shown bytes.Buffer
	inv := &invocation{stderr: &screen{terminal: width > 0, width: func() int { return width }, w: &shown}}
	inv.log = slog.New(slog.NewJSONHandler(inv.stderr, nil))
	return inv, &shown
}

func TestProgressOnATerminalIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv, shown := onTerminal(40)
		p := inv.progress("import")
		p.expect(work{4, 4096})
		time.Sleep(drawEvery)
		synctest.Wait()
		if got, want := shown.String(), clearLine+"import: 0/4 items, 0 B/4.00 KiB, 0 B/s"; got != want {
			t.Errorf("drew %q, want %q", got, want)
		}
		shown.Reset()

		time.Sleep(drawEvery)
		synctest.Wait()
		if shown.Len() > 0 {
			t.Errorf("drew what was there already: %q", shown)
		}

		if _, err := inv.stderr.Write([]byte("a warning\n")); err != nil {
			t.Fatal(err)
		}
		if got, want := shown.String(), clearLine+"a warning\nimport: 0/4 items, 0 B/4.00 KiB, 0 B/s"; got != want {
			t.Errorf("drew %q, want %q", got, want)
		}
		shown.Reset()

		p.did(work{items: 1})
		if _, err := p.counted().Write(make([]byte, 1024)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(drawEvery)
		synctest.Wait()
		if got, want := shown.String(), clearLine+"import: 1/4 items, 1.00 KiB/4.00 KiB, 1"; got != want {
			t.Errorf("drew %q, want %q in 39 columns", got, want)
		}
		shown.Reset()

		p.stop()
		p.stop()
		if got := shown.String(); got != clearLine {
			t.Errorf("at the end drew %q", got)
		}
	})
}

func TestProgressElsewhereIsALineNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv, shown := onTerminal(0)
		p := inv.progress("import")
		p.did(work{5, 0})
		time.Sleep(2*sayEvery + time.Millisecond)
		p.stop()
		if got, want := shown.String(), "import: 5 items, 0 B, 0 B/s\nimport: 5 items, 0 B, 0 B/s\n"; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	})
}

func TestProgressInAJSONLogIsAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv, shown := onTerminal(0)
		inv.jsonLog = true
		p := inv.progress("import")
		p.expect(work{10, 2000})
		p.did(work{5, 1000})
		time.Sleep(sayEvery + time.Millisecond)
		p.stop()
		var event map[string]any
		if err := json.Unmarshal(shown.Bytes(), &event); err != nil {
			t.Fatalf("%v: %s", err, shown)
		}
		if event["msg"] != "progress" || event["what"] != "import" || event["items"] != 5.0 || event["seconds_left"] != 10.0 {
			t.Errorf("said %s", shown)
		}
	})
}

func TestProgressSaysWhyItStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv, shown := onTerminal(0)
		p := inv.progress("push")
		p.waits(publishapi.ErrFull, sayEvery+time.Second)
		time.Sleep(2*sayEvery + time.Millisecond)
		p.stop()
		if got, want := shown.String(), "push: 0 items, 0 B, 0 B/s, waiting: the herder has no room\npush: 0 items, 0 B, 0 B/s\n"; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	})
}

func TestQuietProgressSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv, shown := onTerminal(80)
		inv.quiet = true
		p := inv.progress("import")
		time.Sleep(time.Hour)
		p.stop()
		if shown.Len() > 0 {
			t.Errorf("said %q", shown)
		}
	})
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		s     string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"äöü", 2, "äö"}, {"a", 0, ""}, {"a", -1, ""}} {
		if got := fit(c.s, c.width); got != c.want {
			t.Errorf("%q in %d: %q", c.s, c.width, got)
		}
	}
	if !strings.HasPrefix(clearLine, "\r") {
		t.Error("the line is not cleared from its beginning")
	}
}

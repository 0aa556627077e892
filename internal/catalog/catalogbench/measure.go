package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// clock measures from a moment on.
type clock struct {
	wall time.Time
	cpu  time.Duration
}

func start() clock { return clock{time.Now(), cpu()} }

func (c clock) spent() (wall, processor float64) {
	return time.Since(c.wall).Seconds(), (cpu() - c.cpu).Seconds()
}

// cpu is the user and system time of this process.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic("catalogbench: getrusage: " + err.Error()) // cannot happen with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rate is how fast something was done over and over.
type rate struct {
	Done       int     `json:"done"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

func (c clock) rate(done int) rate {
	r := rate{Done: done}
	r.Seconds, r.CPUSeconds = c.spent()
	return r
}

// flatOut calls f with the numbers from 0 on from several goroutines, each as fast as it goes, until the time is over.
func flatOut(ctx context.Context, workers int, d time.Duration, f func(i uint64) error) (rate, error) {
	var next atomic.Uint64
	begun := start()
	end := begun.wall.Add(d)
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			for ctx.Err() == nil && time.Now().Before(end) {
				if err := f(next.Add(1) - 1); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	err := group.Wait()
	return begun.rate(int(next.Load())), err
}

// latency is how long calls took that were due at fixed times.
type latency struct {
	Rate    int     `json:"rate"`    // calls that were due each second
	Seconds float64 `json:"seconds"` // until the last was answered
	P50     float64 `json:"p50_ms"`  // in milliseconds, from when a call was due to its answer
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p999_ms"`
	Most    float64 `json:"most_ms"`
	Late    float64 `json:"late_p99_ms"` // how late calls began: of this, P99 is not the callee's
}

// scheduled calls f with the numbers from 0 on at a fixed rate, as long as one of the workers is free when a call is due. Time counts from when a call was due, so
// that a call that holds up others is counted for them as well.
func scheduled(ctx context.Context, workers, perSecond int, d time.Duration, f func(i uint64) error) (latency, error) {
	calls := int(d.Seconds() * float64(perSecond))
	took, late := make([]time.Duration, calls), make([]time.Duration, calls)
	var next atomic.Int64
	begun := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= calls {
					return nil
				}
				due := begun.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
				// time.Sleep ends up to a millisecond late, and waking a thread costs as much as a look-up.
				for time.Until(due) > 0 {
					runtime.Gosched()
				}
				late[i] = time.Since(due)
				if err := f(uint64(i)); err != nil {
					return err
				}
				took[i] = time.Since(due)
			}
			return context.Cause(ctx)
		})
	}
	if err := group.Wait(); err != nil || calls == 0 {
		return latency{}, err
	}
	l := latency{Rate: perSecond, Seconds: time.Since(begun).Seconds()}
	slices.Sort(took)
	slices.Sort(late)
	at := func(sorted []time.Duration, share float64) float64 {
		return sorted[int(share*float64(calls-1))].Seconds() * 1e3
	}
	l.P50, l.P99, l.P999, l.Most, l.Late = at(took, 0.5), at(took, 0.99), at(took, 0.999), at(took, 1), at(late, 0.99)
	return l, nil
}

// memory reads a field of /proc/self/status that is in kB, and returns bytes.
func memory(field string) (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/self/status: no field %s", field)
}

// table is the kind of set that a herder keeps of all hash parts: eight bytes of each, in a power of two of slots that are at most
// three quarters full.
type table struct {
	slots []uint64
	used  int
}

func (t *table) add(h [20]byte) {
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]uint64, max(1024, 2*len(old)))
		t.used = 0
		for _, v := range old {
			t.put(v)
		}
	}
	t.put(max(1, binary.LittleEndian.Uint64(h[:])))
}

func (t *table) put(v uint64) {
	if v == 0 {
		return
	}
	mask := uint64(len(t.slots) - 1)
	i := v & mask
	for t.slots[i] != 0 {
		if t.slots[i] == v {
			return
		}
		i = (i + 1) & mask
	}
	t.slots[i] = v
	t.used++
}

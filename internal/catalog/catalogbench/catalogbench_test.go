package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog/synthetic"
)

// call runs the command and reads its result.
func call(t *testing.T, result any, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	d := json.NewDecoder(&out)
	d.DisallowUnknownFields()
	if err := d.Decode(result); err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

func TestEachKindHoldsAllItemsAndNothingElse(t *testing.T) {
	const n = 600
	for _, way := range []struct{ name, kind, publish string }{{"sqlite built", "sqlite", "false"}, {"sqlite published", "sqlite", "true"}, {"rows", "rows", "false"}} {
		t.Run(way.name, func(t *testing.T) {
			kind := way.kind
			common := []string{"-kind", kind, "-at", t.TempDir(), "-items", strconv.Itoa(n)}
			var in imported
			call(t, &in, append([]string{"import", "-batch", "250", "-publish=" + way.publish}, common...)...)
			if in.Items != n || in.Seconds <= 0 || in.CPUSeconds <= 0 || in.Bytes < 100*n || in.PeakRSS == 0 {
				t.Errorf("import: %+v", in)
			}
			var u used
			// Every look-up and the walk are checked on the way.
			call(t, &u, append([]string{"use", "-for", "50ms", "-rate", "1000"}, common...)...)
			if u.OpenSeconds <= 0 || u.AnswerSeconds < u.OpenSeconds || u.TableSeconds < u.AnswerSeconds {
				t.Errorf("opening: %+v", u)
			}
			if u.Hits.Done == 0 || u.Misses.Done == 0 || u.Scan.Done != n {
				t.Errorf("look-ups: %+v", u)
			}
			if l := u.Latency; l.Rate != 1000 || l.P50 <= 0 || l.P99 < l.P50 || l.P999 < l.P99 || l.Most < l.P999 {
				t.Errorf("latency: %+v", l)
			}
			var names named
			call(t, &names, "names", "-items", strconv.Itoa(n))
			k := kinds[kind]
			db, err := k.open(t.Context(), common[3])
			if err != nil {
				t.Fatal(err)
			}
			for i := range names.Hits {
				hit, err := db.find(t.Context(), names.Hits[i])
				miss, err2 := db.find(t.Context(), names.Misses[i])
				if !hit || miss || err != nil || err2 != nil {
					t.Fatalf("names %s and %s: %v, %v (%v, %v)", names.Hits[i], names.Misses[i], hit, miss, err, err2)
				}
				if i == 50 {
					break
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			// A database with fewer items than it should have is noticed.
			if err := run(t.Context(), []string{"use", "-kind", kind, "-at", common[3], "-items", strconv.Itoa(n + 1), "-for", "10ms"}, &bytes.Buffer{}); err == nil {
				t.Error("a missing item went unnoticed")
			}
		})
	}
}

func TestGenerateCountsWhatImportsTake(t *testing.T) {
	var g generated
	call(t, &g, "generate", "-items", "1200")
	p, err := synthetic.New(1)
	if err != nil {
		t.Fatal(err)
	}
	want := generated{Items: 1200, Seconds: g.Seconds, CPUSeconds: g.CPUSeconds}
	for pub := range p.Publications(0, 1200) {
		want.NarinfoBytes += int64(len(pub.Narinfo))
		want.References += int64(len(pub.References))
	}
	if g != want {
		t.Errorf("have %+v, want %+v", g, want)
	}
}

func TestTheTableCountsEachOnce(t *testing.T) {
	p, err := synthetic.New(1)
	if err != nil {
		t.Fatal(err)
	}
	var s table
	for i := range 5000 {
		s.add(p.HashPart(i % 4000).Bytes())
	}
	s.add([20]byte{})
	if s.used != 4001 || 4*s.used > 3*len(s.slots) {
		t.Errorf("%d of %d slots used, want 4001", s.used, len(s.slots))
	}
}

// Time counts from when a call was due: one that stops everything is seen in those that were due meanwhile.
func TestACallThatHoldsUpOthersIsCountedForThem(t *testing.T) {
	l, err := scheduled(t.Context(), 1, 1000, 200*time.Millisecond, func(i uint64) error {
		if i == 20 {
			for begun := time.Now(); time.Since(begun) < 60*time.Millisecond; {
				runtime.Gosched()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Number 20 takes 60 ms, the next begins 59 ms late, and so on.
	if l.Most < 60 || l.P99 < 55 || l.Late < 55 {
		t.Errorf("%+v", l)
	}
}

func TestMakingAheadEndsWhereItIsLeft(t *testing.T) {
	p, err := synthetic.New(1)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, err := range ahead(t.Context(), p, 1_000_000) {
		if err != nil {
			t.Fatal(err)
		}
		if taken++; taken == 1234 {
			break
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var last error
	for _, err := range ahead(ctx, p, 1_000_000) {
		stop()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("stopped with %v", last)
	}
}

func TestWhatCannotBeMeasuredIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{}, {"measure"}, {"import", "-kind", "scroll"}, {"use", "-items", "0"}, {"use", "-rate", "-1"}, {"generate", "too"},
		{"use", "-at", t.TempDir() + "/absent"},
	} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q was done", args)
		}
	}
	// An import goes into a new database only.
	at := t.TempDir()
	for i, publish := range []string{"-publish", "-publish=false", "-publish"} {
		err := run(t.Context(), []string{"import", "-at", at, "-items", "10", publish}, &bytes.Buffer{})
		if (err == nil) != (i == 0) {
			t.Errorf("import number %d, %s: %v", i, publish, err)
		}
	}
}

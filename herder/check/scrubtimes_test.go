package check

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAScrubComesAgainInTimeAndSoonerIfSomethingIsWrong(t *testing.T) {
	damage := map[Kind]int64{Corrupt: 1}
	strange := map[Kind]int64{Unaccounted: 5} // which is no damage
	for name, c := range map[string]struct {
		every time.Duration
		found []map[Kind]int64
		err   []error
		want  []time.Duration // since the start
	}{
		"a month": {30 * 24 * time.Hour, make([]map[Kind]int64, 3), make([]error, 3),
			[]time.Duration{10 * time.Minute, 24*time.Hour + 10*time.Minute, 48*time.Hour + 10*time.Minute}},
		"ten hours": {10 * time.Hour, []map[Kind]int64{strange, nil, nil}, make([]error, 3),
			[]time.Duration{10 * time.Minute, 70 * time.Minute, 130 * time.Minute}},
		"an hour": {time.Hour, make([]map[Kind]int64, 3), make([]error, 3),
			[]time.Duration{10 * time.Minute, 20 * time.Minute, 30 * time.Minute}},
		"damage, until it is repaired": {30 * 24 * time.Hour, []map[Kind]int64{damage, damage, nil, nil}, make([]error, 4),
			[]time.Duration{10 * time.Minute, 70 * time.Minute, 130 * time.Minute, 24*time.Hour + 130*time.Minute}},
		"a store that is away": {30 * 24 * time.Hour, make([]map[Kind]int64, 3), []error{errors.New("away"), nil, nil},
			[]time.Duration{10 * time.Minute, 70 * time.Minute, 24*time.Hour + 70*time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				begun, n := time.Now(), 0
				var got []time.Duration
				var told []error
				s := Scrub{Every: c.every, Config: Config{Rate: 7, RemoveAbandoned: true, RemoveUnknown: true},
					Told: func(_ Report, err error) { told = append(told, err) },
					check: func(_ context.Context, cfg Config) (Report, error) {
						if cfg.Sample != 1 || cfg.NotWithin != c.every || cfg.Rate != 7 || cfg.RemoveAbandoned || cfg.RemoveUnknown {
							t.Errorf("checked with %+v", cfg)
						}
						got = append(got, time.Since(begun))
						r, err := Report{Found: c.found[n]}, c.err[n]
						if n++; n == len(c.found) {
							stop()
						}
						return r, err
					}}
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("checked after %v, want %v", got, c.want)
				}
				if !slices.Equal(told, c.err[:n-1]) { // of the last, which was interrupted, nothing is told
					t.Errorf("told %v", told)
				}
			})
		})
	}
}

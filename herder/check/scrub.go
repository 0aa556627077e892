package check

import (
	"context"
	"time"
)

const (
	// firstScrub is how long a herder has for itself after its start.
	firstScrub = 10 * time.Minute
	// mostScrub and afterDamage bound how long it is from one check to the next: what is published today is to be compared with the store
	// tomorrow, and what was found damaged may have been repaired.
	mostScrub   = 24 * time.Hour
	afterDamage = time.Hour
)

// Scrub checks everything again and again, so that a disk that forgets is noticed while somebody else still has what it has forgotten.
type Scrub struct {
	// Config is that of each check. Sample and NotWithin are set here, and nothing is removed.
	Config Config
	// Every is within how long each object is read and hashed again, and a tenth more.
	Every time.Duration
	// Told is called after each check. With an error the report is of what was looked at until then.
	Told func(Report, error)

	check func(context.Context, Config) (Report, error) // Run; another in tests
}

// Run checks until ctx ends, and returns nil then. Objects that were verified lately, by this process or another, are passed over, so that
// a restart repeats nothing.
func (s *Scrub) Run(ctx context.Context) error {
	cfg := s.Config
	cfg.Sample, cfg.NotWithin = 1, s.Every
	cfg.RemoveAbandoned, cfg.RemoveUnknown = false, false
	check := s.check
	if check == nil {
		check = Run
	}
	pause := time.NewTimer(firstScrub)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
		report, err := check(ctx, cfg)
		if ctx.Err() != nil {
			return nil
		}
		s.Told(report, err)
		next := min(s.Every/10, mostScrub)
		if err != nil || report.Damage() > 0 {
			next = min(next, afterDamage)
		}
		pause.Reset(max(next, firstScrub))
	}
}

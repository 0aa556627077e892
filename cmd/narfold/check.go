package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"narfold/herder/check"
	"narfold/herder/deployment"
)

// checkCommand compares the catalogue of a deployment with its object store.
type checkCommand struct {
	deploymentFlags
	Deep            bool            `help:"Expand and hash every file, too."`
	Sample          percent         `placeholder:"N%" help:"Expand and hash that many of the files, chosen by chance."`
	Rate            deployment.Size `placeholder:"BYTES" help:"Read at most so many bytes in a second for that, such as 20MiB."`
	RemoveAbandoned bool            `help:"Remove uploads that came to nothing, that nothing waits for, and that are older than --older-than."`
	RemoveUnknown   bool            `help:"Remove objects that the catalogue does not know and that are older than --older-than, if there is no damage."`
	OlderThan       time.Duration   `default:"1h" placeholder:"DURATION" help:"What is younger may be on its way: it is not called unaccounted, and not removed. Default: ${default}."`
}

// Help is shown by --help.
func (checkCommand) Help() string {
	return `Tells whether everything that is published can be served: every file's object is there with its size, and everything that an
item references is published. With --deep every object is also read, expanded and hashed, which is noted in the catalogue. And it
accounts for every object: part of a published item, an upload, a log, or unknown. The deployment may be in use meanwhile.
Nothing is removed unless that is asked.

Exit codes: 0 all is well, 1 there are objects that nothing accounts for, 3 the store or an object cannot be read, 4 something
published is missing or damaged.

Examples:
  narfold check --state /var/lib/narfold
  narfold check --config narfold.toml --deep --rate 20MiB
  narfold check --state /var/lib/narfold --sample 5% --json
  narfold check --state /var/lib/narfold --remove-abandoned --older-than 24h`
}

// Run checks.
func (c *checkCommand) Run(ctx context.Context, inv *invocation) (err error) {
	if c.OlderThan < 0 {
		return usagef("--older-than: %v is in the future", c.OlderThan)
	}
	if c.Deep && c.Sample > 0 {
		return usagef("--deep reads all files, --sample some of them: want one of the two")
	}
	sample := float64(c.Sample) / 100
	if c.Deep {
		sample = 1
	}
	d, err := c.open(ctx, inv, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	progress := inv.progress("check")
	defer progress.stop()
	if sample > 0 {
		counts, err := d.Catalogue.Counts(ctx)
		if err != nil {
			return err
		}
		progress.expect(work{items: int64(sample * float64(counts.Files)), bytes: int64(sample * float64(counts.Bytes))})
	}
	report, err := check.Run(ctx, check.Config{
		Catalogue: d.Catalogue, Objects: d.Objects,
		Sample: sample, Rate: int64(c.Rate),
		Expanded:  func(bytes int64) { progress.did(work{items: 1, bytes: bytes}) },
		OlderThan: c.OlderThan, RemoveAbandoned: c.RemoveAbandoned, RemoveUnknown: c.RemoveUnknown,
		Deleter: d.Objects, LockFile: filepath.Join(d.Config.State, "check.lock"),
		Log: inv.log,
	})
	progress.stop()
	if errors.Is(err, check.ErrRemoving) {
		return hint(err, "again when it has ended, or without --remove-abandoned and --remove-unknown")
	}
	if err != nil && report.Damage() == 0 {
		return err
	}
	if err := inv.answer(report, checkText{report, d.Root, c.deploymentFlags}.print); err != nil {
		return err
	}
	return verdictOf(&report)
}

// verdictOf is the exit code for what a check found, as an error, or nil if all is well.
func verdictOf(report *check.Report) error {
	switch {
	case report.Damage() > 0:
		return exitDamage
	case report.Found[check.Unreadable] > 0:
		return exitUnavailable
	case report.Found[check.Unaccounted] > 0:
		return exitRefused
	}
	return nil
}

// percent is a part of a whole, written as "5%" or "0.5".
type percent float64

// UnmarshalText reads it.
func (p *percent) UnmarshalText(text []byte) error {
	f, err := strconv.ParseFloat(strings.TrimSuffix(string(text), "%"), 64)
	if err != nil || !(f > 0 && f <= 100) {
		return fmt.Errorf("%q is not a percentage such as 5%%", text)
	}
	*p = percent(f)
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/herder/repair"
	"narfold/herder/source"
	"narfold/internal/storepath"
)

// repairCommand mends damaged objects of a deployment.
type repairCommand struct {
	deploymentFlags
	Deep     bool            `help:"Expand and hash every file to find what is damaged, instead of looking at sizes."`
	Rate     deployment.Size `placeholder:"BYTES" help:"Read at most so many bytes in a second for that, such as 20MiB."`
	Item     []string        `placeholder:"ITEM" help:"Look at the files of these published items alone, and read them: hash parts, names or store paths. May be given several times."`
	DryRun   bool            `help:"Only tell what is damaged and which source says that it has it."`
	Level    string          `enum:"fastest,default,best," default:"" placeholder:"LEVEL" help:"How hard to compress what does not come as it was: fastest, default or best. Best as at the import."`
	Real     string          `placeholder:"DIR" help:"Where a store's files really are, if not in its store directory."`
	Database string          `placeholder:"FILE" help:"A store's database, if not in its usual place."`
	Scan     bool            `name:"scan-references" help:"A store has no database."`
	Workers  int             `placeholder:"N" help:"How many nars are fetched at once. Default: one for each processor."`
	Source   []string        `arg:"" help:"Where the nars may be had, tried one after the other."`
}

// Help is shown by --help.
func (repairCommand) Help() string {
	return `Finds what narfold check calls missing, of another size or corrupt, fetches the nars of it from the sources, which are those of
narfold import, and puts the objects back. A nar is expanded and must be the one that was published. Where the published bytes
can be had or made again they come back under the same key; where not, the nar gets a new object under a new key, and the old
one is an upload for narfold check --remove-abandoned. Sound objects are not touched. The deployment may be in use meanwhile,
and a running herder serves what is mended within seconds. Segments of the change feed come back from the sources too, if one of
them keeps the same feed, or are made again of what the catalogue knows, if their items have not changed since.

Without --deep or --item only missing objects and those of another size are found.

Exit codes: 0 all is mended, or nothing was damaged; 1 something could not be mended; 3 the store or a source is unavailable.

Examples:
  narfold repair --state /var/lib/narfold https://cache.example.org
  narfold repair --state /var/lib/narfold --deep --rate 20MiB /gnu/store file:///srv/cache
  narfold repair --config narfold.toml --item 7rjj5n... --dry-run /nix/store`
}

// Validate is called by the parser.
func (c *repairCommand) Validate() error {
	switch {
	case c.Workers < 0:
		return usagef("--workers: want a number from 1")
	case c.Deep && len(c.Item) > 0:
		return usagef("--deep reads all files, --item those of some items: want one of the two")
	}
	return nil
}

// repairSummary is the answer.
type repairSummary struct {
	Mendings []*repair.Mending `json:"files"`
	Restored int64             `json:"restored"`
	Replaced int64             `json:"replaced"`
	Whole    int64             `json:"whole"`
	Mendable int64             `json:"mendable"`
	Left     int64             `json:"left"` // damaged still, Other and Untold included
	// Other is damage that no nar mends: what waits, and references.
	Other []*check.Finding `json:"other,omitempty"`
	// Untold is how much more was found than is mended in one run.
	Untold  int64    `json:"untold,omitempty"`
	Sources []string `json:"source_errors,omitempty"`
	Seconds float64  `json:"seconds"`

	flags    deploymentFlags
	segments []*check.Finding  // of the change feed
	feed     []*repair.Mending // of segments
}

// mostDamaged is how many damaged files of each kind one run mends: each takes about a KiB of memory.
const mostDamaged = 100_000

// Run repairs.
func (c *repairCommand) Run(ctx context.Context, inv *invocation) (err error) {
	d, err := c.open(ctx, inv, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	p := d.Publisher()
	if level, ok := levels[c.Level]; ok {
		p.Options.Level = level
	}
	r := repair.New(repair.Config{Catalogue: d.Catalogue, Objects: d.Objects, Spool: p.Spool, Options: p.Options, Workers: c.Workers, DryRun: c.DryRun, Log: inv.log})
	sum := &repairSummary{flags: c.deploymentFlags}
	begun := time.Now()
	if err := c.find(ctx, inv, d, r, sum); err != nil {
		return err
	}
	unavailable, err := c.mend(ctx, inv, p.Spool, r, sum)
	if err == nil {
		sum.feed, err = c.mendFeed(ctx, d, sum.segments)
	}
	sum.count(r)
	sum.Seconds = time.Since(begun).Seconds()
	if err != nil && len(sum.Mendings) == int(sum.Left) {
		return err
	}
	// What was mended before something broke is told too.
	if err := errors.Join(inv.answer(sum, sum.print), err); err != nil {
		return err
	}
	switch {
	case sum.Left == 0:
		return nil
	case unavailable:
		return exitUnavailable
	}
	return exitRefused
}

// find tells r what is damaged.
func (c *repairCommand) find(ctx context.Context, inv *invocation, d *deployment.Deployment, r *repair.Repairer, sum *repairSummary) error {
	for _, s := range c.Item {
		h, err := hashPartOf(s)
		if err != nil {
			return usagef("--item: %v", err)
		}
		if err := r.Examine(ctx, h); err != nil {
			return fmt.Errorf("look at %s: %w", s, err)
		}
	}
	if len(c.Item) > 0 {
		return nil
	}
	progress := inv.progress("check")
	defer progress.stop()
	cfg := check.Config{Catalogue: d.Catalogue, Objects: d.Objects, Rate: int64(c.Rate), OlderThan: time.Hour, Findings: mostDamaged, Log: inv.log,
		Expanded: func(bytes int64) { progress.did(work{items: 1, bytes: bytes}) }}
	if c.Deep {
		counts, err := d.Catalogue.Counts(ctx)
		if err != nil {
			return err
		}
		cfg.Sample = 1
		progress.expect(work{items: counts.Files, bytes: counts.Bytes})
	}
	report, err := check.Run(ctx, cfg)
	if err != nil {
		return err
	}
	sum.Untold = report.Damage()
	for _, f := range report.Findings {
		if f.Kind.Damage() {
			sum.Untold--
		}
		if f.Segment > 0 && f.Kind.Damage() {
			sum.segments = append(sum.segments, f)
			continue
		}
		taken, err := r.Found(ctx, f)
		if err != nil {
			return err
		}
		if !taken && (f.Kind.Damage() || f.Kind == check.Unreadable) {
			sum.Other = append(sum.Other, f)
		}
	}
	return nil
}

// hashPartOf reads what may name a published item.
func hashPartOf(s string) (storepath.HashPart, error) {
	if len(s) == storepath.HashLen {
		return storepath.ParseHashPart(s)
	}
	if strings.HasPrefix(s, "/") {
		p, err := storepath.Parse(s)
		return p.HashPart(), err
	}
	b, err := storepath.ParseBase(s)
	if err != nil {
		return "", err
	}
	return b.HashPart(), nil
}

// mend lets r mend from the sources, as long as something is left. A source that fails is told, and the next one is tried.
func (c *repairCommand) mend(ctx context.Context, inv *invocation, spool string, r *repair.Repairer, sum *repairSummary) (unavailable bool, err error) {
	if len(r.Mendings()) == 0 {
		return false, nil
	}
	lacks := func(what string, err error) {
		unavailable = unavailable || codeOf(err) == exitUnavailable
		if len(sum.Sources) < 100 {
			sum.Sources = append(sum.Sources, what+": "+err.Error())
		}
	}
	for _, name := range c.Source {
		s, err := source.Open(ctx, name, source.Options{
			Items: r.Wanted(), Real: c.Real, State: os.Getenv("NIX_STATE_DIR"), Database: c.Database, ScanReferences: c.Scan, Derivations: true,
			Bucket: openBucket, Spool: spool, Log: inv.log, Refused: lacks,
		})
		if errors.Is(err, source.ErrUnknown) {
			return unavailable, err
		}
		if err != nil {
			lacks(name, err)
			continue
		}
		err = errors.Join(r.From(ctx, s.String(), s.Jobs(ctx)), s.Close())
		if broken, ok := errors.AsType[*repair.SourceError](err); ok && ctx.Err() == nil {
			lacks(broken.Source, broken.Err)
		} else if err != nil {
			return unavailable, fmt.Errorf("repair from %s: %w", s, err)
		}
		if !slices.ContainsFunc(r.Mendings(), func(m *repair.Mending) bool { return m.Result == repair.Damaged }) {
			break
		}
	}
	return unavailable, nil
}

// count sums up what became of the files.
func (s *repairSummary) count(r *repair.Repairer) {
	s.Mendings = append(r.Mendings(), s.feed...)
	s.Left = int64(len(s.Other)) + s.Untold
	for _, m := range s.Mendings {
		switch m.Result {
		case repair.Restored:
			s.Restored++
		case repair.Replaced:
			s.Replaced++
		case repair.Whole:
			s.Whole++
		case repair.Mendable:
			s.Mendable++
		case repair.Damaged:
			s.Left++
		}
	}
	if s.Mendings == nil {
		s.Mendings = []*repair.Mending{} // [] in JSON, and not null
	}
}

func (s *repairSummary) print(w io.Writer) {
	for _, m := range s.Mendings {
		fmt.Fprintf(w, "%s: %s\n  %s: %s\n", m.Result, m.Key, m.Kind, m.Detail)
		if len(m.Items) > 0 {
			fmt.Fprintf(w, "  item: %s\n", some(m.Items, int64(len(m.Items))))
		}
		switch m.Result {
		case repair.Replaced:
			fmt.Fprintf(w, "  from: %s, under the key %s\n", m.Source, m.NewKey)
		case repair.Restored, repair.Mendable:
			fmt.Fprintf(w, "  from: %s\n", m.Source)
		case repair.Damaged:
			for _, why := range m.Why {
				fmt.Fprintf(w, "  not from %s\n", why)
			}
			fmt.Fprintf(w, "  try: another source, or bring it back from a backup\n")
		}
	}
	for _, f := range s.Other {
		fmt.Fprintf(w, "%s: %s %s\n  %s\n  try: %s\n", f.Kind, f.Key, some(f.Items, int64(len(f.Items))), f.Detail, otherStep(f))
	}
	for _, e := range s.Sources {
		fmt.Fprintf(w, "source: %s\n", e)
	}
	if s.Untold > 0 {
		fmt.Fprintf(w, "%d more are damaged\n  try: the same command again\n", s.Untold)
	}
	if s.Replaced > 0 {
		fmt.Fprintf(w, "what was replaced is an upload that came to nothing\n  try: narfold check --remove-abandoned %s\n", s.flags.text())
	}
	seconds := time.Duration(s.Seconds * float64(time.Second)).Round(10 * time.Millisecond)
	if len(s.Mendings) == 0 && s.Left == 0 {
		fmt.Fprintf(w, "nothing is damaged, in %v\n", seconds)
		return
	}
	parts := []string{fmt.Sprintf("%d restored", s.Restored)}
	for _, p := range []struct {
		n    int64
		what string
	}{{s.Replaced, "replaced"}, {s.Whole, "found whole"}, {s.Mendable, "could be mended"}, {s.Left, "damaged still"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	fmt.Fprintf(w, "%s, in %v\n", strings.Join(parts, ", "), seconds)
}

// otherStep is the step to take about damage that no nar mends.
func otherStep(f *check.Finding) string {
	switch f.Kind {
	case check.Open:
		return "narfold import the references from where the item came"
	case check.Unreadable:
		return "look after the disk or the server; an object that is gone for good is mended when it was removed"
	}
	return "narfold import or push again the item that waits"
}

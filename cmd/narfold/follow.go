package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"narfold/herder/deployment"
	"narfold/herder/follow"
	"narfold/internal/storepath"
)

// followCommand takes what other substitute servers have.
type followCommand struct {
	deploymentFlags
	Once       bool     `help:"Make one round, tell what became of it, and end."`
	From       string   `placeholder:"URL" help:"Follow this substitute server instead of those of the configuration."`
	Key        []string `placeholder:"FILE" sep:"none" help:"With --from: a public key or a Guix acl; only narinfos that one of these signed are taken. May be given several times."`
	FeedKey    string   `placeholder:"FILE" help:"With --from: the key of its change feed; take everything that it says."`
	Item       []string `placeholder:"ITEM" help:"With --from: take these: hash parts, names or store paths. May be given several times."`
	StorePaths string   `placeholder:"FILE" help:"With --from: take what a list names: store paths, one a line, or a Guix manifest; file or URL, compressed too."`
}

// Help is shown by --help.
func (followCommand) Help() string {
	return `Asks substitute servers what they have, takes what is not here with all that it references, checks signatures and hashes, and
publishes it with the signatures that it came with. The servers are those of [[upstream]] in the configuration, or the one of
--from. What is wrong with an item, or with what it references, is told, and the others go on. "narfold herder run" does the same
beside serving, for the servers of its configuration; this is for scripts and timers, with --once, or for a process of its own.
What is here already is not asked for, so that a round that was interrupted is simply made again.

Exit codes: 0 all is here, 1 some items were refused, 3 a server or the store is unavailable, or another process follows the same
server now, 4 a change feed contradicts what it said before.

Examples:
  narfold follow --config /etc/narfold.toml --once --json
  narfold follow --state /var/lib/narfold --from https://cache.example.org --key cache.pub --store-paths paths.xz --once
  narfold follow --state /var/lib/narfold --from https://herder.example.org --key farm.pub --feed-key feed.pub`
}

// Validate is called by the parser.
func (c *followCommand) Validate() error {
	if c.From == "" && (len(c.Key) > 0 || len(c.Item) > 0 || c.FeedKey != "" || c.StorePaths != "") {
		return usagef("--key, --feed-key, --item and --store-paths go with --from")
	}
	return nil
}

// followSummary is the answer.
type followSummary struct {
	Upstreams []followed `json:"upstreams"`
}

// followed is a round, with what ended it early.
type followed struct {
	follow.Summary
	Error string `json:"error,omitempty"`
}

// Run follows.
func (c *followCommand) Run(ctx context.Context, inv *invocation) (err error) {
	cfg, err := c.configuration()
	if err != nil {
		return err
	}
	d, err := c.openAs(ctx, inv, cfg, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	all, err := followers(d)
	if err != nil {
		return c.inConfig(err)
	}
	if c.Once {
		return c.once(ctx, inv, all)
	}
	var g errgroup.Group
	for _, f := range all {
		g.Go(func() error { return f.Run(ctx) })
	}
	return g.Wait()
}

// configuration is what the file and the flags say together.
func (c *followCommand) configuration() (deployment.Config, error) {
	cfg, err := c.load()
	if err != nil {
		return cfg, err
	}
	if c.From != "" {
		u := deployment.Upstream{URL: c.From, Items: c.Item, List: c.StorePaths, FeedKey: c.FeedKey}
		for _, file := range append([]*string{&u.FeedKey}, listFile(&u)...) {
			if err := makeAbsolute(file); err != nil {
				return cfg, err
			}
		}
		for _, name := range c.Key {
			if err := makeAbsolute(&name); err != nil {
				return cfg, err
			}
			u.Trust = append(u.Trust, name)
		}
		cfg.Upstreams = []deployment.Upstream{u}
		if err := cfg.Validate(); err != nil {
			return cfg, hint(usagef("--from: %v", err), "narfold follow --help") // the file was right, so it is a flag
		}
	}
	if len(cfg.Upstreams) == 0 {
		return cfg, hint(usagef("no server to follow is named"), "--from URL --key FILE, or [[upstream]] in the file for --config")
	}
	return cfg, nil
}

// listFile returns the list of u if that is a file.
func listFile(u *deployment.Upstream) []*string {
	if strings.Contains(u.List, "://") {
		return nil
	}
	return []*string{&u.List}
}

func makeAbsolute(name *string) (err error) {
	if *name != "" {
		*name, err = filepath.Abs(*name)
	}
	return err
}

// once makes a round of each, one after the other.
func (c *followCommand) once(ctx context.Context, inv *invocation, all []*follow.Follower) error {
	var (
		answer followSummary
		failed []error
		left   int64
	)
	for _, f := range all {
		sum, err := f.Once(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		one := followed{Summary: sum}
		if err != nil {
			one.Error = err.Error()
			failed = append(failed, err)
		}
		left += sum.Refused + sum.Differs
		answer.Upstreams = append(answer.Upstreams, one)
	}
	if err := inv.answer(&answer, answer.print); err != nil {
		return err
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	if left > 0 {
		return exitRefused
	}
	return nil
}

func (s *followSummary) print(w io.Writer) {
	for _, u := range s.Upstreams {
		for _, f := range u.Failures {
			fmt.Fprintf(w, "refused: %s: %s\n", f.Item, f.Error)
		}
		if n := u.Refused + u.Differs - int64(len(u.Failures)); n > 0 {
			fmt.Fprintf(w, "refused: %d more\n", n)
		}
		fmt.Fprintf(w, "%s: %d wanted, %d published, %d refused, %d with another content than published; %s of nars, %s stored, in %s\n",
			u.Upstream, u.Wanted, u.Published, u.Refused, u.Differs, sizeText(u.NarBytes), sizeText(u.Stored), time.Duration(u.Seconds*float64(time.Second)).Round(10*time.Millisecond))
	}
}

// followers makes those who follow the upstreams of a configuration.
func followers(d *deployment.Deployment) (all []*follow.Follower, err error) {
	if len(d.Config.Upstreams) == 0 {
		return nil, nil
	}
	places, err := d.FollowFolder()
	if err != nil {
		return nil, err
	}
	for i := range d.Config.Upstreams {
		u := &d.Config.Upstreams[i]
		key := fmt.Sprintf("upstream[%d]", i)
		trusted, feedKey, err := d.UpstreamKeys(u, key)
		if err != nil {
			return nil, err
		}
		p := d.Publisher()
		p.Keys = trusted
		f, err := follow.New(follow.Parts{
			Upstream: follow.Upstream{URL: u.URL, Keys: trusted, Items: u.Items, List: u.List, FeedKey: feedKey, OnDemand: u.OnDemand,
				Every: u.Interval(), Rate: int64(u.Rate), Place: filepath.Join(places, follow.PlaceName(u.URL))},
			To:      &reserving{to: p, room: d.Room(), missing: d.Catalogue.Missing},
			Missing: d.Catalogue.Missing,
			Spool:   p.Spool,
			Log:     d.Log,
		})
		if errors.Is(err, follow.ErrKeys) {
			err = deployment.Mistake(key+".trust", err)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// wanting returns what has items brought that users ask for in vain, or nil if no upstream is for that.
func wanting(all []*follow.Follower) func(storepath.HashPart) <-chan struct{} {
	all = slices.DeleteFunc(slices.Clone(all), func(f *follow.Follower) bool { return !f.OnDemand })
	if len(all) == 0 {
		return nil
	}
	return func(h storepath.HashPart) (settled <-chan struct{}) {
		for _, f := range all {
			// Of several the first that brings it now is waited for.
			if c := f.Want(h); settled == nil {
				settled = c
			}
		}
		return settled
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"narfold/herder/publish"
	"narfold/herder/push"
	"narfold/herder/source"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/publishapi"
)

// pushCommand sends store items to a herder on another machine.
type pushCommand struct {
	To          string        `required:"" placeholder:"URL" help:"The herder, such as https://cache.example.org."`
	TokenFile   string        `required:"" placeholder:"FILE" help:"A file with a token for publishing, as narfold token create makes it."`
	Closure     bool          `help:"Push also what the items reference, and what that references."`
	Item        []string      `placeholder:"ITEM" help:"Push these items of a cache: hash parts, names or store paths. May be given several times."`
	StorePaths  string        `placeholder:"FILE" help:"A list of store paths, one a line, file or URL, .xz too: push these items of a cache."`
	Derivations bool          `help:"Push build recipes (.drv) of a store too."`
	Wait        bool          `help:"Have the herder keep items whose references are missing until these come, instead of refusing them."`
	Compression []string      `placeholder:"METHOD" help:"Send each nar in this compression: zstd, lzip, gzip, xz or none. May be given several times. Default: as it came, or zstd."`
	Level       string        `enum:"fastest,default,best," default:"" placeholder:"LEVEL" help:"How hard to compress: fastest, default or best."`
	Real        string        `placeholder:"DIR" help:"Where a store's files really are, if not in its store directory."`
	Database    string        `placeholder:"FILE" help:"A store's database, if not in its usual place."`
	Scan        bool          `name:"scan-references" help:"A store has no database: find references by reading its files."`
	Workers     int           `placeholder:"N" help:"How many nars are read and compressed at once. Default: one for each processor."`
	Uploads     int           `placeholder:"N" default:"8" help:"How many items are sent at once. Default: ${default}."`
	Patience    time.Duration `placeholder:"DURATION" default:"5m" help:"How long to try again while the herder cannot be reached or has no room. Default: ${default}."`
	Spool       string        `placeholder:"DIR" help:"Where compressed nars lie until they are sent, up to some GiB. Default: the directory for temporary files."`
	PlainHTTP   bool          `name:"allow-plain-http" help:"Send the token over http to another machine: only for networks that encrypt underneath."`
	Source      []string      `arg:"" help:"What to push."`
}

// Help is shown by --help.
func (pushCommand) Help() string {
	return `Publishes store items on the herder at URL, which signs them. A SOURCE is whatever narfold import takes: store items, a store, or a
binary cache, whose narinfos keep their signatures. The herder is asked first what it lacks; that is read, compressed on
all processors, and sent, references first. What was sent or published before is not sent again, so that a push that was
interrupted is simply run again.

Exit codes: 0 all published, 1 some were refused or the token was, 3 the herder or the source is unavailable.

Examples:
  narfold push --to https://cache.example.org --token-file ci.token --closure ./result
  narfold push --to http://127.0.0.1:8080 --token-file ci.token /nix/store/...-hello-2.12.1
  narfold push --to https://cache.example.org --token-file ci.token --closure --item 7rjj5n... file:///srv/cache`
}

// pushSummary is the answer.
type pushSummary struct {
	Published int64   `json:"published"`
	Present   int64   `json:"present"`
	Waiting   int64   `json:"waiting"`
	Refused   int64   `json:"refused"`
	Differs   int64   `json:"differs"`
	NarBytes  int64   `json:"nar_bytes"` // of what was published or waits
	Sent      int64   `json:"sent_bytes"`
	Seconds   float64 `json:"seconds"`
	// Failures are the first hundred reasons.
	Failures []importFailure `json:"failures,omitempty"`
}

// Run pushes.
func (c *pushCommand) Run(ctx context.Context, inv *invocation) (err error) {
	client, err := c.client(inv)
	if err != nil {
		return err
	}
	p, err := c.pusher(client)
	if err != nil {
		return err
	}
	if p.Spooler.Dir, err = os.MkdirTemp(c.Spool, "narfold-push-"); err != nil {
		return fmt.Errorf("make spool: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.Spooler.Dir)) }()
	var (
		sum   pushSummary
		tally sync.Mutex // what a source leaves out is told beside what was sent
	)
	begun := time.Now()
	sources, err := source.OpenAll(ctx, c.Source, source.Options{
		Items: c.Item, Closure: c.Closure, Derivations: c.Derivations, StorePaths: c.StorePaths,
		Real: c.Real, Database: c.Database, ScanReferences: c.Scan,
		Bucket: openBucket, Spool: p.Spooler.Dir, Log: inv.log,
		Refused: func(item string, err error) {
			tally.Lock()
			defer tally.Unlock()
			sum.refuse(item, err)
		},
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range sources {
			err = errors.Join(err, s.Close())
		}
	}()
	progress := inv.progress("push")
	defer progress.stop()
	for _, s := range sources {
		err := c.pushFrom(ctx, p, s, progress, func(r publish.Result) {
			tally.Lock()
			defer tally.Unlock()
			sum.add(r)
		})
		if err != nil {
			return c.explain(fmt.Errorf("push %s to %s: %w", s, c.To, err))
		}
	}
	progress.stop()
	sum.Seconds = time.Since(begun).Seconds()
	if err := inv.answer(&sum, sum.print); err != nil {
		return err
	}
	if sum.Refused+sum.Differs > 0 {
		return exitRefused
	}
	return nil
}

func (c *pushCommand) client(inv *invocation) (*publishapi.Client, error) {
	token, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return nil, hint(fmt.Errorf("read token: %w", err), "narfold token create --scope publish --out FILE, where the herder runs")
	}
	client := &publishapi.Client{URL: c.To, Token: strings.TrimSpace(string(token)), AllowPlain: c.PlainHTTP, Patience: c.Patience, Log: inv.log}
	if client.Patience <= 0 {
		client.Patience = -1
	}
	switch err := client.Check(); {
	case errors.Is(err, publishapi.ErrPlain):
		return nil, hint(usagef("--to: %v", err), "--allow-plain-http, if the network between encrypts underneath")
	case errors.Is(err, publishapi.ErrDenied):
		return nil, fmt.Errorf("read token in %s: %w", c.TokenFile, err)
	case err != nil:
		return nil, usagef("--to: %v", err)
	}
	return client, nil
}

func (c *pushCommand) pusher(to push.Herder) (*push.Pusher, error) {
	p := &push.Pusher{To: to, Wait: c.Wait, Parallel: c.Uploads}
	if c.Workers < 0 {
		return nil, usagef("--workers: want a number from 1")
	}
	if c.Uploads < 1 {
		return nil, usagef("--uploads: want a number from 1")
	}
	methods, err := push.Compressions(c.Compression)
	if err != nil {
		return nil, usagef("--compression: %v", err)
	}
	level := map[string]compress.Level{"": compress.Default, "fastest": compress.Fastest, "default": compress.Default, "best": compress.Best}[c.Level]
	p.Spooler = publish.Spooler{Compressions: methods, Options: compress.Options{Level: level, Workers: 1}, Workers: c.Workers}
	return p, nil
}

// explain adds what to do about an error of all items.
func (c *pushCommand) explain(err error) error {
	switch {
	case errors.Is(err, publishapi.ErrScope), errors.Is(err, publishapi.ErrDenied):
		return hint(err, "narfold token list, where the herder runs; narfold token create --scope publish makes another")
	case errors.Is(err, publishapi.ErrFull):
		return hint(err, "the same again when there is room: what was sent is not sent again")
	case errors.Is(err, publishapi.ErrUnavailable):
		return hint(err, "the same again, or a longer --patience: what was sent is not sent again")
	}
	return err
}

func (c *pushCommand) pushFrom(ctx context.Context, p *push.Pusher, s source.Source, progress *progress, tell func(publish.Result)) error {
	expected := false
	jobs := func(yield func(publish.Job, error) bool) {
		for job, err := range s.Jobs(ctx) {
			if !expected && err == nil {
				expected = true
				items, _ := s.Len()
				bytes, _ := s.NarBytes()
				progress.expect(work{items: items, bytes: bytes})
			}
			if !yield(job, err) {
				return
			}
		}
	}
	return p.Run(ctx, jobs, func(r publish.Result) {
		progress.did(work{items: 1, bytes: r.NarSize})
		tell(r)
	})
}

func (s *pushSummary) add(r publish.Result) {
	s.Sent += r.Stored
	switch {
	case r.Err != nil && r.Verdict == catalog.Differs:
		s.Differs++
		s.fail(r.Path.String(), r.Err)
	case r.Err != nil:
		s.refuse(r.Path.String(), r.Err)
	case r.Verdict == catalog.Present:
		s.Present++
	case r.Verdict == catalog.Waiting:
		s.Waiting++
		s.NarBytes += r.NarSize
	default:
		s.Published++
		s.NarBytes += r.NarSize
	}
}

func (s *pushSummary) refuse(item string, err error) {
	s.Refused++
	s.fail(item, err)
}

func (s *pushSummary) fail(item string, err error) {
	if len(s.Failures) < 100 {
		s.Failures = append(s.Failures, importFailure{item, err.Error()})
	}
}

func (s *pushSummary) print(w io.Writer) {
	for _, f := range s.Failures {
		fmt.Fprintf(w, "refused: %s\n", f.Error)
	}
	if n := s.Refused + s.Differs - int64(len(s.Failures)); n > 0 {
		fmt.Fprintf(w, "refused: %d more\n", n)
	}
	parts := []string{fmt.Sprintf("%d published", s.Published)}
	for _, p := range []struct {
		n    int64
		what string
	}{{s.Present, "there already"}, {s.Waiting, "waiting for references"}, {s.Refused, "refused"}, {s.Differs, "with another content than published"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	fmt.Fprintf(w, "%s; %s of nars, %s sent, in %s\n", strings.Join(parts, ", "), sizeText(s.NarBytes), sizeText(s.Sent), time.Duration(s.Seconds*float64(time.Second)).Round(10*time.Millisecond))
}

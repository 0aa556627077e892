package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"narfold/herder/publish"
	"narfold/herder/push"
	"narfold/internal/compress"
	"narfold/internal/publishapi"
)

// pushCommand sends store items to a herder on another machine.
type pushCommand struct {
	To        string        `required:"" placeholder:"URL" help:"The herder, such as https://cache.example.org."`
	TokenFile string        `required:"" placeholder:"FILE" help:"A file with a token for publishing, as narfold token create makes it."`
	Uploads   int           `placeholder:"N" default:"8" help:"How many items are sent at once. Default: ${default}."`
	Patience  time.Duration `placeholder:"DURATION" default:"5m" help:"How long to try again while the herder cannot be reached or has no room. Default: ${default}."`
	Spool     string        `placeholder:"DIR" help:"Where compressed nars lie until they are sent, up to some GiB. Default: the directory for temporary files."`
	PlainHTTP bool          `name:"allow-plain-http" help:"Send the token over http to another machine: only for networks that encrypt underneath."`
	sourceFlags
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
	tally
	Sent int64 `json:"sent_bytes"`
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
	var sum pushSummary
	count := &tallying{t: &sum.tally}
	begun := time.Now()
	sources, err := c.open(ctx, inv, p.Spooler.Dir, false, count.refuse)
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
	client.Waiting = progress.waits
	for _, s := range sources {
		err := p.Run(ctx, c.jobs(ctx, s, progress), func(r publish.Result) {
			progress.did(work{items: 1, bytes: r.NarSize})
			count.add(r)
		})
		if err != nil {
			return c.explain(fmt.Errorf("push %s to %s: %w", s, c.To, err))
		}
	}
	progress.stop()
	sum.Seconds, sum.Sent = time.Since(begun).Seconds(), sum.stored
	if err := inv.answer(&sum, func(w io.Writer) { sum.print(w, "sent") }); err != nil {
		return err
	}
	return sum.verdict()
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
	if c.Uploads < 1 {
		return nil, usagef("--uploads: want a number from 1")
	}
	p.Spooler = publish.Spooler{Compressions: c.methods, Options: compress.Options{Level: levels[c.Level], Workers: 1}, Workers: c.Workers}
	return p, nil
}

// explain adds what to do about an error of all items.
func (c *pushCommand) explain(err error) error {
	switch {
	case errors.Is(err, publishapi.ErrScope), errors.Is(err, publishapi.ErrDenied):
		return hint(err, "narfold token list, where the herder runs; narfold token create --scope publish makes another")
	case errors.Is(err, publishapi.ErrFull):
		return hint(err, "make room there, and then the same again: what was sent is not sent again")
	case errors.Is(err, publishapi.ErrBusy):
		return hint(err, "the same again with --uploads 1, or a longer --patience: what was sent is not sent again")
	case errors.Is(err, publishapi.ErrUnavailable):
		return hint(err, "the same again, or a longer --patience: what was sent is not sent again")
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"narfold/herder/deployment"
	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/source"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore/s3"
	"narfold/internal/storepath"
)

// importCommand brings store items into a deployment.
type importCommand struct {
	deploymentFlags
	Key         []string `placeholder:"FILE" help:"A key. A secret key signs what is imported; a public key or a Guix acl is trusted, and then narinfos must be signed by one. May be given several times."`
	Closure     bool     `help:"Import also what the items reference, and what that references."`
	Item        []string `placeholder:"ITEM" help:"Import these items of a cache: hash parts, names or store paths. May be given several times."`
	StorePaths  string   `placeholder:"FILE" help:"A list of store paths, one a line, file or URL, .xz too: import these items of a cache."`
	Derivations bool     `help:"Import build recipes (.drv) of a store too."`
	Wait        bool     `help:"Keep items whose references are missing until these come, instead of refusing them."`
	Compression []string `placeholder:"METHOD" help:"Publish each nar in this compression: zstd, lzip, gzip, xz or none. May be given several times. Default: as it came, or zstd."`
	Level       string   `enum:"fastest,default,best," default:"" placeholder:"LEVEL" help:"How hard to compress: fastest, default or best."`
	Sign        bool     `help:"Sign narinfos of caches too, beside the signatures that they have."`
	Real        string   `placeholder:"DIR" help:"Where a store's files really are, if not in its store directory."`
	Database    string   `placeholder:"FILE" help:"A store's database, if not in its usual place."`
	Scan        bool     `name:"scan-references" help:"A store has no database: find references by reading its files."`
	Workers     int      `placeholder:"N" help:"How many nars are read and compressed at once. Default: one for each processor."`
	Source      []string `arg:"" help:"What to import from."`
}

// Help is shown by --help.
func (importCommand) Help() string {
	return `A SOURCE is a binary cache as "nix copy --to" writes it (a directory, file://, http(s):// or s3://bucket/prefix?endpoint=...), the
cache directory of "guix publish", a store directory such as /gnu/store or /nix/store, store items, or a narinfo with its nar
beside it. Every nar is expanded and hashed before it is published; an item is published when all its references are. What is
there already is not read again, so that an import that was interrupted is simply run again.

Items of a store are signed with the deployment's own key, which is made at the first import. Narinfos of a cache keep their
signatures, and are signed too if --sign or a secret --key is given.

Exit codes: 0 all published, 1 some were refused, 3 the source or the store is unavailable.

Examples:
  narfold import --state /var/lib/narfold --closure /nix/store/...-hello-2.12.1
  narfold import --state /var/lib/narfold --key cache.pub file:///srv/cache
  narfold import --state /var/lib/narfold --key farm.pub --closure --item 7rjj5n... https://cache.example.org
  narfold import --config narfold.toml /gnu/store`
}

// importSummary is the answer.
type importSummary struct {
	Published int64   `json:"published"`
	Present   int64   `json:"present"`
	Waiting   int64   `json:"waiting"`
	Refused   int64   `json:"refused"`
	Differs   int64   `json:"differs"`
	NarBytes  int64   `json:"nar_bytes"`
	Stored    int64   `json:"stored_bytes"`
	Seconds   float64 `json:"seconds"`
	// Failures are the first hundred reasons.
	Failures []importFailure `json:"failures,omitempty"`
	NewKey   string          `json:"new_key,omitempty"`
}

type importFailure struct {
	Item  string `json:"item"`
	Error string `json:"error"`
}

// Run imports.
func (c *importCommand) Run(ctx context.Context, inv *invocation) (err error) {
	d, err := c.open(ctx, inv, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	p := d.Publisher()
	if err := c.compression(p); err != nil {
		return err
	}
	secret := false
	if len(c.Key) > 0 {
		if p.Keys, err = keyring.Load(d.Keys.Host, c.Key...); err != nil {
			return hint(err, "narfold key public FILE, which tells what is wrong with a key")
		}
		secret = p.Keys.Signs(storepath.Nix)
	}
	var sum importSummary
	begun := time.Now()
	sources, err := source.OpenAll(ctx, c.Source, source.Options{
		Items: c.Item, Closure: c.Closure, Derivations: c.Derivations, StorePaths: c.StorePaths,
		Real: c.Real, State: os.Getenv("NIX_STATE_DIR"), Database: c.Database, ScanReferences: c.Scan,
		Bucket: openBucket, Spool: p.Spool, Sign: c.Sign || secret, Log: inv.log,
		Refused: func(item string, err error) { sum.refuse(item, err) },
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range sources {
			err = errors.Join(err, s.Close())
		}
	}()
	progress := inv.progress("import")
	defer progress.stop()
	for _, s := range sources {
		if !secret {
			if sum.NewKey, err = c.ensureKey(d, p, s, sum.NewKey); err != nil {
				return err
			}
		}
		if err := c.importFrom(ctx, p, s, progress, &sum); err != nil {
			return fmt.Errorf("import %s: %w", s, err)
		}
	}
	progress.stop()
	sum.Seconds = time.Since(begun).Seconds()
	if err := inv.answer(sum, sum.print); err != nil {
		return err
	}
	if sum.Refused+sum.Differs > 0 {
		return exitRefused
	}
	return nil
}

// ensureKey makes the deployment's key if items that are dumped here would not be signed.
func (c *importCommand) ensureKey(d *deployment.Deployment, p *publish.Publisher, s source.Source, before string) (string, error) {
	kind := s.Dir()
	if _, cache := s.(source.LogSource); kind == "" || cache && !c.Sign {
		return before, nil
	}
	made, err := d.EnsureKey(kind)
	if err != nil || made == "" {
		return before, err
	}
	if len(c.Key) == 0 {
		p.Keys = d.Keys
		return made, nil
	}
	// Trusted keys were given: they stay, and the deployment's own keys sign.
	p.Keys, err = d.KeysWith(c.Key)
	return made, err
}

func (c *importCommand) compression(p *publish.Publisher) error {
	if c.Workers < 0 {
		return usagef("--workers: want a number from 1")
	}
	p.Workers = c.Workers
	for _, s := range c.Compression {
		m, err := compress.ParseMethod(s)
		if err != nil || !m.Writable() {
			return usagef("--compression: %q: want zstd, lzip, gzip, xz or none", s)
		}
		p.Compressions = append(p.Compressions, m)
	}
	switch c.Level {
	case "fastest":
		p.Options.Level = compress.Fastest
	case "best":
		p.Options.Level = compress.Best
	case "default":
		p.Options.Level = compress.Default
	}
	return nil
}

func (c *importCommand) importFrom(ctx context.Context, p *publish.Publisher, s source.Source, progress *progress, sum *importSummary) error {
	expected := false
	jobs := func(yield func(publish.Job, error) bool) {
		for job, err := range s.Jobs(ctx) {
			if !expected && err == nil {
				expected = true
				items, _ := s.Len()
				bytes, _ := s.NarBytes()
				progress.expect(work{items: items, bytes: bytes})
			}
			job.Wait = c.Wait
			if !yield(job, err) {
				return
			}
		}
	}
	return p.Run(ctx, jobs, func(r publish.Result) {
		progress.did(work{items: 1, bytes: r.NarSize})
		sum.add(r)
	})
}

func (s *importSummary) add(r publish.Result) {
	s.NarBytes += r.NarSize
	s.Stored += r.Stored
	s.Published += int64(len(r.Released))
	s.Waiting -= int64(len(r.Released))
	switch {
	case r.Err != nil && r.Verdict == catalog.Differs:
		s.Differs++
		s.fail(r.Path.String(), r.Err)
	case r.Err != nil:
		s.refuse(r.Path.String(), r.Err)
	case r.Verdict == catalog.Published:
		s.Published++
	case r.Verdict == catalog.Present:
		s.Present++
	case r.Verdict == catalog.Waiting:
		s.Waiting++
	}
}

func (s *importSummary) refuse(item string, err error) {
	s.Refused++
	s.fail(item, err)
}

func (s *importSummary) fail(item string, err error) {
	if len(s.Failures) < 100 {
		s.Failures = append(s.Failures, importFailure{item, err.Error()})
	}
}

func (s *importSummary) print(w io.Writer) {
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
	fmt.Fprintf(w, "%s; %s of nars, %s stored, in %s\n", strings.Join(parts, ", "), sizeText(s.NarBytes), sizeText(s.Stored), time.Duration(s.Seconds*float64(time.Second)).Round(10*time.Millisecond))
	if s.NewKey != "" {
		fmt.Fprintf(w, "a signing key was made; users authorize %s\n", s.NewKey)
	}
}

// openBucket opens a bucket to import from, with the credentials of the environment, as other tools for S3 do.
func openBucket(ctx context.Context, at source.S3Location) (source.Bucket, error) {
	cfg := s3.Config{Endpoint: at.Endpoint, Bucket: at.Bucket, Prefix: at.Prefix, Region: at.Region,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN")}
	if at.PathStyle {
		cfg.Addressing = s3.Path
	}
	store, err := s3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", at, err)
	}
	return store, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"narfold/herder/deployment"
	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/source"
	"narfold/internal/objstore/s3"
)

// importCommand brings store items into a deployment.
type importCommand struct {
	deploymentFlags
	Key  []string `placeholder:"FILE" sep:"none" help:"A key. A secret key signs what is imported; a public key or a Guix acl is trusted, and then narinfos must be signed by one. May be given several times."`
	Sign bool     `help:"Sign narinfos of caches too, beside the signatures that they have."`
	sourceFlags
}

// Help is shown by --help.
func (importCommand) Help() string {
	return `A SOURCE is a binary cache as "nix copy --to" writes it (a directory, file://, http(s):// or s3://bucket/prefix?endpoint=...), the
cache directory of "guix publish", the database of a nar-herder with --nars, a store directory such as /gnu/store or /nix/store,
store items, or a narinfo with its nar beside it. Every nar is expanded and hashed before it is published; an item is published when all its references are. What is
there already is not read again, so that an import that was interrupted is simply run again. It ends before it would use up
the room that publish.reserve of the configuration keeps free on the disk, 1 GiB.

Items of a store are signed with the deployment's own key, which is made at the first import. Narinfos of a cache keep their
signatures, and are signed too if --sign or a secret --key is given.

Exit codes: 0 all published, 1 some were refused, 3 the source or the store is unavailable, or there is no room.

Examples:
  narfold import --state /var/lib/narfold --closure /nix/store/...-hello-2.12.1
  narfold import --state /var/lib/narfold --key cache.pub file:///srv/cache
  narfold import --state /var/lib/narfold --key farm.pub --closure --item 7rjj5n... https://cache.example.org
  narfold import --state /var/lib/narfold --key farm.pub --nars /srv/nars /var/lib/nar-herder/nar_herder.db
  narfold import --config narfold.toml /gnu/store`
}

// importSummary is the answer.
type importSummary struct {
	tally
	Stored int64  `json:"stored_bytes"`
	NewKey string `json:"new_key,omitempty"`
}

// Run imports.
func (c *importCommand) Run(ctx context.Context, inv *invocation) (err error) {
	d, err := c.deploymentFlags.open(ctx, inv, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	p := d.Publisher()
	p.Workers = c.Workers
	p.Compressions = append(p.Compressions, c.methods...)
	if level, ok := levels[c.Level]; ok {
		p.Options.Level = level
	}
	secret := false
	if len(c.Key) > 0 {
		if p.Keys, err = keyring.Load(d.Keys.Host, c.Key...); err != nil {
			return hint(err, "narfold key public FILE, which tells what is wrong with a key")
		}
		secret = p.Keys.HasSecret()
	}
	var sum importSummary
	count := &tallying{t: &sum.tally}
	begun := time.Now()
	sources, err := c.sourceFlags.open(ctx, inv, p.Spool, c.Sign || secret, count.refuse)
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
	to := &reserving{to: p, room: d.Room(), missing: d.Catalogue.Missing}
	for _, s := range sources {
		if !secret {
			if sum.NewKey, err = c.ensureKey(d, p, s, sum.NewKey); err != nil {
				return err
			}
		}
		err := to.Run(ctx, c.jobs(ctx, s, progress), func(r publish.Result) {
			progress.did(work{items: 1, bytes: r.NarSize})
			count.add(r)
		})
		if err != nil {
			return fmt.Errorf("import %s: %w", s, err)
		}
	}
	progress.stop()
	sum.Seconds, sum.Stored = time.Since(begun).Seconds(), sum.stored
	if err := inv.answer(&sum, sum.print); err != nil {
		return err
	}
	return sum.verdict()
}

func (s *importSummary) print(w io.Writer) {
	s.tally.print(w, "stored")
	if s.NewKey != "" {
		fmt.Fprintf(w, "a signing key was made; users authorize %s\n", s.NewKey)
	}
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

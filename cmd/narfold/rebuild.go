package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/herder/rebuild"
	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/nixkey"
)

// rebuildCommand makes a catalogue from the object store.
type rebuildCommand struct {
	deploymentFlags
	FeedKey string `placeholder:"FILE" help:"The public key of the change feed, if keys/ is lost too."`
}

// Help is shown by --help.
func (rebuildCommand) Help() string {
	return `Makes the catalogue anew from the object store alone, if it is lost and there is no backup: from the copies of the change feed
that narfold herder run keeps there, below feed/. The signature of its head, and the chain from there to the first record, prove
that nothing is missing or changed. Then it is compared with the objects, as narfold check does. The feed goes on where it ended.

What no feed tells is lost: tokens, items that waited for references, and what was published in the last seconds before the loss
or while no herder ran. Objects of such items are told as unaccounted for, until they are imported again; so are those of items that
were withdrawn, and can be brought back only by publishing them again.

Exit codes, as those of check: 0 all is well, 1 refused, or there are objects that nothing accounts for, 3 the object store is
unavailable, 4 the feed is damaged, or an object that it names is missing.

Examples:
  narfold rebuild --state /var/lib/narfold
  narfold rebuild --config narfold.toml --feed-key feed.pub`
}

// Run rebuilds.
func (c *rebuildCommand) Run(ctx context.Context, inv *invocation) (err error) {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	key, err := deployment.FeedPublic(cfg, c.FeedKey)
	if errors.Is(err, deployment.ErrNoFeedKey) {
		return hint(err, "narfold rebuild --feed-key FILE; FILE is what the herder answered at /feed/key.pub, from somebody who kept it")
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(cfg.State, "catalogue.db")); err == nil {
		return hint(fmt.Errorf("rebuild the catalogue of %s: %w", cfg.State, catalog.ErrPresent), "narfold check "+c.text()+", which tells what is wrong with it")
	}
	report, held, err := c.make(ctx, inv, cfg, key)
	switch {
	case errors.Is(err, rebuild.ErrNoFeed):
		return hint(err, "narfold restore with a backup, or narfold import of where the items came from")
	case errors.Is(err, catalog.ErrInUse):
		return hint(err, "again when the herder is stopped and no other command runs")
	case err != nil:
		return c.inConfig(err)
	}
	d, err := c.openAs(ctx, inv, cfg, false)
	if err != nil {
		return fmt.Errorf("the catalogue is rebuilt, and the deployment cannot be opened: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	found, err := check.Run(ctx, check.Config{Catalogue: d.Catalogue, Objects: d.Objects, Log: inv.log})
	if err != nil && found.Damage() == 0 {
		return fmt.Errorf("the catalogue is rebuilt, and cannot be compared with the objects: %w", err)
	}
	answer := struct {
		Rebuilt   rebuild.Report  `json:"rebuilt"`
		Catalogue sqlite.Contents `json:"catalogue"`
		Check     check.Report    `json:"check"`
	}{report, held, found}
	err = inv.answer(answer, func(w io.Writer) {
		checkText{found, d.Root, c.deploymentFlags}.print(w)
		if found.Found[check.Unaccounted] > 0 {
			fmt.Fprintf(w, "objects that are unaccounted for came after the last copy of the feed, if nothing else uses the store\n  try: their imports and pushes again, before check --remove-unknown\n")
		}
		fmt.Fprintf(w, "rebuilt from %d records of feed %s: %s, %d logs\n", report.Records, report.Origin, contentsText(held), report.Logs)
		fmt.Fprintf(w, "tokens are not in the feed: make them anew with narfold token new\n")
	})
	if err != nil {
		return err
	}
	return verdictOf(&found)
}

// make makes the catalogue in a folder of its own, and puts it in its place when it is whole.
func (c *rebuildCommand) make(ctx context.Context, inv *invocation, cfg deployment.Config, key nixkey.PublicKey) (r rebuild.Report, held sqlite.Contents, err error) {
	d, err := deployment.OpenObjects(ctx, cfg, inv.log)
	if err != nil {
		return r, held, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	folder, err := os.MkdirTemp(cfg.State, "rebuild-")
	if err != nil {
		return r, held, fmt.Errorf("make a folder for the new catalogue: %w", err)
	}
	defer os.RemoveAll(folder)
	progress := inv.progress("rebuild")
	defer progress.stop()
	const passes = 4
	last := int64(0)
	fresh := filepath.Join(folder, "catalogue.db")
	r, err = rebuild.Run(ctx, d.Objects, key, fresh, func(records, of int64) {
		if last == 0 {
			progress.expect(work{items: passes * of})
		}
		if records < last { // another pass
			last = 0
		}
		progress.did(work{items: records - last})
		last = max(records, 1)
	})
	if err != nil {
		return r, held, err
	}
	held, _, err = deployment.Restore(ctx, cfg, fresh, false)
	return r, held, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
)

// backupCommand copies the catalogue of a deployment.
type backupCommand struct {
	deploymentFlags
	File string `arg:"" help:"The new file. One that is there already is not overwritten."`
}

// Help is shown by --help.
func (backupCommand) Help() string {
	return `Copies the catalogue, as it is at one moment, into a new file that other accounts cannot read, and reads the copy again. The
deployment may be in use meanwhile. The file has what is published, what waits, and the tokens (as hashes). It has no objects and
no keys: copy objects/, or let the bucket keep versions, after the catalogue, so that everything in the copy has its objects;
and keep a copy of keys/ where nobody else can read it.

Exit codes: 0 done, 1 there is a file already, 3 there is no room, 4 the catalogue is damaged.

Examples:
  narfold backup --state /var/lib/narfold /backup/catalogue-2026-11-21.db
  narfold backup --config narfold.toml --json /backup/catalogue.db`
}

// Run copies.
func (c *backupCommand) Run(ctx context.Context, inv *invocation) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	held, err := deployment.Backup(ctx, cfg, c.File)
	if errors.Is(err, fs.ErrExist) {
		return hint(err, "another name: backups are not overwritten")
	}
	if err != nil {
		return c.openError(cfg, err)
	}
	answer := struct {
		sqlite.Contents
		File string `json:"file"`
	}{held, c.File}
	return inv.answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s\n", c.File, contentsText(held))
		fmt.Fprintf(w, "not in it: the objects, in the %s, and the keys in %s: copy them too, the keys to where nobody else can read them\n",
			held.ObjectsAt, filepath.Join(cfg.State, "keys"))
	})
}

func contentsText(c sqlite.Contents) string {
	return fmt.Sprintf("%d published items with %d files, %d tokens; %s", c.Items, c.Files, c.Tokens, sizeText(c.Bytes))
}

// restoreCommand puts a backup in the place of a catalogue.
type restoreCommand struct {
	deploymentFlags
	Replace bool   `help:"If there is a catalogue, rename it to catalogue.db.replaced-TIME, instead of refusing."`
	File    string `arg:"" help:"What narfold backup has written. It stays as it is."`
}

// Help is shown by --help.
func (restoreCommand) Help() string {
	return `Puts a copy of a backup in the place of the catalogue, and then compares it with the objects as narfold check does: what is
published and missing in the store is damage, and what came after the backup is unaccounted, until it is imported again. The
backup is read whole before anything is changed. No herder, import or other command may work on the deployment: each holds a
lock on the state folder, which the restore must have alone. Objects and keys are not in a backup; put them back first.

Exit codes, as those of check: 0 all is well, 1 refused, or there are objects that nothing accounts for, 3 the deployment is in
use or unavailable, 4 the backup is damaged, or something that it names is missing in the store.

Examples:
  narfold restore --state /var/lib/narfold /backup/catalogue-2026-11-21.db
  narfold restore --state /var/lib/narfold --replace /backup/catalogue-2026-11-21.db`
}

// Run restores.
func (c *restoreCommand) Run(ctx context.Context, inv *invocation) (err error) {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	held, replaced, err := deployment.Restore(ctx, cfg, c.File, c.Replace)
	switch {
	case errors.Is(err, catalog.ErrPresent):
		return hint(err, "narfold restore --replace "+c.text()+" "+c.File+", which keeps it under another name")
	case errors.Is(err, catalog.ErrInUse):
		return hint(err, "again when the herder is stopped and no other command runs")
	case err != nil && replaced != "":
		return hint(err, "the same again; the catalogue that was there is "+replaced)
	case err != nil:
		return c.inConfig(err)
	}
	d, err := c.openAs(ctx, inv, cfg, false)
	if err != nil {
		return fmt.Errorf("the catalogue is restored, and the deployment cannot be opened: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	// Nothing is on its way: the deployment was nobody's.
	report, err := check.Run(ctx, check.Config{Catalogue: d.Catalogue, Objects: d.Objects, Log: inv.log})
	if err != nil && report.Damage() == 0 {
		return fmt.Errorf("the catalogue is restored, and cannot be compared with the objects: %w", err)
	}
	answer := struct {
		Restored sqlite.Contents `json:"restored"`
		Replaced string          `json:"replaced,omitempty"`
		Check    check.Report    `json:"check"`
	}{held, replaced, report}
	err = inv.answer(answer, func(w io.Writer) {
		checkText{report, d.Root, c.deploymentFlags}.print(w)
		if report.Found[check.Unaccounted] > 0 {
			fmt.Fprintf(w, "objects that are unaccounted for came after the backup, if nothing else uses the store\n  try: the imports and pushes since then again, before check --remove-unknown\n")
		}
		fmt.Fprintf(w, "restored: %s\n", contentsText(held))
		if replaced != "" {
			fmt.Fprintf(w, "the catalogue that was there is %s\n", replaced)
		}
	})
	if err != nil {
		return err
	}
	return verdictOf(&report)
}

package deployment

import (
	"context"
	"fmt"

	"narfold/internal/catalog/sqlite"
	"narfold/internal/durable"
)

// Backup copies the catalogue of a deployment, which may be in use, into a new file; see sqlite.Backup.
func Backup(ctx context.Context, cfg Config, file string) (sqlite.Contents, error) {
	if err := cfg.Validate(); err != nil {
		return sqlite.Contents{}, err
	}
	if err := cfg.Catalogue.embedded(); err != nil {
		return sqlite.Contents{}, err
	}
	if err := prepareState(cfg, false); err != nil {
		return sqlite.Contents{}, err
	}
	return sqlite.Backup(ctx, database(cfg.State), file)
}

// Restore puts the copy of a catalogue in its place, in a state folder that it makes if need be; see sqlite.Restore. One whose objects
// are elsewhere than the configuration says is ErrElsewhere.
func Restore(ctx context.Context, cfg Config, file string, replace bool) (c sqlite.Contents, replaced string, err error) {
	if err := cfg.Validate(); err != nil {
		return c, "", err
	}
	if err := cfg.Catalogue.embedded(); err != nil {
		return c, "", err
	}
	if err := durable.MkdirAll(cfg.State, 0o750); err != nil {
		return c, "", fmt.Errorf("make state folder: %w", err)
	}
	where := cfg.Objects.where(cfg.State)
	return sqlite.Restore(ctx, file, database(cfg.State), replace, func(c sqlite.Contents) error {
		if c.ObjectsAt != "" && c.ObjectsAt != where {
			return Mistake("objects", fmt.Errorf("%w: what is in the backup lies in the %s, and the configuration names the %s", ErrElsewhere, c.ObjectsAt, where))
		}
		return nil
	})
}

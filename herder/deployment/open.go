package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/room"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/durable"
	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/s3"
)

// Deployment is what a Config describes, open.
type Deployment struct {
	Config    Config
	Catalogue catalog.Catalogue
	Objects   objstore.Store
	// Root is the folder of a directory store, else "".
	Root string
	// Presigner is the bucket's, or nil.
	Presigner objstore.Presigner
	Keys      *keyring.Ring
	Log       *slog.Logger

	spool *spool
	close []func() error
}

// ErrNoState says that a state directory is not one; a command that only looks does not make it.
var ErrNoState = errors.New("no deployment here")

// Open opens the deployment, making what is missing in its state folder if create is set. A bucket is probed first, and refused if
// it does not do what publication depends on. Errors about a value of the configuration, or about a file that it names, are ErrConfig.
func Open(ctx context.Context, cfg Config, create bool, log *slog.Logger) (d *Deployment, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d = &Deployment{Config: cfg, Log: log}
	defer func() {
		if err != nil {
			d.Close()
			d = nil
		}
	}()
	bucket, err := d.bucket() // a mistake in the configuration is told before anything is made
	if err != nil {
		return d, err
	}
	if err := prepareState(cfg, create); err != nil {
		return d, err
	}
	if err := durable.MkdirAll(d.Incoming(), 0o700); err != nil {
		return d, fmt.Errorf("make folder for uploads: %w", err)
	}
	if d.spool, err = openSpool(filepath.Join(cfg.State, "spool")); err != nil {
		return d, err
	}
	d.close = append(d.close, d.spool.Close)
	c, err := openCatalogue(ctx, cfg)
	if err != nil {
		return d, err
	}
	d.Catalogue = c
	d.close = append(d.close, c.Close)
	where := cfg.Objects.where(cfg.State)
	switch recorded, err := c.ObjectsAt(ctx, ""); {
	case err != nil:
		return d, err
	case recorded != "" && recorded != where:
		return d, Mistake("objects", fmt.Errorf("%w: what is published here lies in the %s, and the configuration names the %s", ErrElsewhere, recorded, where))
	}
	if err := d.openObjects(ctx, bucket); err != nil {
		return d, err
	}
	// Only now: a store that could not be opened is not where anything lies.
	if _, err := c.ObjectsAt(ctx, where); err != nil {
		return d, err
	}
	if d.Keys, err = d.loadKeys(); err != nil {
		return d, err
	}
	return d, nil
}

// OpenCatalogue opens the catalogue alone, for what needs neither objects nor keys: a token must be revocable while the bucket is
// away.
func OpenCatalogue(ctx context.Context, cfg Config, create bool) (catalog.Catalogue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := prepareState(cfg, create); err != nil {
		return nil, err
	}
	return openCatalogue(ctx, cfg)
}

func database(state string) string { return filepath.Join(state, "catalogue.db") }

// prepareState makes the state folder if it may, and else insists on a catalogue in it, or on the folder if the catalogue is elsewhere.
func prepareState(cfg Config, create bool) error {
	mark := database(cfg.State)
	if cfg.Catalogue.Database != "" {
		mark = cfg.State
	}
	if !create && !exists(mark) {
		return fmt.Errorf("%w: %s does not exist", ErrNoState, mark)
	}
	if err := durable.MkdirAll(cfg.State, 0o750); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	return nil
}

// Close closes what Open opened, the last first.
func (d *Deployment) Close() error {
	var errs []error
	for len(d.close) > 0 {
		last := len(d.close) - 1
		errs = append(errs, d.close[last]())
		d.close = d.close[:last]
	}
	return errors.Join(errs...)
}

// bucket returns how the bucket is reached, with its credentials, if there is one.
func (d *Deployment) bucket() (c s3.Config, err error) {
	c = d.Config.Objects.bucket()
	if d.Config.Objects.Endpoint != "" {
		c.AccessKey, c.SecretKey, err = d.accessKeys()
	}
	return c, err
}

func (d *Deployment) openObjects(ctx context.Context, bucket s3.Config) error {
	o := d.Config.Objects
	if o.Endpoint == "" {
		root := o.Directory
		if root == "" {
			root = filepath.Join(d.Config.State, "objects")
		}
		if err := durable.MkdirAll(root, 0o755); err != nil {
			return fmt.Errorf("make object folder: %w", err)
		}
		store, err := dir.Open(root)
		if err != nil {
			return fmt.Errorf("open object store: %w", err)
		}
		d.Objects, d.Root = store, root
		d.close = append(d.close, store.Close)
		return nil
	}
	store, err := s3.New(bucket)
	if err != nil {
		return fmt.Errorf("open object store: %w", err)
	}
	if err := store.Probe(ctx); err != nil {
		return fmt.Errorf("open object store: %w", err)
	}
	d.Objects = store
	if o.Redirect {
		d.Presigner = store
	}
	return nil
}

// Publisher returns a publisher into this deployment.
func (d *Deployment) Publisher() *publish.Publisher {
	level, _ := d.Config.Publish.level() // Validate has asked
	return &publish.Publisher{
		Catalogue:    d.Catalogue,
		Objects:      d.Objects,
		Keys:         d.Keys,
		Spool:        d.spool.dir,
		Compressions: d.Config.Publish.Compressions,
		Options:      compress.Options{Level: level, Workers: 1, Programs: d.Config.Publish.Programs},
		Log:          d.Log,
	}
}

// Room is where what comes in is kept, and how much of it is to stay free.
func (d *Deployment) Room() room.Room {
	return room.Room{Folders: []string{d.Config.State, d.Root}, Reserve: int64(d.Config.Publish.Reserve)}
}

// Incoming is the folder for nars that were uploaded and whose narinfos have not come yet.
func (d *Deployment) Incoming() string { return filepath.Join(d.Config.State, "incoming") }

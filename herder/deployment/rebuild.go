package deployment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"narfold/internal/durable"
	"narfold/internal/nixkey"
)

// OpenObjects opens the object store of a deployment whose catalogue is lost. The Deployment has neither catalogue nor keys nor spool.
func OpenObjects(ctx context.Context, cfg Config, log *slog.Logger) (d *Deployment, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.Catalogue.embedded(); err != nil {
		return nil, err
	}
	d = &Deployment{Config: cfg, Log: log}
	defer func() {
		if err != nil {
			d.Close()
			d = nil
		}
	}()
	bucket, err := d.bucket()
	if err != nil {
		return d, err
	}
	if err := durable.MkdirAll(cfg.State, 0o750); err != nil {
		return d, fmt.Errorf("make state folder: %w", err)
	}
	return d, d.openObjects(ctx, bucket)
}

// ErrNoFeedKey says that it is not known whose signature a feed must have.
var ErrNoFeedKey = errors.New("the key of the change feed is not there")

// FeedPublic returns the public key of the change feed: that in file, or if that is "", the one with which the deployment signs. Unlike
// FeedKey it makes none.
func FeedPublic(cfg Config, file string) (nixkey.PublicKey, error) {
	if file == "" {
		secret := credential(feedCredential)
		if secret == "" {
			secret = filepath.Join(cfg.State, "keys", "feed.sec")
		}
		text, err := os.ReadFile(secret)
		if err == nil {
			key, err := nixkey.ParseSecret(text)
			if err != nil {
				return nixkey.PublicKey{}, fmt.Errorf("load key of the change feed %s: %w", secret, err)
			}
			return key.Public(), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nixkey.PublicKey{}, fmt.Errorf("load key of the change feed: %w", err)
		}
		file = filepath.Join(cfg.State, "keys", "feed.pub")
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nixkey.PublicKey{}, fmt.Errorf("%w: %w", ErrNoFeedKey, err)
	}
	if err != nil {
		return nixkey.PublicKey{}, fmt.Errorf("load public key of the change feed: %w", err)
	}
	key, err := nixkey.ParsePublic(text)
	if err != nil {
		return nixkey.PublicKey{}, fmt.Errorf("load public key of the change feed %s: %w", file, err)
	}
	return key, nil
}

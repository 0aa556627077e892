package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// lockRemoval takes the lock under which objects are removed. It ends with the process.
func lockRemoval(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock removal: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, ErrRemoving)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// before is the time before which what is removed must have come.
func (c *checker) before() time.Time {
	return time.Now().Add(-c.OlderThan).Add(time.Millisecond) // the catalogue's times are cut to milliseconds
}

// removeAbandoned cleans up uploads that came to nothing.
func (c *checker) removeAbandoned(ctx context.Context) error {
	before := c.before()
	for u, err := range c.Catalogue.Uploads(ctx) {
		if err != nil {
			return err
		}
		if u.For != "" {
			continue
		}
		removed, err := c.abandon(ctx, u.Key, before)
		if err != nil {
			return err
		}
		if removed {
			c.report.RemovedUploads++
		}
	}
	return nil
}

// abandon cleans up one upload, unless it is young, in use, or published by now. The order makes a crash leave the key known, to be
// cleaned up by the next check, and never handed out meanwhile.
func (c *checker) abandon(ctx context.Context, k objstore.Key, before time.Time) (bool, error) {
	ok, err := c.Catalogue.Abandon(ctx, k, before)
	if err != nil || !ok {
		return false, err
	}
	if err := c.Deleter.Delete(ctx, k); err != nil {
		return false, err
	}
	c.Log.Info("abandoned upload removed", "key", k)
	return true, c.Catalogue.Abandoned(ctx, k)
}

// removeUnknown deletes the objects that the catalogue does not know. Where something published is damaged it deletes nothing: an
// older catalogue or another deployment's would not know them either.
func (c *checker) removeUnknown(ctx context.Context) error {
	r := c.report
	switch {
	case r.Found[Unaccounted] == 0:
		return nil
	case r.Damage() > 0:
		r.KeptUnknown = "damage was found: unknown objects may be what is missing, or the catalogue and the store do not belong together"
		return nil
	case r.Files == 0:
		r.KeptUnknown = "nothing is published: the catalogue and the store may not belong together"
		return nil
	}
	again := *c
	again.report = new(Report) // what is counted again is not wanted twice
	removed := make(map[objstore.Key]bool)
	err := again.compare(ctx, func(ctx context.Context, o objstore.Info) error {
		if c.young(o) {
			return nil
		}
		ok, err := c.disown(ctx, o.Key)
		if !ok || err != nil {
			return err
		}
		r.RemovedUnknown++
		if len(removed) < c.Findings {
			removed[o.Key] = true
		}
		return nil
	})
	r.forget(removed)
	r.Found[Unaccounted] = max(0, r.Found[Unaccounted]-r.RemovedUnknown)
	return err
}

// forget takes the findings about removed objects out.
func (r *Report) forget(removed map[objstore.Key]bool) {
	kept := r.Findings[:0]
	for _, f := range r.Findings {
		if f.Kind != Unaccounted || !removed[f.Key] {
			kept = append(kept, f)
		}
	}
	r.Findings = kept
}

// disown deletes an object that the catalogue does not know. An import could be given its key at any moment, and take the object
// over; so the key is taken first, and then the object is an abandoned upload like others.
func (c *checker) disown(ctx context.Context, k objstore.Key) (bool, error) {
	method, base, generation, err := catalog.ParseNarKey(k)
	if err != nil {
		if strings.HasPrefix(string(k), "log/") {
			return false, nil // a log that is being put again could not be told from this one
		}
		// No key of this form is handed out.
		if _, err := c.Catalogue.Owner(ctx, k); !errors.Is(err, catalog.ErrNotFound) {
			return false, err
		}
		if err := c.Deleter.Delete(ctx, k); err != nil {
			return false, err
		}
		c.Log.Info("unknown object removed", "key", k)
		return true, nil
	}
	want := catalog.Want{Base: base, Compression: method}
	if generation > 1 {
		want.After = catalog.NarKey(method, base, generation-1)
	}
	keys, err := c.Catalogue.Reserve(ctx, []catalog.Want{want})
	if err != nil {
		return false, err
	}
	ok, err := c.abandon(ctx, keys[0], time.Now().Add(time.Millisecond))
	return ok && keys[0] == k, err // another key: this one is in use by now
}

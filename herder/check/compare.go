package check

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"narfold/herder/feedserver"
	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// compare walks the files and uploads of the catalogue and the objects of the store side by side, in the order of keys. Each of the
// three is a listing of many moments, so that whatever does not fit is asked about again, by its key, before it is called wrong.
// Objects that the catalogue does not know are handed to unknown.
func (c *checker) compare(ctx context.Context, unknown func(context.Context, objstore.Info) error) error {
	files := begin("files of the catalogue", c.Catalogue.Keys(ctx), func(f catalog.File) objstore.Key { return f.Key })
	defer files.stop()
	uploads := begin("uploads of the catalogue", c.Catalogue.Uploads(ctx), func(u catalog.Upload) objstore.Key { return u.Key })
	defer uploads.stop()
	objects := begin("object store", c.Objects.List(ctx, ""), func(i objstore.Info) objstore.Key { return i.Key })
	defer objects.stop()
	for {
		if err := errors.Join(files.next(), uploads.next(), objects.next()); err != nil {
			return err
		}
		var k objstore.Key
		for _, head := range []*objstore.Key{files.head(), uploads.head(), objects.head()} {
			if head != nil && (k == "" || *head < k) {
				k = *head
			}
		}
		if k == "" {
			return ctx.Err()
		}
		file, isFile := files.take(k)
		upload, isUpload := uploads.take(k)
		object, isObject := objects.take(k)
		if isObject {
			c.report.Objects++
			c.report.ObjectBytes += object.Size
		}
		var err error
		switch {
		case isFile:
			c.report.Files++
			c.report.FileBytes += file.Size
			if !isObject || object.Size != file.Size {
				err = c.suspect(ctx, file)
			}
		case isUpload:
			err = c.upload(ctx, upload, object, isObject)
		default:
			err = c.stray(ctx, object, unknown)
		}
		if err != nil {
			return err
		}
	}
}

// suspect looks again at a file whose object was not listed as it should be.
func (c *checker) suspect(ctx context.Context, f catalog.File) error {
	info, err := c.Objects.Stat(ctx, f.Key)
	absent := errors.Is(err, objstore.ErrNotFound)
	switch {
	case err != nil && !absent:
		return err
	case !absent && info.Size == f.Size:
		return nil // it was put after the listing had passed
	}
	if live, err := c.is(ctx, f.Key, catalog.KeyLive); err != nil || !live {
		return err // withdrawn since
	}
	if absent {
		c.damaged(f, Missing, "the object is not in the store")
		return nil
	}
	c.damaged(f, Size, fmt.Sprintf("the object has %d bytes, and %d were published", info.Size, f.Size))
	return nil
}

// is asks whether a key has this state now.
func (c *checker) is(ctx context.Context, k objstore.Key, want catalog.KeyState) (bool, error) {
	state, err := c.Catalogue.Owner(ctx, k)
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil
	}
	return state == want, err
}

func (c *checker) damaged(f catalog.File, kind Kind, detail string) {
	if kept := c.found(Finding{Kind: kind, Key: f.Key, Detail: detail, Size: f.Size, SHA256: f.SHA256}); kept != nil {
		c.damagedKeys[f.Key] = kept
	}
}

// upload accounts for a key that was handed out. What a waiting item needs must be there: it is published without another look.
func (c *checker) upload(ctx context.Context, u catalog.Upload, object objstore.Info, isObject bool) error {
	r := c.report
	r.Uploads++
	if u.For != "" {
		r.UploadsAwaited++
	}
	if isObject {
		r.UploadObjects++
		r.UploadBytes += object.Size
		return nil
	}
	if u.For == "" {
		return nil
	}
	_, err := c.Objects.Stat(ctx, u.Key)
	if err == nil || !errors.Is(err, objstore.ErrNotFound) {
		return err
	}
	if _, err := c.Catalogue.Owner(ctx, u.Key); err != nil {
		if errors.Is(err, catalog.ErrNotFound) {
			return nil
		}
		return err
	}
	c.found(Finding{Kind: Missing, Key: u.Key, Detail: fmt.Sprintf("the object is not in the store, and %s, which waits for its references, needs it", u.For)})
	return nil
}

// stray asks about an object that is neither a file nor an upload in the listings.
func (c *checker) stray(ctx context.Context, object objstore.Info, unknown func(context.Context, objstore.Info) error) error {
	if strings.HasPrefix(string(object.Key), catalog.FeedPrefix) {
		c.report.Feed++
		if n := feedserver.SegmentNumber(object.Key); n > 0 {
			c.segments[n] = object.Size
		}
		return nil
	}
	state, err := c.Catalogue.Owner(ctx, object.Key)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return unknown(ctx, object)
	case err != nil:
		return err
	case state == catalog.KeyLog:
		c.report.Logs++
	case state == catalog.KeyUpload:
		c.report.Uploads++
		c.report.UploadObjects++
		c.report.UploadBytes += object.Size
	case state == catalog.KeyLive: // published since the catalogue's listing passed it
		c.report.Files++
		c.report.FileBytes += object.Size
	}
	return nil
}

// unaccounted records an object that the catalogue does not know, if it is still there.
func (c *checker) unaccounted(ctx context.Context, object objstore.Info) error {
	info, err := c.Objects.Stat(ctx, object.Key)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	f := Finding{Kind: Unaccounted, Key: info.Key, Size: info.Size, Modified: info.Modified.UTC(), Detail: "the catalogue does not know this object"}
	if c.young(info) {
		f.Kind, f.Detail = Recent, "the catalogue does not know this object, which was put a short while ago"
	}
	c.found(f)
	return nil
}

// young reports whether an object may belong to something that is on its way.
func (c *checker) young(o objstore.Info) bool {
	return c.OlderThan > 0 && time.Since(o.Modified) < c.OlderThan
}

// cursor is a place in a listing whose keys ascend.
type cursor[T any] struct {
	what string
	key  func(T) objstore.Key
	pull func() (T, error, bool)
	stop func()

	value T
	at    objstore.Key // the key of value, or the last one taken
	full  bool         // value has not been taken
	ended bool
}

func begin[T any](what string, seq iter.Seq2[T, error], key func(T) objstore.Key) *cursor[T] {
	c := &cursor[T]{what: what, key: key}
	c.pull, c.stop = iter.Pull2(seq)
	return c
}

// next makes the cursor hold a value, unless its listing has ended.
func (c *cursor[T]) next() error {
	if c.full || c.ended {
		return nil
	}
	v, err, ok := c.pull()
	if err != nil {
		return err
	}
	if !ok {
		c.ended = true
		return nil
	}
	k := c.key(v)
	if k <= c.at {
		// Walking on would call sound objects missing and known ones unknown.
		return fmt.Errorf("%s: listing is out of order: %q came after %q", c.what, k, c.at)
	}
	c.value, c.at, c.full = v, k, true
	return nil
}

func (c *cursor[T]) head() *objstore.Key {
	if !c.full {
		return nil
	}
	return &c.at
}

// take takes the value out if it has this key.
func (c *cursor[T]) take(k objstore.Key) (v T, ok bool) {
	if !c.full || c.at != k {
		return v, false
	}
	c.full = false
	return c.value, true
}

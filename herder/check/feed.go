package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"narfold/herder/feedserver"
	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/pace"
)

// feed checks that the segments of the change feed are in the store as they were sealed: it is the only place where they are. It looks at
// their sizes, and reads as many as were to be sampled.
func (c *checker) feed(ctx context.Context) error {
	// What an earlier version has kept in the catalogue is moved by the next herder that runs.
	packed, _, err := c.Catalogue.FeedPacked(ctx)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	at := pace.New(c.Rate)
	for f, err := range c.Catalogue.FeedSegments(ctx) {
		if err != nil {
			return err
		}
		if packed.Number > 0 && f.Number >= packed.Number {
			return nil
		}
		c.report.FeedSegments++
		read := c.Sample > 0 && (c.Sample >= 1 || rand.Float64() < c.Sample)
		if c.segments[f.Number] == f.Size && !read {
			continue
		}
		if err := c.segment(ctx, at, f, read); err != nil {
			return err
		}
	}
	return nil
}

// segment looks at one, and reads it, twice if it seems damaged.
func (c *checker) segment(ctx context.Context, at *pace.Pace, f catalog.FeedSegment, read bool) error {
	found := Finding{Key: feedserver.SegmentKey(f.Number), Size: f.Size, SHA256: f.SHA256, Segment: f.Number}
	info, err := c.Objects.Stat(ctx, found.Key)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		found.Kind, found.Detail = Missing, "a segment of the change feed is not in the store"
	case err != nil:
		return err
	case info.Size != f.Size:
		found.Kind, found.Detail = Size, fmt.Sprintf("a segment of the change feed has %d bytes, and %d were sealed", info.Size, f.Size)
	case !read:
		return nil
	default:
		var got digest.SHA256
		for range 2 {
			if got, err = c.hash(ctx, at, found.Key); err == nil && got == f.SHA256 {
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		found.Kind, found.Detail = Corrupt, fmt.Sprintf("the bytes of a segment of the change feed have changed: they hash to %s", got)
		if err != nil {
			found.Kind, found.Detail = Unreadable, err.Error()
		}
	}
	c.found(found)
	return nil
}

// hash reads an object to its end.
func (c *checker) hash(ctx context.Context, at *pace.Pace, k objstore.Key) (sum digest.SHA256, err error) {
	o, err := c.Objects.Get(ctx, k, objstore.Range{})
	if err != nil {
		return sum, err
	}
	defer o.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &source{ctx: ctx, r: o, pace: at}); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

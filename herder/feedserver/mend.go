package feedserver

import (
	"context"
	"fmt"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// Remake makes the text of a segment anew of what the catalogue still knows of its changes. That it is what was sealed is proven by its
// hash; with ErrSegment it is not, because an item has got other files since, or is gone: records tell what was when they were written.
func Remake(ctx context.Context, c catalog.Feed, f catalog.FeedSegment) ([]byte, error) {
	origin, err := c.FeedOrigin(ctx, "")
	if err != nil {
		return nil, err
	}
	st := feed.Stretch{Origin: origin, Before: feed.Begin(origin)}
	if f.Number > 1 {
		before, err := c.FeedSegment(ctx, f.Number-1)
		if err != nil {
			return nil, err
		}
		st.Before = feed.Point{Sequence: before.Last, Chain: before.Chain}
	}
	changes, err := c.Changes(ctx, st.Before.Sequence, int(f.Last-st.Before.Sequence))
	if err != nil {
		return nil, err
	}
	if st.Lines, err = Lines(st.Before.Sequence, changes); err != nil {
		return nil, err
	}
	text := st.Text()
	if !Is(f, text) {
		return nil, fmt.Errorf("make segment %d again: its items have changed since: %w", f.Number, ErrSegment)
	}
	return text, nil
}

// Is reports whether a text is that of a segment.
func Is(f catalog.FeedSegment, text []byte) bool {
	return int64(len(text)) == f.Size && digest.Of(text) == f.SHA256
}

// Mend puts a text in the place of a segment that is lost or damaged, if it is what was sealed, and fails with ErrSegment if not.
func Mend(ctx context.Context, store objstore.Writer, f catalog.FeedSegment, text []byte) error {
	if !Is(f, text) {
		return fmt.Errorf("mend segment %d: %w: it has another text", f.Number, ErrSegment)
	}
	_, err := store.Put(ctx, SegmentKey(f.Number), objstore.Bytes(text), objstore.Condition{})
	return err
}

package follow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"time"

	"narfold/herder/source"
	"narfold/internal/feed"
	"narfold/internal/storepath"
)

const (
	maxHead = 64 << 10
	// maxStretch bounds an answer with at most 1,000 records: more than a hundred times what those usually have.
	maxStretch = 256 << 20
)

// feed takes what the change feed says, and keeps the place up to which it was verified, with what is still owed. The rules are
// those of docs/feed.md for readers.
func (r *round) feed(ctx context.Context) error {
	kept, err := readPlace(r.f.Place)
	if err != nil {
		return err
	}
	head, err := r.head(ctx, kept)
	if err != nil {
		return err
	}
	w := newWishes(kept.owed)
	at := kept.point
	if kept.origin == "" {
		at = feed.Begin(head.Origin)
	}
	for at.Sequence < head.Sequence {
		if at, err = r.stretch(ctx, head, at, w); err != nil {
			return err
		}
	}
	if at != head.Point {
		return fmt.Errorf("%w: its records lead to chain %s at record %d, and its head says %s: it was forked", ErrFeed, at.Chain.Hex(), at.Sequence, head.Chain.Hex())
	}
	r.sum.Sequence = at.Sequence
	taken := r.take(ctx, w.all())
	// What was verified is kept also when the work was interrupted: what is not here is owed.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var owed []storepath.HashPart
	err = inPortions(w.all(), portion, func(some []storepath.HashPart) error {
		missing, err := r.f.Missing(closing, some)
		if len(owed) <= maxOwed {
			owed = append(owed, missing...)
		}
		return err
	})
	if err == nil && len(owed) <= maxOwed {
		err = place{origin: head.Origin, point: at, owed: owed}.write(r.f.Place)
	}
	return errors.Join(taken, err)
}

// head fetches the head, and holds it to what was verified before.
func (r *round) head(ctx context.Context, kept place) (feed.Head, error) {
	text, err := r.fetch(ctx, "feed/head", maxHead)
	if err != nil {
		return feed.Head{}, err
	}
	head, err := feed.ParseHead(text, *r.f.FeedKey)
	switch {
	case err != nil:
		return head, fmt.Errorf("%w: %w", ErrFeed, err)
	case kept.origin == "":
	case head.Origin != kept.origin:
		return head, fmt.Errorf("%w: it is another feed (origin %s) than before (%s); if the upstream's operator says why, remove %s to follow it from its beginning",
			ErrFeed, head.Origin, kept.origin, r.f.Place)
	case head.Sequence < kept.point.Sequence:
		return head, fmt.Errorf("%w: it was rolled back: record %d was its last, and now %d is; if the upstream's operator says why, remove %s to follow it from its beginning",
			ErrFeed, kept.point.Sequence, head.Sequence, r.f.Place)
	}
	return head, nil
}

// stretch reads on from at, at most up to the head, and notes what is said.
func (r *round) stretch(ctx context.Context, head feed.Head, at feed.Point, w *wishes) (feed.Point, error) {
	text, err := r.fetch(ctx, fmt.Sprintf("feed?since=%d", at.Sequence), maxStretch)
	if err != nil {
		return at, err
	}
	s, records, err := feed.ParseStretch(text)
	if err != nil {
		return at, fmt.Errorf("%w: %w", ErrFeed, err)
	}
	if _, err := at.Follow(head.Origin, s); err != nil {
		return at, fmt.Errorf("%w: %w", ErrFeed, err)
	}
	if len(records) == 0 {
		return at, fmt.Errorf("%w: its head says %d records, and there are %d", ErrFeed, head.Sequence, at.Sequence)
	}
	var named []storepath.HashPart
	for i, rec := range records {
		if at.Sequence == head.Sequence {
			break // newer than the head, which does not vouch for it
		}
		at = at.Next(s.Lines[i])
		switch rec.Op {
		case feed.Publish, feed.Files, feed.Undo:
			named = append(named, rec.Path.HashPart())
		default:
			named = slices.DeleteFunc(named, func(h storepath.HashPart) bool { return h == rec.Path.HashPart() })
			w.drop(rec.Path.HashPart()) // of what was named before this stretch
		}
	}
	// Only what is not here is remembered, since a feed may have millions of records.
	missing, err := r.f.Missing(ctx, named)
	if err != nil {
		return at, err
	}
	w.add(missing)
	return at, nil
}

func (r *round) fetch(ctx context.Context, name string, limit int) ([]byte, error) {
	text, err := source.Fetch(ctx, r.f.URL, name, limit, source.Options{HTTP: r.f.HTTP, Log: r.f.Log})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the upstream has no change feed: %w", err)
	}
	return text, err
}

// wishes are items in the order in which they were named, 20 bytes for each: who begins may have millions.
type wishes struct {
	order [][20]byte
	gone  map[[20]byte]int // before which place in order an item was withdrawn
}

func newWishes(first []storepath.HashPart) *wishes {
	w := &wishes{gone: map[[20]byte]int{}}
	w.add(first)
	return w
}

func (w *wishes) add(hs []storepath.HashPart) {
	for _, h := range hs {
		w.order = append(w.order, h.Bytes())
	}
}

func (w *wishes) drop(h storepath.HashPart) { w.gone[h.Bytes()] = len(w.order) }

// all yields what is still wanted. An item that was named twice may come twice.
func (w *wishes) all() iter.Seq[storepath.HashPart] {
	return func(yield func(storepath.HashPart) bool) {
		for i, h := range w.order {
			if i >= w.gone[h] && !yield(storepath.HashPartOf(h)) {
				return
			}
		}
	}
}

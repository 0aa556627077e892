package feedserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// What else than segments is in the object store has the names that the herder's URLs have: a mirror that has only files starts from them,
// and a catalogue that is lost is made anew from them. It is replaced as the feed grows.
const (
	copiedKey  objstore.Key = catalog.FeedPrefix + "key.pub"
	CopiedHead objstore.Key = catalog.FeedPrefix + "head" // written last: what it stands for is there
	CopiedTail objstore.Key = catalog.FeedPrefix + "tail" // the stretch after the last segment
)

const (
	// copyEvery is how far apart copies of a feed that grows are at least: so much may be missing in a catalogue made from them.
	copyEvery = 2 * time.Second
	// lastCopy is how long the copy at the end may take.
	lastCopy = 10 * time.Second
)

// Store is where segments and copies are kept.
type Store interface {
	objstore.Reader
	objstore.Writer
	objstore.Lister
}

// copies knows what is in the object store.
type copies struct {
	end   feed.Point // that the head stands for
	known bool
	since time.Time // when the last was made, or tried
}

// copy brings the copies up to date, if it is time.
func (s *Server) copy(ctx context.Context, now time.Time) error {
	c, p := &s.copies, s.place()
	if !p.loaded || now.Sub(c.since) < copyEvery || c.known && c.end == p.end() {
		return nil
	}
	if len(p.tail) >= feed.SegmentRecords {
		return nil // a segment could not be sealed, which comes first
	}
	c.since = now
	if err := s.copyTo(ctx, c, p); err != nil {
		c.since = now.Add(time.Minute) // what keeps the store from taking them seldom passes at once
		return fmt.Errorf("copy the change feed to the object store: %w", err)
	}
	return nil
}

func (s *Server) copyAndTell(ctx context.Context) {
	if err := s.copy(ctx, time.Now()); err != nil && ctx.Err() == nil {
		s.log.Error("the feed's copies in the object store stay behind", "error", err)
	}
}

// copyAtEnd makes the last copy of a server that goes down, of all that was published until then.
func (s *Server) copyAtEnd(ctx context.Context, seen *int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCopy)
	defer cancel()
	s.copies.since = time.Time{}
	if err := errors.Join(s.follow(ctx, seen), s.copy(ctx, time.Now())); err != nil {
		s.log.Error("the feed's copies in the object store stay behind", "error", err)
	}
}

func (s *Server) copyTo(ctx context.Context, c *copies, p place) error {
	if !c.known {
		if err := s.continues(ctx); err != nil {
			return err
		}
		if _, err := s.store.Put(ctx, copiedKey, objstore.Bytes([]byte(s.key.Public().String()+"\n")), objstore.Condition{}); err != nil {
			return err
		}
		c.known = true
	}
	st := p.stretch(p.sealed)
	h := feed.Head{Origin: p.origin, Point: st.End(), Time: time.Now().UTC().Truncate(time.Second)}
	if _, err := s.store.Put(ctx, CopiedTail, objstore.Bytes(st.Text()), objstore.Condition{}); err != nil {
		return err
	}
	if _, err := s.store.Put(ctx, CopiedHead, objstore.Bytes(h.Sign(s.key)), objstore.Condition{}); err != nil {
		return err
	}
	c.end = h.Point
	return nil
}

// continues checks that the store has no segment that is not of this feed: its copies would be written over.
func (s *Server) continues(ctx context.Context) error {
	last, err := lastNumber(ctx, s.store, segmentPrefix)
	if err != nil {
		return err
	}
	// Asked after the listing: what is put is made of records that are in the catalogue before.
	sealed, tail, err := s.catalogue.FeedTail(ctx)
	if err != nil {
		return err
	}
	if most := sealed.Number + int64(len(tail)/feed.SegmentRecords); last > most {
		return fmt.Errorf("%s: %w", SegmentKey(most+1), errOther)
	}
	if sealed.Number == 0 {
		return nil
	}
	_, err = ReadSegment(ctx, s.store, sealed)
	switch {
	case errors.Is(err, objstore.ErrNotFound): // a loss, which a check tells
		return nil
	case errors.Is(err, ErrSegment):
		return fmt.Errorf("%w: %w", err, errOther)
	}
	return err
}

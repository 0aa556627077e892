package feedserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// The copies of the feed in the object store have the names that the herder's URLs have: a mirror that has only files starts from them,
// and a catalogue that is lost is made anew from them. All but the segments are replaced as the feed grows.
const (
	copiedKey  objstore.Key = catalog.FeedPrefix + "key.pub"
	CopiedHead objstore.Key = catalog.FeedPrefix + "head" // written last: what it stands for is there
	CopiedTail objstore.Key = catalog.FeedPrefix + "tail" // the stretch after the last segment
)

// CopiedSegment is the name of a segment, from 1, in the object store.
func CopiedSegment(number int64) objstore.Key {
	return copiedSegments + objstore.Key(strconv.FormatInt(number, 10))
}

const copiedSegments objstore.Key = catalog.FeedPrefix + "segments/"

const (
	// copyEvery is how far apart copies of a feed that grows are at least: so much may be missing in a catalogue made from them.
	copyEvery = 2 * time.Second
	// lastCopy is how long the copy at the end may take.
	lastCopy = 10 * time.Second
)

// Store is where copies are kept.
type Store interface {
	objstore.Reader
	objstore.Writer
	objstore.Lister
}

// copies knows what is in the object store.
type copies struct {
	store   Store
	segment int64      // the last that is there
	end     feed.Point // that the head stands for
	known   bool
	since   time.Time // when the last was made, or tried
}

// KeepCopies makes Run keep copies of the feed in an object store. Call it before Run.
func (s *Server) KeepCopies(store Store) { s.copies = &copies{store: store} }

// copy brings the copies up to date, if they are to be kept and it is time.
func (s *Server) copy(ctx context.Context, now time.Time) error {
	c, p := s.copies, s.place()
	if c == nil || !p.loaded || now.Sub(c.since) < copyEvery || c.known && c.end == p.end() {
		return nil
	}
	c.since = now
	if err := s.copyTo(ctx, c, p); err != nil {
		c.since = now.Add(time.Minute) // what keeps the store from taking them seldom passes at once
		return fmt.Errorf("copy the change feed to the object store: %w", err)
	}
	return nil
}

// copyAtEnd makes the last copy of a server that goes down, of all that was published until then.
func (s *Server) copyAtEnd(ctx context.Context, seen *int64) {
	if s.copies == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCopy)
	defer cancel()
	s.copies.since = time.Time{}
	if err := errors.Join(s.follow(ctx, seen), s.copy(ctx, time.Now())); err != nil {
		s.log.Error("the feed's copies in the object store stay behind", "error", err)
	}
}

func (s *Server) copyTo(ctx context.Context, c *copies, p place) error {
	if !c.known {
		last, err := lastCopied(ctx, c.store)
		if err != nil {
			return err
		}
		if _, err := c.store.Put(ctx, copiedKey, objstore.Bytes([]byte(s.key.Public().String()+"\n")), objstore.Condition{}); err != nil {
			return err
		}
		// The last one is compared, so that a store with another feed's is found out.
		c.segment, c.known = max(0, last-1), true
	}
	for last := p.sealed.Sequence / feed.SegmentRecords; c.segment < last; c.segment++ {
		if err := s.copySegment(ctx, c.store, c.segment+1); err != nil {
			return err
		}
	}
	st := p.stretch(p.sealed)
	h := feed.Head{Origin: p.origin, Point: st.End(), Time: time.Now().UTC().Truncate(time.Second)}
	if _, err := c.store.Put(ctx, CopiedTail, objstore.Bytes(st.Text()), objstore.Condition{}); err != nil {
		return err
	}
	if _, err := c.store.Put(ctx, CopiedHead, objstore.Bytes(h.Sign(s.key)), objstore.Condition{}); err != nil {
		return err
	}
	c.end = h.Point
	return nil
}

// lastCopied returns the number of the last segment in the store, or 0.
func lastCopied(ctx context.Context, store objstore.Lister) (last int64, err error) {
	for info, err := range store.List(ctx, string(copiedSegments)) {
		if err != nil {
			return 0, err
		}
		if n, err := strconv.ParseInt(strings.TrimPrefix(string(info.Key), string(copiedSegments)), 10, 64); err == nil {
			last = max(last, n)
		}
	}
	return last, nil
}

// errOther says that the store holds a feed that this one does not continue.
var errOther = errors.New("another feed's segment lies there: the catalogue went back to a backup, or another deployment uses this store; move " +
	"what is below feed/ elsewhere to let this feed take its place")

func (s *Server) copySegment(ctx context.Context, store Store, number int64) error {
	f, err := s.catalogue.FeedSegment(ctx, number)
	if err != nil {
		return err
	}
	text, err := unpack(f)
	if err != nil {
		return err
	}
	k := CopiedSegment(number)
	_, err = store.Put(ctx, k, objstore.Bytes(text), objstore.IfAbsent)
	if !errors.Is(err, objstore.ErrConflict) {
		return err
	}
	o, err := store.Get(ctx, k, objstore.Range{})
	if err != nil {
		return err
	}
	defer o.Close()
	there, err := io.ReadAll(io.LimitReader(o, f.Size+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", k, err)
	}
	if digest.Of(there) != f.SHA256 {
		return fmt.Errorf("%s: %w", k, errOther)
	}
	return nil
}

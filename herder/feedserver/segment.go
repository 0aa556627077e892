package feedserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

const (
	segmentPrefix objstore.Key = catalog.FeedPrefix + "segments/"
	sealPrefix    objstore.Key = catalog.FeedPrefix + "heads/"
)

// SegmentKey is the name of a segment, from 1, in the object store: the one place where its text is.
func SegmentKey(number int64) objstore.Key {
	return segmentPrefix + objstore.Key(strconv.FormatInt(number, 10))
}

// SealKey is the name of the head that stands for a segment's end. It is put before the segment.
func SealKey(number int64) objstore.Key {
	return sealPrefix + objstore.Key(strconv.FormatInt(number, 10))
}

// SegmentNumber returns the number of the segment that has this key, or 0.
func SegmentNumber(k objstore.Key) int64 { return numberOf(k, segmentPrefix) }

// LastSeal returns the number of the last head below SealKey, or 0.
func LastSeal(ctx context.Context, store objstore.Lister) (int64, error) {
	return lastNumber(ctx, store, sealPrefix)
}

func numberOf(k, prefix objstore.Key) int64 {
	n, err := parseNumber(strings.TrimPrefix(string(k), string(prefix)))
	if err != nil {
		return 0
	}
	return n
}

// lastNumber returns the largest number below a prefix, or 0.
func lastNumber(ctx context.Context, store objstore.Lister, prefix objstore.Key) (last int64, err error) {
	for info, err := range store.List(ctx, string(prefix)) {
		if err != nil {
			return 0, err
		}
		last = max(last, numberOf(info.Key, prefix))
	}
	return last, nil
}

// ErrSegment says that a segment is not in the object store, or is not what was sealed.
var ErrSegment = errors.New("a segment of the change feed is lost or damaged")

// errOther says that the store holds a feed that this one does not continue.
var errOther = errors.New("it lies there with other records: the catalogue went back to a backup, another deployment uses this store, or the object is damaged; " +
	"move it elsewhere, and what has a higher number below feed/segments/ and feed/heads/, and this feed takes their place")

// ReadSegment returns the text of a segment, which is what was sealed, or ErrSegment.
func ReadSegment(ctx context.Context, store objstore.Reader, f catalog.FeedSegment) ([]byte, error) {
	k := SegmentKey(f.Number)
	o, err := store.Get(ctx, k, objstore.Range{})
	if errors.Is(err, objstore.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrSegment, err)
	}
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Info.Size != f.Size {
		return nil, fmt.Errorf("%w: %s has %d bytes, and %d were sealed", ErrSegment, k, o.Info.Size, f.Size)
	}
	text := make([]byte, f.Size)
	if _, err := io.ReadFull(o, text); err != nil {
		return nil, fmt.Errorf("read %s: %w", k, err)
	}
	if sum := digest.Of(text); sum != f.SHA256 {
		return nil, fmt.Errorf("%w: %s hashes to %s, and %s was sealed", ErrSegment, k, sum, f.SHA256)
	}
	return text, nil
}

// seal puts whole segments into the object store, in place of their records in the catalogue. Of whoever seals the same at once all put the
// same bytes, which the records in the catalogue make, and one tells the catalogue.
func (s *Server) seal(ctx context.Context) error {
	for {
		p := s.place()
		if len(p.tail) < feed.SegmentRecords {
			return nil
		}
		begun := time.Now()
		var (
			whole []segment
			rows  []catalog.FeedSegment
		)
		for at := p.sealed; p.end().Sequence-at.Sequence >= feed.SegmentRecords && len(whole) < sealedAtOnce; {
			text := p.stretch(at).Text()
			at = p.at(at.Sequence + feed.SegmentRecords)
			f := catalog.FeedSegment{Number: at.Sequence / feed.SegmentRecords, Last: at.Sequence, Chain: at.Chain, Size: int64(len(text)), SHA256: digest.Of(text)}
			whole, rows = append(whole, segment{f, text}), append(rows, f)
		}
		if err := s.keep(ctx, p.origin, whole); err != nil {
			return fmt.Errorf("seal segments of the change feed: %w", err)
		}
		if err := s.catalogue.SealFeed(ctx, rows...); err != nil {
			return err
		}
		last := rows[len(rows)-1]
		s.mu.Lock()
		s.sealed = feed.Point{Sequence: last.Last, Chain: last.Chain}
		s.tail = slices.Clone(s.tail[len(rows)*feed.SegmentRecords:])
		s.mu.Unlock()
		s.log.Info("segments of the change feed sealed", "first", rows[0].Number, "last", last.Number, "took", time.Since(begun))
	}
}

// sealedAtOnce is how many segments are sealed in one transaction. They are held in memory, some 2 MB each.
const sealedAtOnce = 8

// segment is one with its text.
type segment struct {
	catalog.FeedSegment
	text []byte
}

// keep makes segments durable in the object store. Their signed heads come first: whoever has to do with the store alone must not find a
// segment that nothing stands for.
func (s *Server) keep(ctx context.Context, origin string, segments []segment) error {
	lost := segments[:0:0]
	for _, f := range segments {
		_, err := ReadSegment(ctx, s.store, f.FeedSegment)
		switch {
		case errors.Is(err, objstore.ErrNotFound):
			lost = append(lost, f)
		case errors.Is(err, ErrSegment):
			return fmt.Errorf("%w: %w", err, errOther)
		case err != nil:
			return err
		}
	}
	heads := objstore.BatchOf(s.store)
	for _, f := range segments {
		if err := s.keepHead(ctx, heads, origin, f.FeedSegment); err != nil {
			return err
		}
	}
	if err := heads.Commit(ctx); err != nil {
		return err
	}
	texts := objstore.BatchOf(s.store)
	for _, f := range lost {
		_, err := texts.Put(ctx, SegmentKey(f.Number), objstore.Bytes(f.text), objstore.IfAbsent)
		if errors.Is(err, objstore.ErrConflict) { // by another herder meanwhile
			if _, err = ReadSegment(ctx, s.store, f.FeedSegment); errors.Is(err, ErrSegment) {
				err = fmt.Errorf("%w: %w", err, errOther)
			}
		}
		if err != nil {
			return err
		}
	}
	return texts.Commit(ctx)
}

// keepHead puts the signed head of a segment's end, or finds one that says the same.
func (s *Server) keepHead(ctx context.Context, to objstore.Writer, origin string, f catalog.FeedSegment) error {
	k := SealKey(f.Number)
	h := feed.Head{Origin: origin, Point: feed.Point{Sequence: f.Last, Chain: f.Chain}, Time: time.Now().UTC().Truncate(time.Second)}
	_, err := to.Put(ctx, k, objstore.Bytes(h.Sign(s.key)), objstore.IfAbsent)
	if !errors.Is(err, objstore.ErrConflict) {
		return err
	}
	text, err := readSmall(ctx, s.store, k)
	if err != nil {
		return err
	}
	there, err := feed.ParseHead(text, s.key.Public())
	if err != nil {
		return fmt.Errorf("%s: %w: %w", k, err, errOther)
	}
	if there.Origin != h.Origin || there.Point != h.Point {
		return fmt.Errorf("%s: %w", k, errOther)
	}
	return nil
}

// readSmall reads an object of a few lines.
func readSmall(ctx context.Context, store objstore.Reader, k objstore.Key) ([]byte, error) {
	o, err := store.Get(ctx, k, objstore.Range{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	text, err := io.ReadAll(io.LimitReader(o, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k, err)
	}
	return text, nil
}

// unpackAll moves the segments that an earlier version has kept in the catalogue to the object store. What was moved stays so when it is
// interrupted.
func (s *Server) unpackAll(ctx context.Context) error {
	origin := ""
	for moved := 0; ; moved++ {
		f, packed, err := s.catalogue.FeedPacked(ctx)
		if errors.Is(err, catalog.ErrNotFound) {
			if moved > 0 {
				s.log.Info("segments of the change feed moved to the object store", "segments", moved)
			}
			return nil
		}
		if err == nil && origin == "" {
			origin, err = s.catalogue.FeedOrigin(ctx, s.propose)
		}
		if err != nil {
			return err
		}
		text, err := unpack(f, packed)
		if err != nil {
			// It would not be whole tomorrow either, and the feed goes on without it.
			s.log.Error("a segment of the change feed was damaged in the catalogue, and is dropped there; see what narfold check says of it", "segment", f.Number, "error", err)
		} else if err := s.keep(ctx, origin, []segment{{f, text}}); err != nil {
			return fmt.Errorf("move segment %d of the change feed to the object store: %w", f.Number, err)
		}
		if err := s.catalogue.FeedUnpacked(ctx, f.Number); err != nil {
			return err
		}
		if moved == 0 {
			s.log.Info("moving segments of the change feed from the catalogue to the object store; the feed is not served meanwhile", "first", f.Number)
		}
	}
}

func unpack(f catalog.FeedSegment, packed []byte) ([]byte, error) {
	r, err := compress.NewReader(compress.Zstd, bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, err)
	}
	defer r.Close()
	b := bytes.NewBuffer(make([]byte, 0, f.Size+bytes.MinRead))
	if _, err := io.Copy(b, io.LimitReader(r, f.Size+1)); err != nil {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, err)
	}
	if digest.Of(b.Bytes()) != f.SHA256 {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, feed.ErrChain)
	}
	return b.Bytes(), nil
}

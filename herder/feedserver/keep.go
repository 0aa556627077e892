// Package feedserver keeps a herder's change feed and serves it: it makes a record of each change that the catalogue tells, chains
// it to those before, seals whole segments, and signs where the feed stands. docs/feed.md is what it keeps to.
package feedserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
)

// Catalogue is what a feed is made of.
type Catalogue interface {
	catalog.Feed
	Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error]
	Version(ctx context.Context) (int64, error)
}

// Server keeps and serves one feed. Make it with New.
type Server struct {
	catalogue Catalogue
	key       *nixkey.Secret
	propose   string
	log       *slog.Logger
	copies    *copies       // nil if none are kept; Run's
	manifests chan struct{} // has room for as many manifests as are written at once

	mu      sync.Mutex
	loaded  bool
	origin  string
	sealed  feed.Point         // after the last segment
	tail    []catalog.FeedLine // after it; elements are never changed
	changed chan struct{}      // closed when the feed grows, and then replaced; closed for good when Run ends
	ended   bool
	head    []byte // as signed last
	signed  feed.Head
}

const (
	// look is how often the catalogue is asked whether it has changed, which costs it microseconds.
	look = 200 * time.Millisecond
	// afterError is how long an error is left alone before the same is tried again.
	afterError = 5 * time.Second
	// batch is how many records are appended in one transaction.
	batch = 500
)

// New makes a server whose heads are signed with key. A feed that has no name yet gets one from random.
func New(c Catalogue, key *nixkey.Secret, random io.Reader, log *slog.Logger) (*Server, error) {
	var name [16]byte
	if _, err := io.ReadFull(random, name[:]); err != nil {
		return nil, fmt.Errorf("draw a name for the feed: %w", err)
	}
	return &Server{catalogue: c, key: key, propose: fmt.Sprintf("%x", name), log: log, manifests: make(chan struct{}, 2), changed: make(chan struct{})}, nil
}

// Run makes records of what changes, also by other processes, until ctx ends. Requests that wait are then answered.
func (s *Server) Run(ctx context.Context) error {
	defer s.end()
	seen := int64(-1)
	for {
		pause := look
		if err := s.follow(ctx, &seen); err != nil && ctx.Err() == nil {
			s.log.Error("change feed stands still", "error", err)
			pause = afterError
		}
		if err := s.copy(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Error("the feed's copies in the object store stay behind", "error", err)
		}
		select {
		case <-ctx.Done():
			s.copyAtEnd(ctx, &seen)
			return nil
		case <-time.After(pause):
		}
	}
}

// follow brings the feed up to date if the catalogue is not the version that was seen.
func (s *Server) follow(ctx context.Context, seen *int64) error {
	// Asked first: what changes meanwhile makes another version.
	v, err := s.catalogue.Version(ctx)
	if err != nil || v == *seen {
		return err
	}
	if !s.ready() {
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	for {
		more, err := s.append(ctx)
		if err == nil {
			err = s.seal(ctx)
		}
		if errors.Is(err, catalog.ErrFeedMoved) { // by another herder on this catalogue
			more, err = true, s.load(ctx)
		}
		if err != nil {
			return err
		}
		if !more {
			*seen = v
			return nil
		}
	}
}

func (s *Server) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded
}

// load reads where the feed ends.
func (s *Server) load(ctx context.Context) error {
	origin, err := s.catalogue.FeedOrigin(ctx, s.propose)
	if err != nil {
		return err
	}
	last, tail, err := s.catalogue.FeedTail(ctx)
	if err != nil {
		return err
	}
	sealed := feed.Begin(origin)
	if last.Number > 0 {
		sealed = feed.Point{Sequence: last.Last, Chain: last.Chain}
	}
	// What was kept is not believed blindly: what is signed next stands for it.
	at := sealed
	for _, l := range tail {
		if at = at.Next(l.Line); at.Sequence != l.Sequence || at.Chain != l.Chain {
			return fmt.Errorf("load change feed: record %d does not fit the chain: %w; restore catalogue.db from a backup", l.Sequence, feed.ErrChain)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded, s.origin, s.sealed, s.tail = true, origin, sealed, tail
	s.wake()
	return nil
}

// append makes records of the next changes, and reports whether there may be more.
func (s *Server) append(ctx context.Context) (more bool, err error) {
	at := s.place().end()
	changes, err := s.catalogue.Changes(ctx, at.Sequence, batch)
	if err != nil || len(changes) == 0 {
		return false, err
	}
	lines := make([]catalog.FeedLine, len(changes))
	for i, c := range changes {
		if c.Sequence != at.Sequence+1 {
			return false, fmt.Errorf("append to change feed: change %d follows on %d", c.Sequence, at.Sequence)
		}
		r, err := recordOf(c)
		if err != nil {
			return false, err
		}
		l, err := r.Line()
		if err != nil {
			return false, err
		}
		at = at.Next(l)
		lines[i] = catalog.FeedLine{Sequence: at.Sequence, Chain: at.Chain, Line: l}
	}
	if err := s.catalogue.AppendFeed(ctx, lines); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail = append(s.tail, lines...)
	s.wake()
	return len(changes) == batch, nil
}

func recordOf(c catalog.Change) (feed.Record, error) {
	it := c.Item
	r := feed.Record{Sequence: c.Sequence, Time: c.At, Path: it.Path, NarHash: it.NarHash, NarSize: it.NarSize, Narinfo: it.Narinfo}
	switch c.Kind {
	case catalog.ChangePublished:
		r.Op = feed.Publish
	case catalog.ChangeFilesAdded, catalog.ChangeFileReplaced:
		r.Op = feed.Files
	default:
		return r, fmt.Errorf("append to change feed: change %d is of kind %d, which has no record", c.Sequence, c.Kind)
	}
	for _, f := range it.Files {
		r.Files = append(r.Files, feed.File{Compression: f.Compression, Size: f.Size, SHA256: f.SHA256, Key: f.Key, URL: narinfo.NarURL(f.Compression, it.Path.Base)})
	}
	return r, nil
}

// seal keeps whole segments in place of their records.
func (s *Server) seal(ctx context.Context) error {
	for {
		p := s.place()
		if len(p.tail) < feed.SegmentRecords {
			return nil
		}
		st := p.stretch(p.sealed)
		text, end := st.Text(), st.End()
		packed, err := Pack(text)
		if err != nil {
			return err
		}
		f := catalog.FeedSegment{Number: end.Sequence / feed.SegmentRecords, Last: end.Sequence, Chain: end.Chain, Size: int64(len(text)), SHA256: digest.Of(text), Packed: packed}
		if err := s.catalogue.SealFeed(ctx, f); err != nil {
			return err
		}
		s.mu.Lock()
		s.sealed, s.tail = end, slices.Clone(s.tail[feed.SegmentRecords:])
		s.mu.Unlock()
		s.log.Info("segment of the change feed sealed", "segment", f.Number, "bytes", f.Size, "packed", len(packed))
	}
}

// Pack and unpack are how segments lie in the catalogue: zstd makes a third or less of them.
func Pack(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := compress.Options{Workers: 1}.NewWriter(compress.Zstd, &b)
	if err != nil {
		return nil, fmt.Errorf("pack segment: %w", err)
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("pack segment: %w", err)
	}
	return b.Bytes(), nil
}

func unpack(f catalog.FeedSegment) ([]byte, error) {
	r, err := compress.NewReader(compress.Zstd, bytes.NewReader(f.Packed))
	if err != nil {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, err)
	}
	defer r.Close()
	text := make([]byte, 0, f.Size+1)
	b := bytes.NewBuffer(text)
	if _, err := io.Copy(b, io.LimitReader(r, f.Size+1)); err != nil {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, err)
	}
	if digest.Of(b.Bytes()) != f.SHA256 {
		return nil, fmt.Errorf("unpack segment %d of the change feed: %w", f.Number, feed.ErrChain)
	}
	return b.Bytes(), nil
}

// wake tells those who wait that the feed has grown. The caller holds mu.
func (s *Server) wake() {
	if !s.ended {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.changed)
	}
}

// place is what a Server knows at one moment.
type place struct {
	loaded  bool
	origin  string
	sealed  feed.Point
	tail    []catalog.FeedLine
	changed <-chan struct{}
	ended   bool
}

func (s *Server) place() place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return place{s.loaded, s.origin, s.sealed, s.tail, s.changed, s.ended}
}

func (p place) end() feed.Point {
	if n := len(p.tail); n > 0 {
		return feed.Point{Sequence: p.tail[n-1].Sequence, Chain: p.tail[n-1].Chain}
	}
	return p.sealed
}

// at returns the point after a record that is in no segment, or after the last that is in one.
func (p place) at(sequence int64) feed.Point {
	if sequence == p.sealed.Sequence {
		return p.sealed
	}
	l := p.tail[sequence-p.sealed.Sequence-1]
	return feed.Point{Sequence: l.Sequence, Chain: l.Chain}
}

// stretch returns the records after a point that is not before the end of the last segment, as many as a segment has.
func (p place) stretch(before feed.Point) *feed.Stretch {
	lines := p.tail[before.Sequence-p.sealed.Sequence:]
	st := &feed.Stretch{Origin: p.origin, Before: before}
	for _, l := range lines[:min(len(lines), feed.SegmentRecords)] {
		st.Lines = append(st.Lines, l.Line)
	}
	return st
}

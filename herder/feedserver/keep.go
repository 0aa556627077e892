// Package feedserver keeps a herder's change feed and serves it: it makes a record of each change that the catalogue tells, chains
// it to those before, seals whole segments in the object store, and signs where the feed stands. docs/feed.md is what it keeps to.
package feedserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/feed"
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
	store     Store
	key       *nixkey.Secret
	propose   string
	log       *slog.Logger
	copies    copies        // Run's
	snapshots snapshots     // Run's
	manifests chan struct{} // has room for as many manifests as are written at once

	mu      sync.Mutex
	loaded  bool
	origin  string
	sealed  feed.Point         // after the last segment
	tail    []catalog.FeedLine // after it; elements are never changed, and in no segment
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
	// batch and batchBytes are how many records, and how much of them, are appended in one transaction; some more if that is how it comes.
	batch      = 4 * feed.SegmentRecords
	batchBytes = 16 << 20
	// mostUnsealed is how many records may be in no segment, because the object store does not take one, before the feed stands still. They
	// are some 2 KB each, in the catalogue and in memory.
	mostUnsealed = 20 * feed.SegmentRecords
)

// New makes a server whose heads are signed with key, and whose segments and copies are in store. A feed that has no name yet gets one
// from random.
func New(c Catalogue, store Store, key *nixkey.Secret, random io.Reader, log *slog.Logger) (*Server, error) {
	var name [16]byte
	if _, err := io.ReadFull(random, name[:]); err != nil {
		return nil, fmt.Errorf("draw a name for the feed: %w", err)
	}
	return &Server{catalogue: c, store: store, key: key, propose: fmt.Sprintf("%x", name), log: log, manifests: make(chan struct{}, 2), changed: make(chan struct{})}, nil
}

// Run makes records of what changes, also by other processes, until ctx ends. Requests that wait are then answered.
func (s *Server) Run(ctx context.Context) error {
	defer s.end()
	seen := int64(-1)
	for {
		pause := look
		if err := s.follow(ctx, &seen); err != nil && ctx.Err() == nil {
			s.log.Error("change feed stays behind", "error", err)
			pause = afterError
		}
		s.copyAndTell(ctx)
		if err := s.snapshot(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Error("the feed's snapshot stays as it is", "error", err)
		}
		select {
		case <-ctx.Done():
			s.endSnapshots()
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
		if err := s.unpackAll(ctx); err != nil {
			return err
		}
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	for {
		err := s.grow(ctx)
		if errors.Is(err, catalog.ErrFeedMoved) { // by another herder on this catalogue
			if err = s.load(ctx); err == nil {
				continue
			}
		}
		if err == nil {
			*seen = v
		}
		return err
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

package feedserver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"narfold/internal/catalog"
	"narfold/internal/feed"
	"narfold/internal/narinfo"
)

// grow appends records of all that has changed, and seals what is whole. Where a segment cannot be sealed it appends on for a while, so
// that the feed does not wait for the object store.
func (s *Server) grow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan lines, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(batches)
		s.readAhead(ctx, s.place().end().Sequence, batches)
	})
	defer func() {
		cancel()
		for range batches { // what was read and is not wanted
		}
		reading.Wait()
	}()
	unsealed := s.seal(ctx) // what was left
	for b := range batches {
		switch {
		case errors.Is(unsealed, catalog.ErrFeedMoved):
			return unsealed
		case unsealed != nil && len(s.place().tail) >= mostUnsealed:
			return fmt.Errorf("%d records are in no segment: %w", len(s.place().tail), unsealed)
		case b.err != nil:
			return b.err
		}
		if err := s.append(ctx, b.lines); err != nil {
			return err
		}
		if unsealed == nil {
			unsealed = s.seal(ctx)
		}
		s.copyAndTell(ctx) // it may be long until all is appended
	}
	return errors.Join(unsealed, ctx.Err())
}

// lines are records that have no place in the chain yet, or what keeps them from being made.
type lines struct {
	lines [][]byte
	err   error
}

// readAhead makes lines of the changes after a record, and hands them over until there are no more changes.
func (s *Server) readAhead(ctx context.Context, after int64, to chan<- lines) {
	for {
		b, last := s.linesAfter(ctx, after)
		if b.err == nil && len(b.lines) == 0 {
			return
		}
		select {
		case to <- b:
		case <-ctx.Done():
			return
		}
		if last {
			return
		}
		after += int64(len(b.lines))
	}
}

// linesAfter returns lines for one transaction: all that there are, or many, so that what each commit costs is shared.
func (s *Server) linesAfter(ctx context.Context, after int64) (b lines, last bool) {
	for size := 0; len(b.lines) < batch && size < batchBytes; {
		const page = 500
		changes, err := s.catalogue.Changes(ctx, after+int64(len(b.lines)), page)
		if err != nil {
			return lines{err: err}, true
		}
		more, err := Lines(after+int64(len(b.lines)), changes)
		if err != nil {
			return lines{err: err}, true
		}
		b.lines = append(b.lines, more...)
		if len(changes) < page {
			return b, true
		}
		for _, l := range more {
			size += len(l)
		}
	}
	return b, false
}

// Lines makes the records of changes that follow on a record, one line for each.
func Lines(after int64, changes []catalog.Change) ([][]byte, error) {
	all := make([][]byte, len(changes))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	const portion = 50
	for from := 0; from < len(changes); from += portion {
		g.Go(func() error {
			for i := from; i < min(from+portion, len(changes)); i++ {
				if c := changes[i]; c.Sequence != after+1+int64(i) {
					return fmt.Errorf("append to change feed: change %d stands in the place of %d", c.Sequence, after+1+int64(i))
				}
				r, err := recordOf(changes[i])
				if err != nil {
					return err
				}
				if all[i], err = r.Line(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all, g.Wait()
}

// append gives lines their places in the chain.
func (s *Server) append(ctx context.Context, texts [][]byte) error {
	at := s.place().end()
	lines := make([]catalog.FeedLine, len(texts))
	for i, l := range texts {
		at = at.Next(l)
		lines[i] = catalog.FeedLine{Sequence: at.Sequence, Chain: at.Chain, Line: l}
	}
	if err := s.catalogue.AppendFeed(ctx, lines); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail = append(s.tail, lines...)
	s.wake()
	return nil
}

// recordOf makes the record of a change. What has no narinfo any more has none to be told: whatever its change was, the record says that it is
// deleted, as its last one will.
func recordOf(c catalog.Change) (feed.Record, error) {
	it := c.Item
	r := feed.Record{Sequence: c.Sequence, Time: c.At, Path: it.Path}
	switch c.Kind {
	case catalog.ChangePublished:
		r.Op = feed.Publish
	case catalog.ChangeFilesAdded, catalog.ChangeFileReplaced:
		r.Op = feed.Files
	case catalog.ChangeRestored:
		r.Op = feed.Undo
	case catalog.ChangeWithdrawn:
		r.Op = feed.Withdraw
		return r, nil
	case catalog.ChangeDeleted:
		r.Op = feed.Delete
		return r, nil
	default:
		return r, fmt.Errorf("append to change feed: change %d is of kind %d, which has no record", c.Sequence, c.Kind)
	}
	if c.State == catalog.StateDeleting || c.State == catalog.StateGone {
		r.Op = feed.Delete
		return r, nil
	}
	r.NarHash, r.NarSize, r.Narinfo = it.NarHash, it.NarSize, it.Narinfo
	for _, f := range it.Files {
		r.Files = append(r.Files, feed.File{Compression: f.Compression, Size: f.Size, SHA256: f.SHA256, Key: f.Key, URL: narinfo.NarURL(f.Compression, it.Path.Base)})
	}
	return r, nil
}

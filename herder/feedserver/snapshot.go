package feedserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// The names of snapshots in the object store are those of their URLs. Their lists and indexes are named by their hashes, and never change.
const (
	snapshotHead   objstore.Key = catalog.FeedPrefix + "snapshot"
	snapshotPrefix objstore.Key = catalog.FeedPrefix + "snapshots/"
	copiedManifest objstore.Key = catalog.FeedPrefix + "manifest"
	partSuffix                  = ".zst"
	indexSuffix                 = ".index"
)

func partKey(sum digest.SHA256) objstore.Key {
	return snapshotPrefix + objstore.Key(sum.Hex()+partSuffix)
}

func indexKey(sum digest.SHA256) objstore.Key {
	return snapshotPrefix + objstore.Key(sum.Hex()+indexSuffix)
}

// Snapshots says how snapshots and the manifest are kept in the object store.
type Snapshots struct {
	// Every is how far apart they are, as long as something changes.
	Every time.Duration
	// Records is after how many records one is made earlier, though not before an eighth of Every. 0 is never.
	Records int64
	// Keep is how long the files of a snapshot stay when there is a later one, for those who read it.
	Keep time.Duration
	// Spool is the folder where the manifest is written before it is put: some 200 bytes for each file.
	Spool   string
	Deleter objstore.Deleter
}

// snapshots is what Run knows of them.
type snapshots struct {
	Snapshots
	last    feed.Snapshot // in the store, when it was looked at
	looked  bool
	after   time.Time    // when to try again after an error
	working chan outcome // what a goroutine does is told here; nil if none is at work
	made    *made        // waits for the copied head to come as far
	workers sync.WaitGroup
}

type outcome struct {
	made *made // or nil, if something else was done
	err  error
}

// made is a snapshot whose list is in the store.
type made struct {
	feed.Snapshot
	manifest objstore.Body
	done     func() // removes what the manifest was written to
}

// afterSnapshot is how long the next try waits after an error.
const afterSnapshot = 10 * time.Minute

// KeepSnapshots makes Run keep snapshots. Call it before Run.
func (s *Server) KeepSnapshots(how Snapshots) { s.snapshots.Snapshots = how }

// snapshot goes a step on with snapshots: it begins one, takes over one that is made, or shows it.
func (s *Server) snapshot(ctx context.Context, now time.Time) (err error) {
	o := &s.snapshots
	if o.Every <= 0 || !s.copies.known || now.Before(o.after) {
		return nil
	}
	defer func() {
		if err != nil {
			o.after = now.Add(afterSnapshot)
			err = fmt.Errorf("make a snapshot of the feed: %w", err)
		}
	}()
	if o.working != nil {
		select {
		case r := <-o.working:
			o.working, o.made = nil, r.made
			if r.err != nil {
				return r.err
			}
		default:
			return nil
		}
	}
	switch p := s.place(); {
	case o.made != nil:
		// Who begins with it must find the records that it wants read.
		if s.copies.end.Sequence < o.made.Until {
			return nil
		}
		m := o.made
		o.made = nil
		defer m.done()
		return s.show(ctx, m)
	case !o.due(p, now):
		return nil
	case !o.looked || o.last.Index != (digest.SHA256{}):
		// Another herder may have made one.
		if o.last, err = s.shown(ctx); err != nil {
			return err
		}
		if o.looked = true; !o.due(p, now) {
			return nil
		}
	}
	last := o.last
	s.work(ctx, func(ctx context.Context) outcome {
		m, err := s.list(ctx, last)
		return outcome{m, err}
	})
	return nil
}

// work does something that takes its time beside Run, which waits for its end.
func (s *Server) work(ctx context.Context, do func(context.Context) outcome) {
	done := make(chan outcome, 1)
	s.snapshots.working = done
	s.snapshots.workers.Go(func() { done <- do(ctx) })
}

// endSnapshots waits for what is under way, and drops it.
func (s *Server) endSnapshots() {
	o := &s.snapshots
	o.workers.Wait()
	if o.working != nil {
		if r := <-o.working; r.made != nil {
			r.made.done()
		}
	}
	if o.made != nil {
		o.made.done()
	}
}

// due reports whether it is time for a snapshot.
func (o *snapshots) due(p place, now time.Time) bool {
	end, age := p.end().Sequence, now.Sub(o.last.Time)
	switch {
	case end == o.last.Until:
		return false
	case age >= o.Every:
		return true
	}
	return o.Records > 0 && end-o.last.Until >= o.Records && age >= o.Every/8
}

// shown returns the snapshot that the store shows, or an empty one.
func (s *Server) shown(ctx context.Context) (feed.Snapshot, error) {
	text, err := readSmall(ctx, s.store, snapshotHead)
	if errors.Is(err, objstore.ErrNotFound) {
		return feed.Snapshot{}, nil
	}
	if err != nil {
		return feed.Snapshot{}, err
	}
	shown, err := feed.ParseSnapshot(text, s.key.Public())
	if err != nil || shown.Origin != s.place().origin || shown.Until > s.place().end().Sequence {
		s.log.Warn("the snapshot in the object store is of another feed, or damaged; another takes its place", "error", err)
		return feed.Snapshot{}, nil
	}
	return shown, nil
}

// show makes a snapshot the one that is shown, and then removes what nobody needs any more.
func (s *Server) show(ctx context.Context, m *made) error {
	if _, err := s.store.Put(ctx, copiedManifest, m.manifest, objstore.Condition{}); err != nil {
		return err
	}
	m.Time = time.Now().UTC().Truncate(time.Second)
	if _, err := s.store.Put(ctx, snapshotHead, objstore.Bytes(m.Sign(s.key)), objstore.Condition{}); err != nil {
		return err
	}
	s.snapshots.last = m.Snapshot
	s.log.Info("snapshot of the change feed made", "sequence", m.Sequence, "until", m.Until, "items", m.Items)
	if s.snapshots.Deleter != nil {
		current := m.Snapshot
		s.work(ctx, func(ctx context.Context) outcome {
			if err := s.sweep(ctx, current, time.Now()); err != nil && ctx.Err() == nil {
				s.log.Error("old snapshots of the change feed are not removed", "error", err)
			}
			return outcome{}
		})
	}
	return nil
}

// caughtUp returns the number of a record that came after all changes until now.
func (s *Server) caughtUp(ctx context.Context) (int64, error) {
	goal := int64(0)
	for {
		p := s.place()
		// As many as that may come while they are waited for: then count again.
		const many = 1000
		changes, err := s.catalogue.Changes(ctx, p.end().Sequence, many)
		if err != nil {
			return 0, err
		}
		goal = p.end().Sequence + int64(len(changes))
		for p.end().Sequence < goal {
			if p.ended {
				return 0, context.Canceled
			}
			select {
			case <-p.changed:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			p = s.place()
		}
		if len(changes) < many {
			return goal, nil
		}
	}
}

// spool makes a file without a name, so that nothing is left of it when it is closed, or the process is killed.
func (o *snapshots) spool() (*os.File, error) {
	f, err := os.CreateTemp(o.Spool, "manifest-*")
	if err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	return f, nil
}

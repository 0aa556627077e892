// Package rebuild makes a herder's catalogue anew from what lies in its object store, after the catalogue was lost with all its backups.
//
// The change feed is all that was ever said of what is served, and a herder keeps copies of it beside the nars. Its records have
// the narinfos, as they were signed, and the objects' keys, sizes and hashes; the chain and the signed head prove that none is missing
// or changed. What the feed does not tell is lost: tokens, items that waited for references, and what was published in the
// last seconds or while no herder ran, whose objects a check finds as unaccounted for. The same holds for the objects of items that were withdrawn,
// which are not in the new catalogue.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"narfold/herder/feedserver"
	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// ErrNoFeed says that there are no copies of a feed in the store.
var ErrNoFeed = errors.New("the object store has no copy of a change feed")

// Report says what was found.
type Report struct {
	Origin  string `json:"origin"`  // of the feed
	Records int64  `json:"records"` // that the signed head stands for
	Items   int64  `json:"items"`   // in the new catalogue
	Logs    int64  `json:"logs"`    // of builds
}

// store is what a catalogue is made of.
type store interface {
	objstore.Reader
	objstore.Lister
}

// By is who published the items of a rebuilt catalogue: who did at first is not in the feed.
const By = "rebuild"

// Run makes a catalogue at path, where none may be, of the feed that lies in objects and is signed by key. With an error there is none.
func Run(ctx context.Context, objects store, key nixkey.PublicKey, path string, progress func(records, of int64)) (r Report, err error) {
	f := &reader{ctx: ctx, objects: objects, progress: progress}
	if err = f.readHead(key); err != nil {
		return r, err
	}
	r.Origin, r.Records = f.head.Origin, f.head.Sequence
	last, err := f.outcomes()
	if err != nil {
		return r, err
	}
	if r.Items, err = sqlite.Build(ctx, path, f.items(last)); err != nil {
		return r, err
	}
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		return r, err
	}
	segments, tail, err := f.kept()
	if err == nil {
		err = db.AdoptFeed(ctx, f.head.Origin, segments, tail)
	}
	if err == nil {
		r.Logs, err = logs(ctx, objects, db)
	}
	return r, errors.Join(err, db.Close())
}

// reader reads the copies of a feed.
type reader struct {
	ctx      context.Context
	objects  store
	head     feed.Head
	sealed   int64 // the segment whose end the head stands for, or 0 if it is the copied head
	progress func(records, of int64)
}

// limit is how large a copy may be: a thousand records of the largest size that there are.
const limit = 4 << 30

func (f *reader) read(k objstore.Key) ([]byte, error) {
	o, err := f.objects.Get(f.ctx, k, objstore.Range{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	text, err := io.ReadAll(io.LimitReader(o, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k, err)
	}
	return text, nil
}

// readHead reads the head that stands for most: the copied one, or that of the last segment if a herder was killed before it copied.
func (f *reader) readHead(key nixkey.PublicKey) error {
	text, err := f.read(feedserver.CopiedHead)
	if errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNoFeed, err)
	}
	if err != nil {
		return err
	}
	if f.head, err = feed.ParseHead(text, key); err != nil {
		return err
	}
	last, err := feedserver.LastSeal(f.ctx, f.objects)
	if err != nil {
		return err
	}
	for n := last; n*feed.SegmentRecords > f.head.Sequence; n-- {
		// The segment comes after its head, which stands for nothing without it.
		if _, err := f.objects.Stat(f.ctx, feedserver.SegmentKey(n)); errors.Is(err, objstore.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if text, err = f.read(feedserver.SealKey(n)); err != nil {
			return err
		}
		h, err := feed.ParseHead(text, key)
		if err != nil {
			return fmt.Errorf("%s: %w", feedserver.SealKey(n), err)
		}
		if h.Sequence != n*feed.SegmentRecords || h.Origin != f.head.Origin {
			return fmt.Errorf("%s: %w: it is of record %d of feed %s", feedserver.SealKey(n), feed.ErrChain, h.Sequence, h.Origin)
		}
		f.head, f.sealed = h, n
		return nil
	}
	return nil
}

// stretches yields the segments and then the rest, verified one by one, up to the record that the head stands for.
func (f *reader) stretches() iter.Seq2[*stretch, error] {
	return func(yield func(*stretch, error) bool) {
		segments, tail, records, err := f.end()
		if err != nil {
			yield(nil, err)
			return
		}
		at := feed.Begin(f.head.Origin)
		hand := func(st *feed.Stretch, records []feed.Record, text []byte, number int64) bool {
			before := at
			next, err := at.Follow(f.head.Origin, st)
			if err == nil && before.Sequence <= f.head.Sequence && f.head.Sequence <= next.Sequence {
				err = f.covers(st)
			}
			if err != nil {
				yield(nil, fmt.Errorf("records from %d: %w", before.Sequence+1, err))
				return false
			}
			at = next
			// What is newer than the head has no signature yet.
			records = records[:min(int64(len(records)), max(0, f.head.Sequence-before.Sequence))]
			f.progress(min(at.Sequence, f.head.Sequence), f.head.Sequence)
			return yield(&stretch{st, records, text, number}, nil)
		}
		for n := int64(1); n <= segments; n++ {
			text, err := f.read(feedserver.SegmentKey(n))
			if err != nil {
				yield(nil, err)
				return
			}
			st, records, err := feed.ParseStretch(text)
			if err != nil {
				yield(nil, fmt.Errorf("%s: %w", feedserver.SegmentKey(n), err))
				return
			}
			if !hand(st, records, text, n) {
				return
			}
		}
		if tail != nil && hand(tail, records, nil, 0) && at.Sequence < f.head.Sequence {
			yield(nil, fmt.Errorf("%w: the records end at %d, and the head stands for %d", feed.ErrChain, at.Sequence, f.head.Sequence))
		}
	}
}

// end returns how many segments there are, and the stretch after them, or nil if none is needed.
func (f *reader) end() (segments int64, tail *feed.Stretch, records []feed.Record, err error) {
	if f.sealed > 0 {
		return f.sealed, nil, nil, nil
	}
	text, err := f.read(feedserver.CopiedTail)
	if err != nil {
		return 0, nil, nil, err
	}
	if tail, records, err = feed.ParseStretch(text); err != nil {
		return 0, nil, nil, fmt.Errorf("%s: %w", feedserver.CopiedTail, err)
	}
	return tail.Before.Sequence / feed.SegmentRecords, tail, records, nil
}

// stretch is one of stretches.
type stretch struct {
	*feed.Stretch
	records []feed.Record
	text    []byte // of a segment
	number  int64  // of a segment, or 0
}

// covers checks that a stretch leads to the head, which is within it.
func (f *reader) covers(st *feed.Stretch) error {
	at := st.Before
	for _, l := range st.Lines {
		if at.Sequence == f.head.Sequence {
			break
		}
		at = at.Next(l)
	}
	if at != f.head.Point {
		return fmt.Errorf("%w: record %d leads to %s, and the head says %s", feed.ErrChain, at.Sequence, at.Chain.Hex(), f.head.Chain.Hex())
	}
	return nil
}

// outcome is what the feed says of an item in the end.
type outcome struct {
	published int64        // the record that published it last, or brought it back; 0 if it is withdrawn
	at        int64        // when it was published, in milliseconds since 1970
	files     *feed.Record // that told its files last, if that was another
}

func (f *reader) outcomes() (map[[20]byte]outcome, error) {
	last := make(map[[20]byte]outcome)
	for st, err := range f.stretches() {
		if err != nil {
			return nil, err
		}
		for i, r := range st.records {
			hash := r.Path.HashPart().Bytes()
			switch r.Op {
			case feed.Publish:
				last[hash] = outcome{published: r.Sequence, at: r.Time.UnixMilli()}
			case feed.Undo:
				o := outcome{published: r.Sequence, at: last[hash].at}
				if o.at == 0 {
					o.at = r.Time.UnixMilli()
				}
				last[hash] = o
			case feed.Files:
				o := last[hash]
				o.files = &st.records[i]
				last[hash] = o
			case feed.Withdraw:
				last[hash] = outcome{at: last[hash].at}
			case feed.Delete:
				delete(last, hash)
			}
		}
	}
	return last, nil
}

// items yields what is published in the end, in the order of its publication, which puts references first.
func (f *reader) items(last map[[20]byte]outcome) iter.Seq2[catalog.Publication, error] {
	return func(yield func(catalog.Publication, error) bool) {
		for st, err := range f.stretches() {
			if err != nil {
				yield(catalog.Publication{}, err)
				return
			}
			for _, r := range st.records {
				o := last[r.Path.HashPart().Bytes()]
				if o.published != r.Sequence {
					continue
				}
				p, err := publication(r, o)
				if !yield(p, err) || err != nil {
					return
				}
			}
		}
	}
}

func publication(r feed.Record, o outcome) (p catalog.Publication, err error) {
	n, err := narinfo.Parse(r.Narinfo)
	if err != nil {
		return p, fmt.Errorf("record %d: %w", r.Sequence, err)
	}
	p.By = By
	p.Path, p.NarHash, p.NarSize, p.References, p.Narinfo, p.Published = r.Path, r.NarHash, r.NarSize, n.References, r.Narinfo, time.UnixMilli(o.at).UTC()
	files := o.files
	if files == nil {
		files = &r
	}
	for _, f := range files.Files {
		p.Files = append(p.Files, catalog.File{Compression: f.Compression, Key: f.Key, Size: f.Size, SHA256: f.SHA256})
	}
	return p, nil
}

// kept returns the feed as a catalogue keeps it, up to the head.
func (f *reader) kept() (segments iter.Seq2[catalog.FeedSegment, error], tail []catalog.FeedLine, err error) {
	whole := f.head.Sequence / feed.SegmentRecords
	for st, err := range f.stretches() {
		if err != nil {
			return nil, nil, err
		}
		if st.number > 0 && st.number <= whole {
			continue
		}
		at := st.Before
		for _, l := range st.Lines[:len(st.records)] {
			at = at.Next(l)
			tail = append(tail, catalog.FeedLine{Sequence: at.Sequence, Chain: at.Chain, Line: l})
		}
	}
	return func(yield func(catalog.FeedSegment, error) bool) {
		for st, err := range f.stretches() {
			switch {
			case err != nil:
				yield(catalog.FeedSegment{}, err)
				return
			case st.number == 0 || st.number > whole:
				return
			}
			end := st.End()
			s := catalog.FeedSegment{Number: st.number, Last: end.Sequence, Chain: end.Chain, Size: int64(len(st.text)), SHA256: digest.Of(st.text)}
			if !yield(s, nil) {
				return
			}
		}
	}, tail, nil
}

// logs finds the build logs, whose keys say of what they are.
func logs(ctx context.Context, objects objstore.Lister, to catalog.Logs) (n int64, err error) {
	prefix := string(catalog.LogKey(""))
	for info, err := range objects.List(ctx, prefix) {
		if err != nil {
			return n, fmt.Errorf("list build logs: %w", err)
		}
		of, err := storepath.ParseBase(string(info.Key)[len(prefix):])
		if err != nil {
			continue // not one of ours
		}
		if err := to.AddLog(ctx, of, info.Key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

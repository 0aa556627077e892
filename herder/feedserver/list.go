package feedserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// partItems is how many items' numbers a part of a list spans. What was published long ago seldom changes, so that most parts of one
// snapshot are parts of the next.
const partItems = 5000

// list makes the list of a snapshot and the manifest, of what the catalogue has while the feed goes on. It holds one part in memory, of
// some 10 MB, and takes at most half of a processor's time.
func (s *Server) list(ctx context.Context, last feed.Snapshot) (m *made, err error) {
	p := s.place()
	file, err := s.snapshots.spool()
	if err != nil {
		return nil, err
	}
	done := func() { file.Close() }
	defer func() {
		if err != nil {
			done()
		}
	}()
	l := &lister{s: s, sum: sha256.New()}
	l.manifest = newManifest(io.MultiWriter(file, l.sum))
	if l.known, err = s.partsOf(ctx, last); err != nil {
		return nil, err
	}
	for it, err := range s.catalogue.Items(ctx, 0) {
		if err == nil {
			err = l.add(ctx, it)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := l.flush(ctx); err != nil {
		return nil, err
	}
	index := feed.IndexText(l.parts)
	m = &made{done: done}
	m.Origin, m.Point, m.Items, m.Index, m.Size = p.origin, p.sealed, l.items, digest.Of(index), int64(len(index))
	if _, err := s.store.Put(ctx, indexKey(m.Index), objstore.Bytes(index), objstore.Condition{}); err != nil {
		return nil, err
	}
	if m.Until, err = s.caughtUp(ctx); err != nil {
		return nil, err
	}
	if err := s.manifestOfFeed(ctx, l.manifest, m.Snapshot, l.parts); err != nil {
		return nil, err
	}
	size, err := l.manifest.end()
	if err != nil {
		return nil, err
	}
	m.manifest = objstore.Body{Size: size, Open: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(file, 0, size)), nil }}
	l.sum.Sum(m.manifest.SHA256[:0])
	return m, nil
}

// lister writes parts.
type lister struct {
	s        *Server
	known    map[digest.SHA256]feed.Part // by the hash of their lines
	manifest *manifest
	sum      interface {
		io.Writer
		Sum([]byte) []byte
	}

	span  int64 // of the items' numbers in the part that is being made
	plain bytes.Buffer
	count int64
	begun time.Time
	parts []feed.Part
	items int64
}

func (l *lister) add(ctx context.Context, it catalog.Item) error {
	if span := it.Sequence / partItems; span != l.span || l.count == 0 {
		if err := l.flush(ctx); err != nil {
			return err
		}
		l.span, l.begun = span, time.Now()
	}
	r, err := recordOf(catalog.Change{Kind: catalog.ChangePublished, At: it.Published, Item: it})
	if err != nil {
		return err
	}
	line, err := r.ItemLine()
	if err != nil {
		return err
	}
	l.plain.Write(line)
	l.count++
	return l.manifest.item(it)
}

// flush keeps the part that is being made.
func (l *lister) flush(ctx context.Context) error {
	if l.count == 0 {
		return nil
	}
	part := feed.Part{Items: l.count, Plain: digest.Of(l.plain.Bytes()), Length: int64(l.plain.Len())}
	if same, ok := l.known[part.Plain]; ok {
		part = same
	} else {
		packed, err := pack(l.plain.Bytes())
		if err != nil {
			return err
		}
		part.SHA256, part.Size = digest.Of(packed), int64(len(packed))
		// Also over one that is there: it is as young as this snapshot then, and not removed as an old one.
		if _, err := l.s.store.Put(ctx, partKey(part.SHA256), objstore.Bytes(packed), objstore.Condition{}); err != nil {
			return err
		}
	}
	l.parts, l.items, l.count = append(l.parts, part), l.items+l.count, 0
	l.plain.Reset()
	// The other half of the time is for those who are served.
	rest := time.NewTimer(time.Since(l.begun))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pack compresses the lines of a part.
func pack(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := compress.Options{Workers: 1}.NewWriter(compress.Zstd, &b)
	if err == nil {
		_, err = w.Write(text)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("compress a part of a snapshot: %w", err)
	}
	return b.Bytes(), nil
}

// partsOf returns the parts of a snapshot that are in the store, by the hashes of their lines.
func (s *Server) partsOf(ctx context.Context, of feed.Snapshot) (map[digest.SHA256]feed.Part, error) {
	known := make(map[digest.SHA256]feed.Part)
	parts, err := s.index(ctx, of)
	if err != nil || len(parts) == 0 {
		if errors.Is(err, ErrSegment) || errors.Is(err, objstore.ErrNotFound) {
			err = nil // made anew
		}
		return known, err
	}
	sizes := make(map[objstore.Key]int64)
	for info, err := range s.store.List(ctx, string(snapshotPrefix)) {
		if err != nil {
			return nil, err
		}
		sizes[info.Key] = info.Size
	}
	for _, p := range parts {
		if size, ok := sizes[partKey(p.SHA256)]; ok && size == p.Size {
			known[p.Plain] = p
		}
	}
	return known, nil
}

// index returns the parts of a snapshot, none of the empty one.
func (s *Server) index(ctx context.Context, of feed.Snapshot) ([]feed.Part, error) {
	if of.Index == (digest.SHA256{}) {
		return nil, nil
	}
	text, err := readNamed(ctx, s.store, indexKey(of.Index))
	if err != nil {
		return nil, err
	}
	return feed.ParseIndex(text)
}

// mostNamed bounds what is read of a snapshot's files: the lines of a part are few, but each may be large.
const mostNamed = 1 << 30

// readNamed reads an object that is named by its hash. With ErrSegment it has another.
func readNamed(ctx context.Context, store objstore.Reader, k objstore.Key) ([]byte, error) {
	o, err := store.Get(ctx, k, objstore.Range{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	text, err := io.ReadAll(bufio.NewReader(io.LimitReader(o, mostNamed)))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k, err)
	}
	if sum := digest.Of(text).Hex(); !strings.HasPrefix(string(k), string(snapshotPrefix)+sum+".") {
		return nil, fmt.Errorf("%w: %s hashes to %s", ErrSegment, k, sum)
	}
	return text, nil
}

package feedserver

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
)

// manifest writes a list of what does not change.
type manifest struct {
	b     *bufio.Writer
	lines int
	size  int64
}

const manifestLine = "narfold-feed-manifest 2\n"

func newManifest(w io.Writer) *manifest {
	m := &manifest{b: bufio.NewWriterSize(w, 64<<10)}
	m.print(manifestLine)
	return m
}

func (m *manifest) print(text string) error {
	n, err := m.b.WriteString(text)
	m.size += int64(n)
	return err
}

func (m *manifest) entry(sum digest.SHA256, size int64, k objstore.Key, url string) error {
	m.lines++
	if url == string(k) {
		return m.print(fmt.Sprintf("%s\t%d\t%s\n", sum.Hex(), size, k))
	}
	return m.print(fmt.Sprintf("%s\t%d\t%s\t%s\n", sum.Hex(), size, k, url))
}

// item writes the files of an item.
func (m *manifest) item(it catalog.Item) error {
	for _, f := range it.Files {
		if err := m.entry(f.SHA256, f.Size, f.Key, narinfo.NarURL(f.Compression, it.Path.Base)); err != nil {
			return err
		}
	}
	return nil
}

// end returns the size in bytes.
func (m *manifest) end() (int64, error) {
	m.print(fmt.Sprintf("end %d\n", m.lines)) // its error comes again
	return m.size, m.b.Flush()
}

// manifestOfFeed writes the segments, and the files of a snapshot.
func (s *Server) manifestOfFeed(ctx context.Context, m *manifest, of feed.Snapshot, parts []feed.Part) error {
	same := func(sum digest.SHA256, size int64, k objstore.Key) error { return m.entry(sum, size, k, string(k)) }
	for f, err := range s.catalogue.FeedSegments(ctx) {
		if err == nil {
			err = same(f.SHA256, f.Size, SegmentKey(f.Number))
		}
		if err != nil {
			return err
		}
	}
	for _, p := range parts {
		if err := same(p.SHA256, p.Size, partKey(p.SHA256)); err != nil {
			return err
		}
	}
	if of.Index == (digest.SHA256{}) {
		return nil
	}
	return same(of.Index, of.Size, indexKey(of.Index))
}

package catalogtest

import (
	"errors"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
)

// testFeed checks the contract of catalog.Feed.
func testFeed(t *testing.T, open func(t *testing.T) catalog.Catalogue, reopen func(t *testing.T, c catalog.Catalogue) catalog.Catalogue) {
	t.Run("every change is told in order, with the item as it is", func(t *testing.T) {
		c := open(t)
		a, b := Item("a"), Item("b", "a")
		publish(t, c, b, a)
		publish(t, c, a) // changes nothing
		a.Files = append(a.Files, File("a", compress.Lzip))
		publish(t, c, a)
		c = reopen(t, c)
		changes, err := c.Changes(t.Context(), 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for i, ch := range changes {
			if ch.Sequence != int64(i+1) || ch.At.IsZero() {
				t.Errorf("change %d: sequence %d at %v", i, ch.Sequence, ch.At)
			}
			told = append(told, ch.Item.Path.Name())
			if ch.Item.Path == a.Path {
				equal(t, "files", ch.Item.Files, []catalog.File{File("a", compress.Lzip), File("a", compress.Zstd)})
			}
		}
		equal(t, "items", told, []string{"a", "b", "a"})
		equal(t, "kinds", []catalog.ChangeKind{changes[0].Kind, changes[1].Kind, changes[2].Kind},
			[]catalog.ChangeKind{catalog.ChangePublished, catalog.ChangePublished, catalog.ChangeFilesAdded})
		second, err := c.Changes(t.Context(), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "a part", second, changes[1:2])
		if rest, err := c.Changes(t.Context(), 3, 10); err != nil || len(rest) != 0 {
			t.Errorf("after the last: %+v, %v", rest, err)
		}
	})

	t.Run("the feed has one name for good", func(t *testing.T) {
		c := open(t)
		first, err := c.FeedOrigin(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		again, err := reopen(t, c).FeedOrigin(t.Context(), "two")
		equal(t, "origins", []string{first, again}, []string{"one", "one"})
		if err != nil {
			t.Error(err)
		}
	})

	t.Run("lines are appended only where the feed ends, and stay", func(t *testing.T) {
		c := open(t)
		lines := feedLines(1, 5)
		for _, step := range []struct {
			lines []catalog.FeedLine
			want  error
		}{{lines[1:2], catalog.ErrFeedMoved}, {lines[:3], nil}, {lines[:3], catalog.ErrFeedMoved}, {[]catalog.FeedLine{lines[3], lines[3]}, catalog.ErrFeedMoved}, {lines[3:], nil}} {
			if err := c.AppendFeed(t.Context(), step.lines); !errors.Is(err, step.want) {
				t.Errorf("append from %d: %v, want %v", step.lines[0].Sequence, err, step.want)
			}
		}
		last, tail, err := reopen(t, c).FeedTail(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "last segment", last, catalog.FeedSegment{})
		equal(t, "lines", tail, lines)
	})

	t.Run("a segment takes the place of its lines", func(t *testing.T) {
		c := open(t)
		lines := feedLines(1, 5)
		if err := c.AppendFeed(t.Context(), lines[:4]); err != nil {
			t.Fatal(err)
		}
		s := catalog.FeedSegment{Number: 1, Last: 3, Chain: lines[2].Chain, Size: 7, SHA256: digest.Of([]byte("text"))}
		ahead, second := s, s
		ahead.Last, second.Number = 5, 2
		for _, bad := range []catalog.FeedSegment{ahead, second} {
			if err := c.SealFeed(t.Context(), bad); !errors.Is(err, catalog.ErrFeedMoved) {
				t.Errorf("seal %d to %d: %v", bad.Number, bad.Last, err)
			}
		}
		if err := c.SealFeed(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := c.SealFeed(t.Context(), s); !errors.Is(err, catalog.ErrFeedMoved) {
			t.Errorf("sealed twice: %v", err)
		}
		c = reopen(t, c)
		got, err := c.FeedSegment(t.Context(), 1)
		equal(t, "segment", got, s)
		if err != nil {
			t.Error(err)
		}
		if _, err := c.FeedSegment(t.Context(), 2); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("a segment that is not there: %v", err)
		}
		equal(t, "segments", collect(t, c.FeedSegments(t.Context())), []catalog.FeedSegment{s})
		last, tail, err := c.FeedTail(t.Context())
		equal(t, "last segment", last, s)
		equal(t, "lines after it", tail, lines[3:4])
		if err != nil {
			t.Error(err)
		}
		if _, _, err := c.FeedPacked(t.Context()); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("a packed segment in a new catalogue: %v", err)
		}
		// The rest of the lines goes into the next ones; then the feed continues after them.
		if err := c.AppendFeed(t.Context(), feedLines(5, 7)); err != nil {
			t.Error(err)
		}
		next := []catalog.FeedSegment{{Number: 2, Last: 4}, {Number: 3, Last: 6}}
		if err := c.SealFeed(t.Context(), next[0], catalog.FeedSegment{Number: 3, Last: 8}); !errors.Is(err, catalog.ErrFeedMoved) {
			t.Errorf("sealed with a line that is not there: %v", err)
		}
		if err := c.SealFeed(t.Context(), next...); err != nil {
			t.Error(err)
		}
		if err := c.SealFeed(t.Context(), next[1]); !errors.Is(err, catalog.ErrFeedMoved) {
			t.Errorf("sealed twice: %v", err)
		}
		equal(t, "all segments", collect(t, c.FeedSegments(t.Context())), append([]catalog.FeedSegment{s}, next...))
		if err := c.AppendFeed(t.Context(), feedLines(8, 8)); err != nil {
			t.Error(err)
		}
	})
}

func feedLines(first, last int64) (lines []catalog.FeedLine) {
	for n := first; n <= last; n++ {
		lines = append(lines, catalog.FeedLine{Sequence: n, Chain: digest.Of([]byte{byte(n)}), Line: []byte{'{', byte(n), '}', '\n'}})
	}
	return lines
}

package catalog

import (
	"context"
	"errors"
	"iter"
	"time"

	"narfold/internal/digest"
)

// ErrFeedMoved says that the feed does not end any more where the caller thought: read its end again.
var ErrFeedMoved = errors.New("the change feed has moved on")

// ChangeKind says what a change did to an item.
type ChangeKind int

// The kinds of changes, as catalogues keep them.
const (
	ChangePublished    ChangeKind = 1
	ChangeFilesAdded   ChangeKind = 2
	ChangeFileReplaced ChangeKind = 3
	ChangeWithdrawn    ChangeKind = 4
	ChangeRestored     ChangeKind = 5
	ChangeDeleted      ChangeKind = 6 // it is deleting: what is published under its path from now on is another life of it
)

// Change is one change of what is published.
type Change struct {
	Sequence int64 // from 1, without gaps; not that of items
	Kind     ChangeKind
	At       time.Time // to the millisecond
	Item     Item      // as it is now, which may be after later changes
	// State is that of Item. Of one that is deleting or gone only Path, NarHash, NarSize and Sequence are known; its last change is a
	// ChangeDeleted. Of one that is condemned, Files and Narinfo are what they were.
	State State
}

// FeedLine is a record of the change feed as it was written, with the chain hash after it.
type FeedLine struct {
	Sequence int64 // that of the change
	Chain    digest.SHA256
	Line     []byte
}

// FeedSegment says what a whole segment of the change feed is. Its text is in the object store.
type FeedSegment struct {
	Number int64         // from 1
	Last   int64         // sequence of its last line
	Chain  digest.SHA256 // after its last line
	Size   int64         // bytes of its text
	SHA256 digest.SHA256 // of its text
}

// Feed keeps the change feed. A change is found out by Changes, and becomes a line that stays as it is when AppendFeed has returned.
// Lines are appended by whoever serves the feed; of several, one succeeds.
type Feed interface {
	// FeedOrigin returns the name of the feed. At the first call the given one is recorded.
	FeedOrigin(ctx context.Context, propose string) (string, error)
	// Changes returns the changes whose sequence is greater than after, ascending, at most limit.
	Changes(ctx context.Context, after int64, limit int) ([]Change, error)
	// AppendFeed appends lines that continue one another, or appends none: with ErrFeedMoved if the first does not
	// continue the feed.
	AppendFeed(ctx context.Context, lines []FeedLine) error
	// FeedTail returns the last segment and the lines after it. Without a segment, its Number is 0.
	FeedTail(ctx context.Context) (FeedSegment, []FeedLine, error)
	// SealFeed keeps what segments are, the next ones, in place of their lines: the caller has made their texts durable in the object
	// store. With ErrFeedMoved nothing was changed: they are sealed already, or are not the next, or not all of their lines are there.
	SealFeed(ctx context.Context, segments ...FeedSegment) error
	// FeedSegment returns a segment, or ErrNotFound.
	FeedSegment(ctx context.Context, number int64) (FeedSegment, error)
	// FeedSegments yields all segments, ascending.
	FeedSegments(ctx context.Context) iter.Seq2[FeedSegment, error]
	// FeedPacked returns the first segment whose text an earlier version has kept in the catalogue, compressed with zstd, and that
	// FeedUnpacked was not called for; or ErrNotFound.
	FeedPacked(ctx context.Context) (s FeedSegment, packed []byte, err error)
	// FeedUnpacked drops that text. The caller has made it durable in the object store.
	FeedUnpacked(ctx context.Context, number int64) error
}

// Package catalog is the one truth about what exists: which store items are published, from which nars, in which objects.
//
// A catalogue is transactional. To publish an item, one transaction checks that everything it references is published, so that
// what is served is always closed; the bytes are in the object store before that. Keys of objects are handed out here
// before they are written (Reserve), so that after a crash every object is either part of a published item or a known upload
// that came to nothing. One contract, several realisations, all held to it by catalogtest.
package catalog

import (
	"context"
	"errors"
	"iter"
	"time"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Errors on which callers decide.
var (
	// ErrNotFound says that the item, file or token is certainly not in the catalogue.
	ErrNotFound = errors.New("not in the catalogue")
	// ErrNotReserved says that a file's key was not reserved, or that its reservation was cleaned up: reserve and put again.
	ErrNotReserved = errors.New("object key is not reserved")
	// ErrNewer says that the catalogue was written by a newer version of Narfold, which this one must not touch.
	ErrNewer = errors.New("catalogue was written by a newer version")
	// ErrFull says that there is no room to record a change; nothing was changed.
	ErrFull = errors.New("no room for the catalogue")
	// ErrForeign says that a file is no catalogue of Narfold.
	ErrForeign = errors.New("not a catalogue of narfold")
	// ErrDamaged says that a file is a catalogue and cannot be read whole.
	ErrDamaged = errors.New("catalogue is damaged")
	// ErrPresent says that there is a catalogue already where one was to be put.
	ErrPresent = errors.New("there is a catalogue already")
	// ErrInUse says that a catalogue cannot be replaced because a process uses it, or used because it is being replaced.
	ErrInUse = errors.New("catalogue is in use")
)

// File is one compressed form of a nar: an object whose expansion was hashed and found equal to the nar's hash.
type File struct {
	Compression compress.Method
	Key         objstore.Key
	Size        int64         // bytes of the object
	SHA256      digest.SHA256 // of the object
	Verified    time.Time     // when it was last expanded and hashed
}

// Item is a published store item.
type Item struct {
	Path       storepath.Path
	NarHash    digest.SHA256
	NarSize    int64
	References []storepath.Base // as the narinfo has them, in its order, self-reference included
	Narinfo    []byte           // the narinfo as it was signed; its URL groups are replaced when it is served
	Files      []File           // ascending by compression name; never empty for a published item
	Published  time.Time
	Sequence   int64 // of the change that published it; grows, references first
}

// Publication asks for an item to be published.
type Publication struct {
	Item
	// Wait keeps an item whose references are missing until they are published, instead of refusing it.
	Wait bool
	// By says who publishes: the name of a token, or "import".
	By string
}

// Verdict is what became of a Publication.
type Verdict int

// The verdicts.
const (
	Published Verdict = iota // it is live now
	Present                  // it was live already, or condemned and is live again, with the same nar; new compressions were added
	Waiting                  // it is kept, unseen, until Missing are published
	Refused                  // references are missing: nothing was recorded
	Differs                  // it is live with another nar: the difference was recorded, the first stays
)

// String returns the verdict as summaries and JSON write it.
func (v Verdict) String() string {
	switch v {
	case Published:
		return "published"
	case Present:
		return "present"
	case Waiting:
		return "waiting"
	case Refused:
		return "refused"
	case Differs:
		return "differs"
	}
	return "unknown"
}

// Outcome is the answer to one Publication.
type Outcome struct {
	Verdict  Verdict
	Missing  []storepath.Base // for Waiting and Refused: the references that are not published
	Other    digest.SHA256    // for Differs: the nar hash of the item that stays
	Released []storepath.Path // items that had waited for this one and are published with it
	// Unused are keys of this publication that the catalogue did not need, because the nar had that compression already.
	// They are uploads, also if their reservation had been cleaned up, and are cleaned up as such: their objects are there.
	Unused []objstore.Key
}

// Want asks for a key for one compressed form of an item's nar.
type Want struct {
	Base        storepath.Base
	Compression compress.Method
	// After is a key of an earlier answer that turned out to hold other bytes; a later generation is handed out.
	After objstore.Key
}

// Upload is a key that was handed out and has not become part of a published item.
type Upload struct {
	Key   objstore.Key
	Since time.Time
	// For is the item that waits for references with this object, or "" if nobody does.
	For storepath.Base
}

// Difference records that an item came out of two builds with two contents.
type Difference struct {
	Path  storepath.Path
	Live  digest.SHA256 // nar hash of the published item
	Other digest.SHA256 // nar hash of the one that came later
	By    string
	Seen  time.Time
}

// Reader answers what exists. Its answers are of one moment and, with a server in the same process or another, at most as old as
// the start of the call.
type Reader interface {
	// Item returns a published item by its hash part, or ErrNotFound.
	Item(ctx context.Context, h storepath.HashPart) (Item, error)
	// Missing returns those of hs that are not published, in the order given.
	Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	// Files returns, for each of narHashes, the files of the live nar with that hash, whichever item brought them, or none.
	Files(ctx context.Context, narHashes []digest.SHA256) ([][]File, error)
	// Items yields the published items whose sequence is greater than after, in ascending order.
	Items(ctx context.Context, after int64) iter.Seq2[Item, error]
	// EachHashPart calls f with the bytes of the hash part of each published item whose sequence is greater than after, in no
	// particular order, all as of one moment, and returns the sequence of the last item of that moment.
	EachHashPart(ctx context.Context, after int64, f func([20]byte)) (last int64, err error)
	// Counts sums up.
	Counts(ctx context.Context) (Counts, error)
	// Version changes whenever anything is published, withdrawn or brought back, also by another process. It is cheap.
	Version(ctx context.Context) (int64, error)
}

// Counts sums up a catalogue.
type Counts struct {
	Items    int64 `json:"items"`
	Waiting  int64 `json:"waiting"`
	Nars     int64 `json:"nars"`
	NarBytes int64 `json:"nar_bytes"` // uncompressed
	Files    int64 `json:"files"`
	Bytes    int64 `json:"bytes"` // of files
	Uploads  int64 `json:"uploads"`
	// Dirs are the store directories that items belong to, with their numbers.
	Dirs map[storepath.Dir]int64 `json:"store_directories"`
}

// Publisher makes things exist.
type Publisher interface {
	// Reserve hands out a key for each want, and records it durably before it returns. The same want gets the same key again
	// while nothing was published under it, so that a later run finds what an earlier one had written. A key that is or was
	// part of a published item is never handed out again, nor is one of an earlier generation than such a key.
	Reserve(ctx context.Context, wants []Want) ([]objstore.Key, error)
	// Publish decides each publication, in an order that puts references first, in one transaction: all outcomes are
	// durable when it returns, or, with an error, nothing was changed. A publication without files is for a nar that is
	// live already (see Files), and is an error otherwise. Cycles, which no store has, are refused.
	Publish(ctx context.Context, ps []Publication) ([]Outcome, error)
	// RecordVerified notes that files were expanded and hashed again at the given time.
	RecordVerified(ctx context.Context, keys []objstore.Key, at time.Time) error
	// Replace puts a file in the place of the published one with the key old, whose object is lost: of the same nar in the same
	// compression, under a key that was reserved. For all items with that nar it is served from the moment that Replace
	// returns; old is an upload that is being cleaned up from then on, which Uploads tells and Reserve never hands out. It fails
	// with ErrNotFound if old is not the key of a published file, and with ErrNotReserved if f's key is not reserved, or held
	// for an item that waits; then nothing was changed.
	Replace(ctx context.Context, old objstore.Key, f File) error
}

// Accounts let a check compare the catalogue with the object store, both ways.
type Accounts interface {
	// Keys yields every key that published items use, ascending, with its file.
	Keys(ctx context.Context) iter.Seq2[File, error]
	// Owner returns what c knows of a key, or ErrNotFound.
	Owner(ctx context.Context, k objstore.Key) (KeyState, error)
	// Uploads yields the keys that were handed out and are not part of a published item, ascending.
	Uploads(ctx context.Context) iter.Seq2[Upload, error]
	// Abandon begins the cleaning of an upload that nobody waits for and that was handed out before the given time: from
	// then on the key is not handed out again. It reports false if the key is in use after all. The caller deletes the
	// object, then calls Abandoned.
	Abandon(ctx context.Context, k objstore.Key, before time.Time) (bool, error)
	// Abandoned forgets an upload for which Abandon was true and whose object is gone.
	Abandoned(ctx context.Context, k objstore.Key) error
	// WaitingItems yields what waits for references.
	WaitingItems(ctx context.Context) iter.Seq2[WaitingItem, error]
	// Differences yields what was built differently, oldest first.
	Differences(ctx context.Context) iter.Seq2[Difference, error]
}

// KeyState says what a key is to the catalogue.
type KeyState int

// The states of a key.
const (
	KeyLive      KeyState = iota + 1 // part of a published item
	KeyUpload                        // handed out
	KeyLog                           // a build log
	KeyCondemned                     // part of an item that is withdrawn, or being deleted
	KeySpent                         // was part of an item that is gone: no publication can use it any more
)

// WaitingItem is an item kept until its references are published.
type WaitingItem struct {
	Path    storepath.Path
	Missing []storepath.HashPart
	Since   time.Time
}

// Logs remembers build logs.
type Logs interface {
	// AddLog records that the log of a derivation (or output) is stored under k.
	AddLog(ctx context.Context, of storepath.Base, k objstore.Key) error
	// Log returns the key of the log of a derivation or output, or ErrNotFound.
	Log(ctx context.Context, of storepath.Base) (objstore.Key, error)
}

// Catalogue is all of it, for those who build the stack.
type Catalogue interface {
	Reader
	Publisher
	Accounts
	Logs
	Tokens
	Feed
	Lifecycle
	Popularity
	// ObjectsAt records, at the first call with a place, where the objects of this catalogue are, and returns what is recorded, or
	// "": a catalogue that is used with another store names objects that are not there.
	ObjectsAt(ctx context.Context, where string) (recorded string, err error)
	Close() error
}

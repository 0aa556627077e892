// Package objstore keeps bytes under names: a directory, an S3 bucket or memory, behind one contract split by power.
//
// A role is handed no more than it may do: a mirror's upstream is a Reader, only gc holds a Deleter. Keys are write-once by
// convention: what a client may hold a URL of is put with IfAbsent and never changes afterwards. Every store is held to the
// contract below by the suite in objstoretest.
package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"narfold/internal/digest"
)

// Errors on which callers decide. Stores wrap them with the operation and the key.
var (
	// ErrNotFound says that the object is certainly absent: the store answered so.
	ErrNotFound = errors.New("object not found")
	// ErrConflict says that a Condition did not hold, and that nothing was stored by this call.
	ErrConflict = errors.New("object store condition does not hold")
	// ErrKey says that a key is not one.
	ErrKey = errors.New("not an object key")
	// ErrRange says that a read began past the end of the object.
	ErrRange = errors.New("range not within object")
	// ErrUnavailable says that the store could not be asked, or could not do it now; trying again may help.
	ErrUnavailable = errors.New("object store unavailable")
	// ErrDenied says that the credentials do not allow the operation; trying again will not help.
	ErrDenied = errors.New("object store denies access")
	// ErrFull says that the store has no room (ENOSPC, EDQUOT, or a bucket's quota).
	ErrFull = errors.New("object store full")
	// ErrDigest says that a body was not what it was said to be; nothing is visible under the key.
	ErrDigest = errors.New("body differs from its size or digest")
)

// Key names an object: one or more segments separated by slashes, relative, without "." or ".." or empty segments. Each segment
// is at most 255 bytes and the whole at most 1,024, of printable ASCII without backslash, so that a key is also a file name, a
// URL path (after escaping) and an S3 key. Segments that begin with ".narfold" are kept for the stores themselves. Where names are
// paths, a key cannot be another's folder: of "a" and "a/b" a store may refuse the later with ErrKey.
type Key string

// ParseKey checks s.
func ParseKey(s string) (Key, error) {
	bad := func(why string) (Key, error) {
		if len(s) > 120 {
			s = s[:120] + "…"
		}
		return "", fmt.Errorf("%w: %q: %s", ErrKey, s, why)
	}
	if s == "" {
		return bad("empty")
	}
	if len(s) > 1024 {
		return bad("longer than 1024 bytes")
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return bad("has a character that is not printable ASCII, or a backslash")
		}
	}
	for part := range strings.SplitSeq(s, "/") {
		switch {
		case part == "":
			return bad("has an empty segment")
		case part == "." || part == "..":
			return bad("has a dot segment")
		case len(part) > 255:
			return bad("has a segment longer than 255 bytes")
		case strings.HasPrefix(part, ".narfold"):
			return bad("has a segment kept for the store")
		}
	}
	return Key(s), nil
}

// Info describes a stored object.
type Info struct {
	Key      Key
	Size     int64
	ETag     string    // changes when the bytes do; opaque, without quotes
	Modified time.Time // when it was put, by the store's clock, at least to the second; a Put may return zero for it
}

// Object is an open object. Info describes the whole object, also when only a range is read. If the object is a local file, File
// is that file, positioned at the start of the range, for sendfile; reading Object reads the same bytes.
type Object struct {
	io.ReadCloser
	Info Info
	File *os.File // nil unless the store is a directory
}

// Range is a span of bytes. The zero value is the whole object. Length < 0 is not allowed; Length 0 means to the end.
type Range struct {
	Offset int64
	Length int64
}

// Reader reads.
type Reader interface {
	// Get opens the bytes r of k. A range that reaches beyond the end is cut there; one that begins at or past the end of
	// a non-empty object is ErrRange, and of an empty one there are no bytes but from offset 0. The caller closes the
	// Object. An error while reading is ErrUnavailable unless it is the context's.
	Get(ctx context.Context, k Key, r Range) (Object, error)
	// Stat describes k without reading it.
	Stat(ctx context.Context, k Key) (Info, error)
}

// Lister lists.
type Lister interface {
	// List yields every object whose key begins with prefix (a plain string prefix, which may be empty) in ascending byte
	// order of keys, and then ends; or it yields one error, last. An object put or deleted meanwhile may be missed or seen.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// Condition says when a Put may happen.
type Condition struct {
	IfAbsent bool   // only if nothing is stored under the key
	IfMatch  string // only if what is stored has this ETag
}

// IfAbsent is the condition of a write-once key.
var IfAbsent = Condition{IfAbsent: true}

// Body is what a Put stores. Open is called once for each attempt, and maybe once more to hash if SHA256 is zero, and must give the
// same Size bytes each time.
type Body struct {
	Size   int64
	SHA256 digest.SHA256 // checked against what is stored if not zero
	Open   func() (io.ReadCloser, error)
	// Path is set if the bytes are a local regular file that the caller gives away: a directory store on the same file
	// system may link it into place instead of copying, and may change its permissions and time. The file must not be
	// written to afterwards; the caller removes its own name for it. What is linked is not read: SHA256, if it is set, must
	// have been computed from this very file, and not be what the file is hoped to contain.
	Path string
}

// Bytes is a body held in memory.
func Bytes(b []byte) Body {
	return Body{Size: int64(len(b)), SHA256: digest.Of(b), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// Writer stores.
type Writer interface {
	// Put stores body under k and returns when it would survive a power cut. Readers see the whole new object or what was
	// there before, never a part. It fails with ErrConflict, and stores nothing, if c does not hold; of several
	// concurrent Puts with IfAbsent exactly one succeeds. A body that is shorter or longer than Size, or has another
	// SHA256, is ErrDigest. After any other error the object may or may not be there: Put again, or Stat.
	//
	// IfMatch where nothing is stored is ErrConflict. An ErrConflict of IfAbsent says also that the object in the way would
	// survive a power cut, whoever put it; in a Batch, after the next Commit. Where an answer can be lost and another have
	// replaced the object since, IfMatch may fail with ErrUnavailable instead: read again and decide anew.
	Put(ctx context.Context, k Key, body Body, c Condition) (Info, error)
}

// Deleter deletes.
type Deleter interface {
	// Delete removes k and returns when that would survive a power cut. That k was not there is not an error. After an
	// error the object may or may not be there.
	Delete(ctx context.Context, k Key) error
}

// Store is all of it, for those who build the stack.
type Store interface {
	Reader
	Lister
	Writer
	Deleter
}

// Presigner lets somebody without credentials read or write one object for a while.
type Presigner interface {
	// PresignGet returns a URL that answers GET with the object until ttl has passed.
	PresignGet(ctx context.Context, k Key, ttl time.Duration) (string, error)
	// PresignPut returns a URL, and the headers that must be sent with it, that stores exactly size bytes under k if
	// nothing is there yet, until ttl has passed. What arrives is verified by nobody, and servers are known that store a
	// part when the connection breaks: who hands the URL out compares the size and the digest afterwards, and deletes what
	// is wrong.
	PresignPut(ctx context.Context, k Key, size int64, ttl time.Duration) (url string, header map[string]string, err error)
}

// Batch is a Writer whose Puts are visible at once but survive a power cut only after Commit has returned. Many small
// objects become durable for the price of one. After a power cut before that an object is there whole or not at all.
type Batch interface {
	Writer
	// Commit returns when everything put so far would survive a power cut. A Batch may be used again afterwards, but not
	// after a failed Commit: what was put since the last one may be gone then, and is to be put again in another Batch.
	Commit(ctx context.Context) error
}

// Batcher is a store that gains by batches.
type Batcher interface {
	Batch() Batch
}

// BatchOf returns a batch of w: its own if it has them, or w itself, which is durable at each Put.
func BatchOf(w Writer) Batch {
	if b, ok := w.(Batcher); ok {
		return b.Batch()
	}
	return alreadyDurable{w}
}

type alreadyDurable struct{ Writer }

func (alreadyDurable) Commit(ctx context.Context) error { return ctx.Err() }

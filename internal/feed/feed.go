// Package feed is the format of the change feed: what a herder says, signed and in order, about everything that it published, so
// that a mirror can follow it and can prove it if two mirrors were told different things.
//
// A record is one line. Each line moves a chain of SHA-256 hashes on; a head states, with a signature, where the chain stands.
// Stretches are runs of records that can be kept as files. docs/feed.md describes all of it for those who write their own reader.
package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Errors on which callers decide.
var (
	// ErrFormat says that a text is no record, stretch or head.
	ErrFormat = errors.New("not in the format of the change feed")
	// ErrChain says that records do not follow from what was there before: something is damaged, or the feed was rolled back or forked.
	ErrChain = errors.New("chain of the change feed is broken")
)

const (
	// SegmentRecords is how many records a segment has.
	SegmentRecords = 1000
	// MaxLine bounds a record with its line end, in bytes.
	MaxLine = 4 << 20
	// originLen is the length of an origin: 16 random bytes in hexadecimal.
	originLen = 32
)

// Op is what happened to an item.
type Op string

// The operations. Publish, Files and Undo carry the whole item; of what is withdrawn or deleted the path is enough.
const (
	Publish  Op = "publish"  // the item is served from now on
	Files    Op = "files"    // its nar is there in other files than before
	Withdraw Op = "withdraw" // its narinfo is not served any more; its nar still is, for a while
	Undo     Op = "undo"     // the withdrawal is taken back
	Delete   Op = "delete"   // its nar is gone too, unless other items have the same
)

// whole reports whether records of this operation carry the item.
func (o Op) whole() bool { return o == Publish || o == Files || o == Undo }

// Record is one change. A record of Withdraw or Delete has nothing after Path.
type Record struct {
	Sequence int64     // from 1, without gaps
	Time     time.Time // of the change, to the millisecond, by the herder's clock
	Op       Op
	Path     storepath.Path
	NarHash  digest.SHA256
	NarSize  int64
	Narinfo  []byte // as it was signed; its URL groups are not those of the server
	Files    []File // all forms of the nar that were there when the record was written
}

// File is one form of a nar.
type File struct {
	Compression compress.Method
	Size        int64         // bytes
	SHA256      digest.SHA256 // of the object
	Key         objstore.Key  // in the object store
	URL         string        // below the root of the herder
}

// line is a Record as JSON has it. The order of the fields is that of the text.
type line struct {
	Sequence int64      `json:"seq,omitempty"`
	Time     string     `json:"time"`
	Op       Op         `json:"op,omitempty"`
	Path     string     `json:"path"`
	NarHash  string     `json:"narSha256,omitempty"`
	NarSize  int64      `json:"narSize,omitempty"`
	Narinfo  string     `json:"narinfo,omitempty"`
	Files    []lineFile `json:"files,omitempty"`
}

type lineFile struct {
	Compression string `json:"compression"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	Key         string `json:"key"`
	URL         string `json:"url"`
}

const timeFormat = "2006-01-02T15:04:05.000Z"

// Line returns the record as a line of the feed, with its line end, or why it cannot be one. What was written once is kept as it is,
// since the chain goes over the bytes.
func (r *Record) Line() ([]byte, error) {
	l, err := r.line()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("write record %d of the feed: %w", r.Sequence, err)
	}
	if b.Len() > MaxLine {
		return nil, fmt.Errorf("write record %d of the feed: %d bytes, more than %d: %w", r.Sequence, b.Len(), MaxLine, ErrFormat)
	}
	return b.Bytes(), nil
}

// line is the record as JSON has it, if readers will take it: nothing is chained that they would refuse.
func (r *Record) line() (*line, error) {
	l := &line{Sequence: r.Sequence, Time: r.Time.UTC().Format(timeFormat), Op: r.Op, Path: r.Path.String()}
	if r.Op.whole() {
		l.NarHash, l.NarSize, l.Narinfo = r.NarHash.Hex(), r.NarSize, string(r.Narinfo)
		for _, f := range r.Files {
			l.Files = append(l.Files, lineFile{string(f.Compression), f.Size, f.SHA256.Hex(), string(f.Key), f.URL})
		}
	}
	if _, err := l.record(); err != nil {
		return nil, fmt.Errorf("write record %d of the feed: %w", r.Sequence, err)
	}
	if r.Op.whole() && !utf8.Valid(r.Narinfo) {
		return nil, fmt.Errorf("write record %d of the feed: the narinfo is not UTF-8: %w", r.Sequence, ErrFormat)
	}
	return l, nil
}

// ParseRecord reads a line, with or without its line end. It refuses a record that contradicts its own narinfo. Fields that it does not
// know are passed over.
func ParseRecord(text []byte) (Record, error) {
	if len(text) > MaxLine {
		return badRecord("line", fmt.Errorf("%d bytes, more than %d", len(text), MaxLine))
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return badRecord("line", err)
	}
	return l.record()
}

func badRecord(what string, err error) (Record, error) {
	return Record{}, fmt.Errorf("read record of the feed: %s: %w: %w", what, ErrFormat, err)
}

// record is what a line says, or why it is none.
func (l *line) record() (Record, error) {
	bad := badRecord
	r := Record{Sequence: l.Sequence, Op: l.Op}
	if r.Sequence < 1 {
		return bad("seq", fmt.Errorf("%d is less than 1", r.Sequence))
	}
	var err error
	if r.Time, err = time.Parse(timeFormat, l.Time); err != nil {
		return bad("time", err)
	}
	if r.Path, err = storepath.Parse(l.Path); err != nil {
		return bad("path", err)
	}
	switch {
	case l.Op == Withdraw || l.Op == Delete:
		return r, nil
	case !l.Op.whole():
		return bad("op", fmt.Errorf("%.40q is not known", l.Op))
	}
	if r.NarHash, err = parseHex(l.NarHash); err != nil {
		return bad("narSha256", err)
	}
	r.NarSize, r.Narinfo = l.NarSize, []byte(l.Narinfo)
	n, err := narinfo.Parse(r.Narinfo)
	switch {
	case err != nil:
		return bad("narinfo", err)
	case n.StorePath != r.Path || n.NarHash != r.NarHash || n.NarSize != r.NarSize:
		return bad("narinfo", errors.New("it is of another item than the record"))
	case len(l.Files) == 0:
		return bad("files", errors.New("there are none"))
	}
	for _, f := range l.Files {
		one, err := parseFile(f)
		if err != nil {
			return bad("files", err)
		}
		r.Files = append(r.Files, one)
	}
	return r, nil
}

func parseFile(l lineFile) (f File, err error) {
	if f.Compression, err = compress.ParseMethod(l.Compression); err != nil {
		return f, err
	}
	if f.Size = l.Size; f.Size < 1 {
		return f, fmt.Errorf("size %d of %.100q", l.Size, l.Key)
	}
	if f.SHA256, err = parseHex(l.SHA256); err != nil {
		return f, err
	}
	if f.Key, err = objstore.ParseKey(l.Key); err != nil {
		return f, err
	}
	f.URL = l.URL
	return f, narinfo.CheckURL(l.URL)
}

// parseHex reads 64 lower-case hexadecimal digits.
func parseHex(s string) (d digest.SHA256, err error) {
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fmt.Errorf("%.80q: want %d lower-case hexadecimal digits", s, 2*len(d))
	}
	_, err = hex.Decode(d[:], []byte(s))
	return d, err
}

// parseSequence reads a decimal number as it is written here: without sign or leading zeros.
func parseSequence(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a sequence number", s)
	}
	return n, nil
}

// Point is a place in a feed: after record Sequence, where the chain stands at Chain.
type Point struct {
	Sequence int64
	Chain    digest.SHA256
}

// Begin returns the point before the first record of the feed that is called origin.
func Begin(origin string) Point {
	return Point{0, sha256.Sum256([]byte("narfold-feed 1\n" + origin + "\n"))}
}

// Next returns the point after one more record, given with its line end.
func (p Point) Next(line []byte) Point {
	h := sha256.New()
	h.Write(p.Chain[:])
	h.Write(line)
	next := Point{Sequence: p.Sequence + 1}
	h.Sum(next.Chain[:0])
	return next
}

// CheckOrigin says whether s can name a feed: 32 lower-case hexadecimal digits, drawn at random when the feed begins.
func CheckOrigin(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(s) != originLen || hex.EncodeToString(b) != s {
		return fmt.Errorf("origin %.80q: want %d lower-case hexadecimal digits: %w", s, originLen, ErrFormat)
	}
	return nil
}

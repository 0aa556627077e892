package feed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"narfold/internal/digest"
	"narfold/internal/nixkey"
)

// Snapshot says where a list lies of all that was served, so that a reader need not begin at record 1.
type Snapshot struct {
	Origin string
	Point  // records up to here need not be read
	// Until is the record up to which all must be read before the list is what was served: it was made while the feed went on from
	// Point to here.
	Until int64
	Items int64         // in the list
	Index digest.SHA256 // of the index, which names the parts of the list
	Size  int64         // of the index, in bytes
	Time  time.Time     // when it was signed, to the second
}

const snapshotLine = "narfold-feed-snapshot 1"

func (s Snapshot) text() string {
	return fmt.Sprintf("%s\norigin %s\nsequence %d\nchain %s\nuntil %d\nitems %d\nindex %s %d\ntime %s\n", snapshotLine, s.Origin, s.Sequence, s.Chain.Hex(), s.Until,
		s.Items, s.Index.Hex(), s.Size, s.Time.UTC().Format(headTimeFormat))
}

// Sign returns the snapshot as it is published.
func (s Snapshot) Sign(key *nixkey.Secret) []byte {
	text := s.text()
	return []byte(text + "signature " + key.Sign(text) + "\n")
}

// ParseSnapshot reads a snapshot and checks its signature. The error wraps ErrFormat, or one of nixkey's if the signature is not by key.
func ParseSnapshot(text []byte, key nixkey.PublicKey) (s Snapshot, err error) {
	bad := func(format string, args ...any) (Snapshot, error) {
		return Snapshot{}, fmt.Errorf("read snapshot of the feed: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	if len(text) > maxHead {
		return bad("%d bytes, more than %d", len(text), maxHead)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 10 || lines[0] != snapshotLine || lines[9] != "" {
		return bad("want 9 lines that begin with %q", snapshotLine)
	}
	var values [8]string
	for i, name := range []string{"origin ", "sequence ", "chain ", "until ", "items ", "index ", "time ", "signature "} {
		var ok bool
		if values[i], ok = strings.CutPrefix(lines[i+1], name); !ok {
			return bad("line %d does not begin with %q", i+2, name)
		}
	}
	s.Origin = values[0]
	if err := CheckOrigin(s.Origin); err != nil {
		return bad("%v", err)
	}
	sum, size, _ := strings.Cut(values[5], " ")
	for _, n := range []struct {
		text string
		into *int64
	}{{values[1], &s.Sequence}, {values[3], &s.Until}, {values[4], &s.Items}, {size, &s.Size}} {
		if *n.into, err = parseSequence(n.text); err != nil {
			return bad("%v", err)
		}
	}
	if s.Chain, err = parseHex(values[2]); err != nil {
		return bad("%v", err)
	}
	if s.Index, err = parseHex(sum); err != nil {
		return bad("%v", err)
	}
	if s.Time, err = time.Parse(headTimeFormat, values[6]); err != nil {
		return bad("%v", err)
	}
	switch signed := s.text(); {
	case s.Until < s.Sequence:
		return bad("until %d is before sequence %d", s.Until, s.Sequence)
	case !strings.HasPrefix(string(text), signed):
		return bad("something is written otherwise")
	default:
		if err := key.Verify(signed, values[7]); err != nil {
			return Snapshot{}, fmt.Errorf("read snapshot of the feed: %w", err)
		}
	}
	return s, nil
}

// Part is a portion of a snapshot's list: a file that never changes, named by its hash, of the lines of some items, compressed with zstd.
type Part struct {
	SHA256 digest.SHA256 // of the file
	Size   int64         // of the file, in bytes
	Items  int64         // lines
	Plain  digest.SHA256 // of the lines
	Length int64         // of the lines, in bytes
}

const indexLine = "narfold-feed-snapshot-index 1"

// IndexText returns the index of a snapshot's parts.
func IndexText(parts []Part) []byte {
	b := []byte(indexLine + "\n")
	for _, p := range parts {
		b = fmt.Appendf(b, "%s\t%d\t%d\t%s\t%d\n", p.SHA256.Hex(), p.Size, p.Items, p.Plain.Hex(), p.Length)
	}
	return fmt.Appendf(b, "end %d\n", len(parts))
}

// ParseIndex reads an index. That it is the one that a snapshot means is for its hash to say.
func ParseIndex(text []byte) (parts []Part, err error) {
	bad := func(format string, args ...any) ([]Part, error) {
		return nil, fmt.Errorf("read index of a snapshot: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	rest, ok := strings.CutPrefix(string(text), indexLine+"\n")
	if !ok {
		return bad("it does not begin with %q", indexLine)
	}
	for {
		line, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return bad("it is cut off after %d parts", len(parts))
		}
		rest = after
		if n, ok := strings.CutPrefix(line, "end "); ok {
			if n != fmt.Sprint(len(parts)) || rest != "" {
				return bad("it has %d parts, and ends with %q and %d bytes", len(parts), line, len(rest))
			}
			return parts, nil
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 5 {
			return bad("line %d has %d columns", len(parts)+2, len(columns))
		}
		var p Part
		for i, into := range map[int]*int64{1: &p.Size, 2: &p.Items, 4: &p.Length} {
			if *into, err = parseSequence(columns[i]); err != nil {
				return bad("%v", err)
			}
		}
		for i, into := range map[int]*digest.SHA256{0: &p.SHA256, 3: &p.Plain} {
			if *into, err = parseHex(columns[i]); err != nil {
				return bad("%v", err)
			}
		}
		parts = append(parts, p)
	}
}

// ItemLine returns an item as a line of a snapshot's list: a record without number and operation. Time is when it was published.
func (r *Record) ItemLine() ([]byte, error) {
	whole := *r
	whole.Sequence, whole.Op = 1, Publish
	l, err := whole.line()
	if err != nil {
		return nil, err
	}
	l.Sequence, l.Op = 0, ""
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("write item of a snapshot: %w", err)
	}
	if b.Len() > MaxLine {
		return nil, fmt.Errorf("write item of a snapshot: %d bytes, more than %d: %w", b.Len(), MaxLine, ErrFormat)
	}
	return b.Bytes(), nil
}

// ParseItem reads a line of a snapshot's list, as ParseRecord reads a record.
func ParseItem(text []byte) (Record, error) {
	if len(text) > MaxLine {
		return badRecord("line", fmt.Errorf("%d bytes, more than %d", len(text), MaxLine))
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return badRecord("line", err)
	}
	if l.Sequence != 0 || l.Op != "" {
		return badRecord("line", fmt.Errorf("a record %d stands in the place of an item", l.Sequence))
	}
	l.Sequence, l.Op = 1, Publish
	r, err := l.record()
	r.Sequence, r.Op = 0, ""
	return r, err
}

package feed

import (
	"bytes"
	"fmt"

	"narfold/internal/digest"
)

// Stretch is a run of records: an answer to "what came after?", or a segment, which is a file that never changes.
type Stretch struct {
	Origin string
	// Before is the point before the first record.
	Before Point
	// Lines are the records, each with its line end.
	Lines [][]byte
}

const stretchLine = "narfold-feed-stretch 1"

// End returns the point after the last record.
func (s *Stretch) End() Point {
	p := s.Before
	for _, l := range s.Lines {
		p = p.Next(l)
	}
	return p
}

// Text returns the stretch as it is published.
func (s *Stretch) Text() []byte {
	size := 300
	for _, l := range s.Lines {
		size += len(l)
	}
	b := make([]byte, 0, size)
	b = fmt.Appendf(b, "%s\norigin %s\nfirst %d\nbefore %s\n", stretchLine, s.Origin, s.Before.Sequence+1, s.Before.Chain.Hex())
	for _, l := range s.Lines {
		b = append(b, l...)
	}
	return fmt.Appendf(b, "after %s\n", s.End().Chain.Hex())
}

// ParseStretch reads a stretch and checks that it agrees with itself: the numbers of its records, and the chain from its beginning to
// its end. Whether it belongs to a feed is for Follow and for a Head to say. The lines are parts of text.
func ParseStretch(text []byte) (*Stretch, []Record, error) {
	bad := func(format string, args ...any) (*Stretch, []Record, error) {
		return nil, nil, fmt.Errorf("read stretch of the feed: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	var s Stretch
	var header [4]string
	rest := text
	for i, name := range []string{stretchLine, "origin ", "first ", "before "} {
		l, after, ok := bytes.Cut(rest, []byte("\n"))
		value, named := bytes.CutPrefix(l, []byte(name))
		if !ok || !named || len(value) > 80 {
			return bad("line %d does not begin with %q", i+1, name)
		}
		header[i], rest = string(value), after
	}
	if header[0] != "" {
		return bad("version %q is not known", header[0])
	}
	s.Origin = header[1]
	if err := CheckOrigin(s.Origin); err != nil {
		return bad("%v", err)
	}
	first, err := parseSequence(header[2])
	if err != nil || first < 1 {
		return bad("first %q", header[2])
	}
	s.Before.Sequence = first - 1
	if s.Before.Chain, err = parseHex(header[3]); err != nil {
		return bad("before %v", err)
	}
	var (
		records []Record
		end     digest.SHA256
	)
	at := s.Before
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return bad("it is cut off after record %d", at.Sequence)
		}
		l := rest[:i+1]
		rest = rest[i+1:]
		if value, ok := bytes.CutPrefix(l, []byte("after ")); ok {
			if end, err = parseHex(string(value[:len(value)-1])); err != nil {
				return bad("after %v", err)
			}
			break
		}
		r, err := ParseRecord(l)
		if err != nil {
			return nil, nil, err
		}
		at = at.Next(l)
		if r.Sequence != at.Sequence {
			return bad("record %d stands in the place of %d", r.Sequence, at.Sequence)
		}
		records = append(records, r)
		s.Lines = append(s.Lines, l)
	}
	switch {
	case len(rest) > 0:
		return bad("there is something behind its end")
	case at.Chain != end:
		return nil, nil, fmt.Errorf("read stretch of the feed: %w: it does not lead from its beginning to its end", ErrChain)
	}
	return &s, records, nil
}

// Follow returns the point after the stretch if it continues the feed called origin at p, and ErrChain if not.
func (p Point) Follow(origin string, s *Stretch) (Point, error) {
	switch {
	case s.Origin != origin:
		return p, fmt.Errorf("%w: it is of feed %s, not of %s", ErrChain, s.Origin, origin)
	case s.Before != p:
		return p, fmt.Errorf("%w: it continues record %d with chain %s, and %d with chain %s was the last", ErrChain, s.Before.Sequence, s.Before.Chain.Hex(), p.Sequence, p.Chain.Hex())
	}
	return s.End(), nil
}

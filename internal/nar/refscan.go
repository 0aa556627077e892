package nar

import (
	"slices"

	"narfold/internal/nixbase32"
	"narfold/internal/storepath"
)

// RefScanner is a writer that finds which of a set of hash parts occur in what is written to it, which is how Nix and Guix
// learn the references of what was built: any 32 characters that are a hash part are one, wherever they stand. It scans nars
// and anything else, and takes memory for the set only.
type RefScanner struct {
	wanted map[[storepath.HashLen]byte]bool // true once found
	first  [1 << 15]bool                    // whether some wanted part begins with these three characters
	tail   []byte                           // the last bytes written, fewer than a hash part
	seam   []byte
}

const hashLen = storepath.HashLen

// value5 numbers the characters of nix-base32 from 0 to 31; any other byte is outside.
var value5 = func() (v [256]byte) {
	n := byte(0)
	for i := range v {
		v[i] = outside
		if nixbase32.Is(byte(i)) {
			v[i] = n
			n++
		}
	}
	return v
}()

const outside = 0xff

// NewRefScanner returns a RefScanner for the hash parts wanted.
func NewRefScanner(wanted []storepath.HashPart) *RefScanner {
	s := &RefScanner{wanted: make(map[[hashLen]byte]bool, len(wanted)), tail: make([]byte, 0, hashLen), seam: make([]byte, 0, 2*hashLen)}
	for _, w := range wanted {
		if len(w) != hashLen {
			panic("nar: HashPart made without ParseHashPart: " + string(w))
		}
		s.wanted[[hashLen]byte([]byte(w))] = false
		s.first[prefix(w[0], w[1], w[2])] = true
	}
	return s
}

func prefix(a, b, c byte) int {
	return int(value5[a]&31)<<10 | int(value5[b]&31)<<5 | int(value5[c]&31)
}

// Write never fails.
func (s *RefScanner) Write(p []byte) (int, error) {
	if len(s.tail) > 0 {
		// What began before p and ends in it.
		s.seam = append(append(s.seam[:0], s.tail...), p[:min(len(p), hashLen-1)]...)
		s.scan(s.seam)
	}
	s.scan(p)
	if len(p) >= hashLen-1 {
		s.tail = append(s.tail[:0], p[len(p)-(hashLen-1):]...)
		return len(p), nil
	}
	s.tail = append(s.tail, p...)
	if over := len(s.tail) - (hashLen - 1); over > 0 {
		s.tail = s.tail[:copy(s.tail, s.tail[over:])]
	}
	return len(p), nil
}

// scan looks at every place of p. It looks first where a hash part would end: a byte outside the alphabet there rules out
// the 32 places before it at once.
func (s *RefScanner) scan(p []byte) {
	for at := 0; at+hashLen <= len(p); {
		window := p[at : at+hashLen]
		j := hashLen - 1
		for j >= 0 && value5[window[j]] != outside {
			j--
		}
		if j >= 0 {
			at += j + 1
			continue
		}
		// A run: go on place by place while the byte that comes in belongs to the alphabet.
		for {
			s.look(p[at : at+hashLen])
			at++
			if at+hashLen > len(p) {
				return
			}
			if value5[p[at+hashLen-1]] == outside {
				at += hashLen
				break
			}
		}
	}
}

func (s *RefScanner) look(window []byte) {
	if !s.first[prefix(window[0], window[1], window[2])] {
		return
	}
	key := [hashLen]byte(window)
	if found, wanted := s.wanted[key]; wanted && !found {
		s.wanted[key] = true
	}
}

// Found returns those of the wanted hash parts that have occurred so far, in ascending order.
func (s *RefScanner) Found() []storepath.HashPart {
	var parts []storepath.HashPart
	for key, found := range s.wanted {
		if found {
			parts = append(parts, storepath.HashPart(key[:]))
		}
	}
	slices.Sort(parts)
	return parts
}

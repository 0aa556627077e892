package compress

import (
	"fmt"
	"io"
)

// The LZMA stream as lzip holds it: literal context bits 3, literal position bits 0, position bits 2, ended by a marker.
// The format is described in the lzip manual ("Stream format") and in the draft RFC draft-diaz-lzip.
//
// The range coder below is kept apart from package lzma of the xz library, which makes an interface value for each symbol and
// takes the whole dictionary at once when a header asks for it.

const (
	lzmaLiteralContext = 3
	lzmaPosStates      = 4
	lzmaStates         = 12
	lzmaEnd            = 0xFFFFFFFF // the distance that marks the end
	lzmaSymbolBytes    = 32         // more than any one symbol takes from the input (at most 20)
	lzmaBatch          = 64 << 10   // how much is decoded before it is handed out, to stay in the cache
	lzmaFirstWindow    = 64 << 10
)

type lzmaLengths struct {
	choice, choice2 uint16
	low, mid        [lzmaPosStates][8]uint16
	high            [256]uint16
}

// lzmaModel is the state that adapts to the data; a member begins with a fresh one.
type lzmaModel struct {
	match    [lzmaStates][lzmaPosStates]uint16
	rep      [lzmaStates]uint16
	rep0     [lzmaStates]uint16
	rep1     [lzmaStates]uint16
	rep2     [lzmaStates]uint16
	rep0Long [lzmaStates][lzmaPosStates]uint16
	slot     [4][64]uint16
	special  [115]uint16
	align    [16]uint16
	length   lzmaLengths
	repLen   lzmaLengths
	literal  [1 << lzmaLiteralContext][0x300]uint16
}

const half = 1 << 10 // a probability of one half, in units of 1/2048

func fillHalf(p []uint16) {
	for i := range p {
		p[i] = half
	}
}

func (l *lzmaLengths) reset() {
	l.choice, l.choice2 = half, half
	for i := range l.low {
		fillHalf(l.low[i][:])
		fillHalf(l.mid[i][:])
	}
	fillHalf(l.high[:])
}

func (m *lzmaModel) reset() {
	for i := range lzmaStates {
		fillHalf(m.match[i][:])
		fillHalf(m.rep0Long[i][:])
	}
	fillHalf(m.rep[:])
	fillHalf(m.rep0[:])
	fillHalf(m.rep1[:])
	fillHalf(m.rep2[:])
	for i := range m.slot {
		fillHalf(m.slot[i][:])
	}
	fillHalf(m.special[:])
	fillHalf(m.align[:])
	m.length.reset()
	m.repLen.reset()
	for i := range m.literal {
		fillHalf(m.literal[i][:])
	}
}

// lzmaDecoder decodes one LZMA stream after another.
type lzmaDecoder struct {
	rangeDecoder
	lzmaModel

	window []byte // grows with the data up to dict bytes, and is a ring from then on
	dict   int    // the dictionary size that the header states, in bytes
	pos    int    // where the next byte goes
	total  uint64 // bytes decoded

	state   int
	reps    [4]uint32 // the last distances, less one
	pending int       // bytes of a match that did not fit the batch
}

// start begins a stream with a dictionary of dict bytes.
func (d *lzmaDecoder) start(dict int) error {
	if cap(d.window) == 0 {
		d.window = make([]byte, lzmaFirstWindow)
	}
	d.window = d.window[:min(cap(d.window), dict)]
	d.dict, d.pos, d.total, d.state, d.reps, d.pending = dict, 0, 0, 0, [4]uint32{}, 0
	d.lzmaModel.reset()
	return d.rangeDecoder.start()
}

// room makes place for at least one byte at pos.
func (d *lzmaDecoder) room() {
	switch {
	case d.pos < len(d.window):
	case len(d.window) < d.dict:
		w := make([]byte, min(2*len(d.window), d.dict))
		copy(w, d.window)
		d.window = w
	default:
		d.pos = 0
	}
}

// run decodes until pos reaches limit, which is within the window, or the end marker, when it returns io.EOF.
func (d *lzmaDecoder) run(limit int) error {
	for d.pos < limit {
		if d.pending > 0 {
			d.copyMatch(limit)
			continue
		}
		if d.end-d.at < lzmaSymbolBytes {
			if err := d.fill(lzmaSymbolBytes); err != nil {
				return err
			}
		}
		ps := int(d.total) & (lzmaPosStates - 1)
		if d.bit(&d.match[d.state][ps]) == 0 {
			d.literalByte()
		} else if err := d.matchOrEnd(ps); err != nil {
			return d.overrun(err)
		}
		if d.at > d.end {
			return d.overrun(nil)
		}
	}
	return nil
}

// overrun lets the end of the input come before whatever was made of the zeros behind it.
func (d *lzmaDecoder) overrun(err error) error {
	if d.at <= d.end {
		return err
	}
	if d.failure != io.EOF {
		return d.failure
	}
	return io.ErrUnexpectedEOF
}

func (d *lzmaDecoder) byteAt(distance int) byte {
	i := d.pos - distance
	if i < 0 {
		i += len(d.window)
	}
	return d.window[i]
}

func (d *lzmaDecoder) literalByte() {
	var previous byte
	if d.total > 0 {
		previous = d.byteAt(1)
	}
	probs := &d.literal[previous>>(8-lzmaLiteralContext)]
	var b byte
	if d.state < 7 {
		b = byte(d.tree(probs[:], 8))
	} else {
		b = byte(d.matched(probs, uint32(d.byteAt(int(d.reps[0])+1))))
	}
	d.window[d.pos] = b
	d.pos++
	d.total++
	switch {
	case d.state < 4:
		d.state = 0
	case d.state < 10:
		d.state -= 3
	default:
		d.state -= 6
	}
}

// matchOrEnd decodes a match into reps[0] and pending.
func (d *lzmaDecoder) matchOrEnd(ps int) error {
	after := func(literal, other int) {
		if d.state < 7 {
			d.state = literal
		} else {
			d.state = other
		}
	}
	s := d.state
	if d.bit(&d.rep[s]) == 0 {
		n := d.lengthOf(&d.length, ps)
		distance := d.distance(min(n, 3))
		if distance == lzmaEnd {
			if n != 0 {
				return fmt.Errorf("%w: marker that is not the end", ErrCorrupt)
			}
			return io.EOF
		}
		d.reps = [4]uint32{distance, d.reps[0], d.reps[1], d.reps[2]}
		d.pending = n + 2
		after(7, 10)
	} else if d.bit(&d.rep0[s]) == 0 {
		if d.bit(&d.rep0Long[s][ps]) == 0 {
			d.pending = 1
			after(9, 11)
		} else {
			d.pending = d.lengthOf(&d.repLen, ps) + 2
			after(8, 11)
		}
	} else {
		switch r := d.reps; {
		case d.bit(&d.rep1[s]) == 0:
			d.reps = [4]uint32{r[1], r[0], r[2], r[3]}
		case d.bit(&d.rep2[s]) == 0:
			d.reps = [4]uint32{r[2], r[0], r[1], r[3]}
		default:
			d.reps = [4]uint32{r[3], r[0], r[1], r[2]}
		}
		d.pending = d.lengthOf(&d.repLen, ps) + 2
		after(8, 11)
	}
	if uint64(d.reps[0]) >= min(d.total, uint64(d.dict)) {
		return fmt.Errorf("%w: reference to before the data", ErrCorrupt)
	}
	return nil
}

// lengthOf returns a match length less two.
func (d *lzmaDecoder) lengthOf(l *lzmaLengths, ps int) int {
	if d.bit(&l.choice) == 0 {
		return int(d.tree(l.low[ps][:], 3))
	}
	if d.bit(&l.choice2) == 0 {
		return 8 + int(d.tree(l.mid[ps][:], 3))
	}
	return 16 + int(d.tree(l.high[:], 8))
}

// distance returns a distance less one.
func (d *lzmaDecoder) distance(lengthState int) uint32 {
	slot := d.tree(d.slot[lengthState][:], 6)
	if slot < 4 {
		return slot
	}
	bits := int(slot>>1) - 1
	base := (2 | slot&1) << bits
	if slot < 14 {
		return base + d.reverse(d.special[base-slot:], bits)
	}
	base += d.direct(bits-4) << 4
	return base + d.reverse(d.align[:], 4)
}

// copyMatch appends what is pending, up to limit.
func (d *lzmaDecoder) copyMatch(limit int) {
	n := min(d.pending, limit-d.pos)
	distance := int(d.reps[0]) + 1
	d.pending -= n
	d.total += uint64(n)
	from, to, w := d.pos-distance, d.pos, d.window
	d.pos += n
	if from >= 0 {
		// A match may overlap what it writes: each round copies what is there and doubles it.
		for n > 0 {
			k := copy(w[to:to+n], w[from:to])
			to += k
			n -= k
		}
		return
	}
	from += len(w)
	for range n {
		w[to] = w[from]
		to++
		if from++; from == len(w) {
			from = 0
		}
	}
}

package compress

import (
	"fmt"
	"io"
)

// rangeDecoder decodes bits by adaptive probabilities from buffered input. Before each symbol the caller makes sure that
// lzmaSymbolBytes are in the buffer, so that no bit needs to ask; at the end of the input the buffer continues with zeros, and
// the caller sees at > end.
type rangeDecoder struct {
	src     io.Reader
	buf     []byte
	at, end int
	base    int64 // offset of buf[0] in the input
	failure error // why no more can be read: io.EOF or src's error
	rng     uint32
	code    uint32
}

const rangeTop = 1 << 24

func (d *rangeDecoder) reset(src io.Reader) {
	if d.buf == nil {
		d.buf = make([]byte, 64<<10+lzmaSymbolBytes)
	}
	d.src, d.at, d.end, d.base, d.failure = src, 0, 0, 0, nil
}

// offset is the number of input bytes consumed.
func (d *rangeDecoder) offset() int64 { return d.base + int64(d.at) }

// fill tries to have n bytes in the buffer, with zeros behind what there is. The end of the input is no error.
func (d *rangeDecoder) fill(n int) error {
	if d.failure != nil {
		return nil
	}
	copy(d.buf, d.buf[d.at:d.end])
	d.base += int64(d.at)
	d.at, d.end = 0, d.end-d.at
	for idle := 0; d.end < n && d.failure == nil; {
		k, err := d.src.Read(d.buf[d.end : len(d.buf)-lzmaSymbolBytes])
		d.end += k
		if idle++; k > 0 {
			idle = 0
		}
		if err == nil && idle == 100 {
			return io.ErrNoProgress
		}
		d.failure = err
	}
	clear(d.buf[d.end:min(d.end+lzmaSymbolBytes, len(d.buf))])
	return nil
}

// next consumes exactly n bytes, at most lzmaSymbolBytes. It returns fewer, with the reason, if there are fewer.
func (d *rangeDecoder) next(n int) ([]byte, error) {
	if d.end-d.at < n {
		if err := d.fill(n); err != nil {
			return nil, err
		}
	}
	k := min(n, d.end-d.at)
	b := d.buf[d.at : d.at+k]
	d.at += k
	if k == n {
		return b, nil
	}
	if d.failure != io.EOF {
		return b, d.failure
	}
	return b, io.ErrUnexpectedEOF
}

// start reads the five bytes with which a stream begins.
func (d *rangeDecoder) start() error {
	b, err := d.next(5)
	if err != nil {
		return err
	}
	if b[0] != 0 {
		return fmt.Errorf("%w: first byte of a stream is %#02x", ErrCorrupt, b[0])
	}
	d.rng = 0xFFFFFFFF
	d.code = uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
	return nil
}

// bit decodes one bit and adapts p.
func (d *rangeDecoder) bit(p *uint16) uint32 {
	bound := d.rng >> 11 * uint32(*p)
	var b uint32
	if d.code < bound {
		d.rng = bound
		*p += (1<<11 - *p) >> 5
	} else {
		d.rng -= bound
		d.code -= bound
		*p -= *p >> 5
		b = 1
	}
	if d.rng < rangeTop {
		d.rng <<= 8
		d.code = d.code<<8 | uint32(d.buf[d.at])
		d.at++
	}
	return b
}

// tree decodes bits from the highest down, each by the probability that those before it select.
func (d *rangeDecoder) tree(probs []uint16, bits int) uint32 {
	rng, code, at, buf := d.rng, d.code, d.at, d.buf
	m := uint32(1)
	for range bits {
		p := uint32(probs[m])
		bound := rng >> 11 * p
		if code < bound {
			rng = bound
			probs[m] = uint16(p + (1<<11-p)>>5)
			m <<= 1
		} else {
			rng -= bound
			code -= bound
			probs[m] = uint16(p - p>>5)
			m = m<<1 | 1
		}
		if rng < rangeTop {
			rng <<= 8
			code = code<<8 | uint32(buf[at])
			at++
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return m - 1<<bits
}

// reverse decodes bits from the lowest up.
func (d *rangeDecoder) reverse(probs []uint16, bits int) uint32 {
	m, v := uint32(1), uint32(0)
	for i := range bits {
		b := d.bit(&probs[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

// direct decodes bits that are as likely one as zero.
func (d *rangeDecoder) direct(bits int) uint32 {
	rng, code, at := d.rng, d.code, d.at
	var v uint32
	for range bits {
		rng >>= 1
		code -= rng
		mask := 0 - code>>31
		code += rng & mask
		v = v<<1 + mask + 1
		if rng < rangeTop {
			rng <<= 8
			code = code<<8 | uint32(d.buf[at])
			at++
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return v
}

// matched decodes a literal that follows a match, helped by the byte that would have continued the match.
func (d *rangeDecoder) matched(probs *[0x300]uint16, hint uint32) uint32 {
	rng, code, at, buf := d.rng, d.code, d.at, d.buf
	m, same := uint32(1), uint32(0x100)
	for m < 0x100 {
		hint <<= 1
		h := hint & same
		i := same + h + m
		p := uint32(probs[i])
		bound := rng >> 11 * p
		if code < bound {
			rng = bound
			probs[i] = uint16(p + (1<<11-p)>>5)
			m <<= 1
			same &^= h
		} else {
			rng -= bound
			code -= bound
			probs[i] = uint16(p - p>>5)
			m = m<<1 | 1
			same &= h
		}
		if rng < rangeTop {
			rng <<= 8
			code = code<<8 | uint32(buf[at])
			at++
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return m & 0xff
}

package compress

import (
	"encoding/binary"
	"fmt"
)

// maxServedWindow is the window in bytes that every zstd decoder must support (RFC 8878 section 3.1.1.1.2).
const maxServedWindow = 8 << 20

// zstdInspector follows the frames and blocks of a zstd stream by their headers, without decompressing, in constant memory. It
// judges how frames are arranged and trusts a decoder, which reads the same bytes, to find damage within them.
type zstdInspector struct {
	frames  int    // frames that are not skippable
	window  uint64 // the largest window of any of them, in bytes
	behind  int    // frames of any kind since the last that holds data
	hasData bool   // some frame held data
	broken  bool   // the bytes are not zstd

	state    zstdState
	head     [18]byte // the header being collected
	have     int
	want     int
	skip     uint64 // bytes to pass over
	checksum bool   // the frame ends with four bytes of checksum
	data     bool   // the frame holds data
}

type zstdState uint8

const (
	zstdMagic    zstdState = iota // the four bytes with which any frame begins
	zstdSkipSize                  // the four bytes of a skippable frame's size
	zstdDescribe                  // the frame header descriptor
	zstdHeader                    // the rest of the frame header
	zstdBlock                     // the three bytes of a block header
)

// write takes the next bytes of the stream.
func (z *zstdInspector) write(p []byte) {
	for len(p) > 0 && !z.broken {
		if z.skip > 0 {
			n := min(z.skip, uint64(len(p)))
			z.skip -= n
			p = p[n:]
			continue
		}
		if z.want == 0 {
			z.want = 4
		}
		n := copy(z.head[z.have:z.want], p)
		z.have += n
		p = p[n:]
		if z.have == z.want {
			z.step()
		}
	}
}

// expect says which header comes next and how long it is.
func (z *zstdInspector) expect(s zstdState, size int) { z.state, z.have, z.want = s, 0, size }

// step acts on a collected header.
func (z *zstdInspector) step() {
	switch z.state {
	case zstdMagic:
		switch magic := binary.LittleEndian.Uint32(z.head[:]); {
		case magic == 0xFD2FB528:
			z.data = false
			z.expect(zstdDescribe, 1)
		case magic&^0xf == 0x184D2A50:
			z.expect(zstdSkipSize, 4)
		default:
			z.broken = true
		}
	case zstdSkipSize:
		z.skip = uint64(binary.LittleEndian.Uint32(z.head[:]))
		z.behind++
		z.expect(zstdMagic, 4)
	case zstdDescribe:
		z.have, z.want, z.state = 1, 1+headerRest(z.head[0]), zstdHeader
	case zstdHeader:
		z.checksum = z.head[0]&4 != 0
		z.window = max(z.window, frameWindow(z.head[:z.want]))
		z.expect(zstdBlock, 3)
	case zstdBlock:
		z.block(uint32(z.head[0]) | uint32(z.head[1])<<8 | uint32(z.head[2])<<16)
	}
}

func (z *zstdInspector) block(h uint32) {
	size := h >> 3
	switch h >> 1 & 3 {
	case 0: // raw
		z.skip, z.data = uint64(size), z.data || size > 0
	case 1: // one byte, repeated
		z.skip, z.data = 1, z.data || size > 0
	case 2:
		// A compressed block of up to five bytes may expand to nothing: at most three bytes of header and one of content for
		// no literals, and one byte for no sequences. No known encoder writes one that small that holds data.
		z.skip, z.data = uint64(size), z.data || size > 5
	case 3:
		z.broken = true
	}
	if h&1 == 0 {
		z.expect(zstdBlock, 3)
		return
	}
	if z.checksum {
		z.skip += 4
	}
	z.frames++
	z.behind++
	if z.data {
		z.behind, z.hasData = 0, true
	}
	z.expect(zstdMagic, 4)
}

// headerRest returns how many bytes of frame header follow a frame header descriptor: 1 to 13.
func headerRest(descriptor byte) int {
	single := descriptor&0x20 != 0
	n := [4]int{0, 1, 2, 4}[descriptor&3] + contentSizeBytes(descriptor)
	if !single {
		n++
	}
	return n
}

func contentSizeBytes(descriptor byte) int {
	if descriptor>>6 == 0 && descriptor&0x20 == 0 {
		return 0
	}
	return 1 << (descriptor >> 6)
}

// frameWindow returns the window of a frame in bytes, given its header from the descriptor on. A frame of a single segment has
// no window of its own: all of its content is one.
func frameWindow(h []byte) uint64 {
	if h[0]&0x20 == 0 {
		base := uint64(1) << (10 + h[1]>>3)
		return base + base/8*uint64(h[1]&7)
	}
	size := h[len(h)-contentSizeBytes(h[0]):]
	switch len(size) {
	case 1:
		return uint64(size[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(size)) + 256
	case 4:
		return uint64(binary.LittleEndian.Uint32(size))
	}
	return binary.LittleEndian.Uint64(size)
}

// verdict returns why not every client can read the stream, or "" if every client can.
func (z *zstdInspector) verdict() string {
	switch {
	case z.broken || z.state != zstdMagic || z.have != 0 || z.skip != 0 || z.frames == 0:
		return "not a sequence of zstd frames"
	case z.window > maxServedWindow:
		return fmt.Sprintf("a window of %d bytes, where %d is what every decoder allows", z.window, maxServedWindow)
	case z.hasData && z.behind > 0, !z.hasData && z.behind > 1:
		return "a frame without data after the last that has some"
	}
	return ""
}

package compress

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// lzipMagic begins every member; the byte after it is the version, which is 1 in all that lzip wrote since 2009.
const lzipMagic = "LZIP\x01"

// Bounds of the dictionary size in bytes, from the lzip manual, "File format".
const (
	lzipMinDict = 1 << 12
	lzipMaxDict = 1 << 29
)

// lzipDictSize decodes the dictionary byte of a member header: bits 4-0 are the logarithm of a base size, and bits 7-5 how many
// sixteenths of it to take off.
func lzipDictSize(b byte) (int, error) {
	log := int(b & 31)
	if log < 12 || log > 29 {
		return 0, fmt.Errorf("%w: dictionary size code %#02x", ErrCorrupt, b)
	}
	size := 1<<log - 1<<log/16*int(b>>5)
	switch {
	case size < lzipMinDict || size > lzipMaxDict:
		return 0, fmt.Errorf("%w: dictionary of %d bytes", ErrCorrupt, size)
	case size > MaxWindow:
		return 0, fmt.Errorf("%w: dictionary of %d bytes, where %d are allowed", ErrWindow, size, MaxWindow)
	}
	return size, nil
}

// lzipDecoder reads members one after the other. It refuses what lzip itself passes over: bytes after the last member.
type lzipDecoder struct {
	*lzmaDecoder
	inside bool  // within a member's stream
	first  int64 // offset of the member
	any    bool  // a member was read
	crc    uint32
	given  int // window bytes up to here were handed out
	err    error
}

var lzmaDecoders = sync.Pool{New: func() any { return new(lzmaDecoder) }}

func newLzipDecoder(src *source) *lzipDecoder {
	d := &lzipDecoder{lzmaDecoder: lzmaDecoders.Get().(*lzmaDecoder)}
	d.rangeDecoder.reset(src)
	d.pos = 0 // else the first Read would give what the last user left in the window
	return d
}

func (z *lzipDecoder) release() {
	z.src = nil
	if cap(z.window) <= 8<<20 { // the usual dictionary; larger ones are left to the garbage collector
		lzmaDecoders.Put(z.lzmaDecoder)
	}
	z.lzmaDecoder = nil
}

func (z *lzipDecoder) Read(p []byte) (int, error) {
	for {
		if z.given < z.pos {
			n := copy(p, z.window[z.given:z.pos])
			z.given += n
			return n, nil
		}
		if z.err != nil {
			return 0, z.err
		}
		if z.inside {
			z.err = z.more()
		} else {
			z.err = z.header()
		}
	}
}

// header begins a member; it returns io.EOF if the input ends where a member may begin.
func (z *lzipDecoder) header() error {
	z.first = z.offset()
	h, err := z.next(6)
	if err == io.ErrUnexpectedEOF {
		if len(h) == 0 && z.any {
			return io.EOF
		}
		if n := min(len(h), len(lzipMagic)); string(h[:n]) == lzipMagic[:n] {
			return err
		}
	} else if err != nil {
		return err
	}
	if len(h) < 6 || string(h[:5]) != lzipMagic {
		if z.any {
			return fmt.Errorf("%w: bytes after the last member", ErrCorrupt)
		}
		return fmt.Errorf("%w: not an lzip header of version 1", ErrCorrupt)
	}
	dict, err := lzipDictSize(h[5])
	if err != nil {
		return err
	}
	if err := z.start(dict); err != nil {
		return err
	}
	z.inside, z.any, z.crc, z.given = true, true, 0, 0
	return nil
}

// more decodes another batch, and checks the trailer if the member ends.
func (z *lzipDecoder) more() error {
	z.room()
	from := z.pos
	z.given = from
	err := z.run(min(len(z.window), from+lzmaBatch))
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.window[from:z.pos])
	if err == io.EOF {
		z.inside = false
		err = z.trailer()
	}
	return err
}

func (z *lzipDecoder) trailer() error {
	// The encoder flushes its whole state, so that nothing is left when all is decoded.
	if z.code != 0 {
		return fmt.Errorf("%w: stream does not end at its end marker", ErrCorrupt)
	}
	t, err := z.next(20)
	if err != nil {
		return err
	}
	if crc := binary.LittleEndian.Uint32(t); crc != z.crc {
		return fmt.Errorf("%w: CRC32 is %08x, trailer says %08x", ErrCorrupt, z.crc, crc)
	}
	if size := binary.LittleEndian.Uint64(t[4:]); size != z.total {
		return fmt.Errorf("%w: member holds %d bytes, trailer says %d", ErrCorrupt, z.total, size)
	}
	if size := binary.LittleEndian.Uint64(t[12:]); size != uint64(z.offset()-z.first) {
		return fmt.Errorf("%w: member takes %d bytes, trailer says %d", ErrCorrupt, z.offset()-z.first, size)
	}
	return nil
}

package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/ulikunitz/xz/lzma"
)

// lzipMagic begins every member; the byte after it is the version, which is 1 in all that lzip wrote since 2009.
const lzipMagic = "LZIP\x01"

// lzipTrailer is the size in bytes of what ends a member: CRC32 and size of the data, and size of the member.
const lzipTrailer = 20

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
//
// The stream within a member is decoded by a library, which reads byte by byte and so takes nothing from behind the end marker. It
// also demands that nothing is left in the range coder there. It does not look at the length that the marker carries, and takes
// one that lzip would not write (and would refuse) for the end.
type lzipDecoder struct {
	src    *source
	in     *bufio.Reader
	stream *lzma.Reader // of the current member, or nil between members
	first  int64        // offset of the member
	any    bool         // a member was read
	crc    uint32
	total  uint64 // bytes that the member gave
}

// lzipBuffer is also how large, in bytes, a last member may be that shows what it holds before it is decoded.
const lzipBuffer = 64 << 10

func newLzipDecoder(src *source) *lzipDecoder {
	return &lzipDecoder{src: src, in: bufio.NewReaderSize(src, lzipBuffer)}
}

func (z *lzipDecoder) release() { z.in, z.stream = nil, nil }

// offset is the number of input bytes consumed.
func (z *lzipDecoder) offset() int64 { return z.src.n - int64(z.in.Buffered()) }

func (z *lzipDecoder) Read(p []byte) (int, error) {
	for {
		if z.stream == nil {
			if err := z.header(); err != nil {
				return 0, err
			}
		}
		n, err := z.stream.Read(p)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, p[:n])
		z.total += uint64(n)
		if err == io.EOF {
			z.stream = nil
			err = z.trailer()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// header begins a member; it returns io.EOF if the input ends where a member may begin.
func (z *lzipDecoder) header() error {
	z.first = z.offset()
	var h [6]byte
	n, err := io.ReadFull(z.in, h[:])
	switch {
	case err == io.EOF && z.any:
		return io.EOF
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		if k := min(n, len(lzipMagic)); string(h[:k]) == lzipMagic[:k] {
			return io.ErrUnexpectedEOF
		}
	case err != nil:
		return err
	}
	if string(h[:5]) != lzipMagic {
		if z.any {
			return fmt.Errorf("%w: bytes after the last member", ErrCorrupt)
		}
		return fmt.Errorf("%w: not an lzip header of version 1", ErrCorrupt)
	}
	dict, err := lzipDictSize(h[5])
	if err != nil {
		return err
	}
	// The library wants the header of an .lzma file: literal context bits 3, literal position bits 0 and position bits 2 in one
	// byte, the dictionary size, and a data size that is not known, so that there must be an end marker.
	classic := binary.LittleEndian.AppendUint32([]byte{(2*5+0)*9 + 3}, uint32(z.needed(dict)))
	classic = binary.LittleEndian.AppendUint64(classic, math.MaxUint64)
	z.stream, err = lzma.ReaderConfig{DictCap: MaxWindow}.NewReader(struct {
		io.Reader
		io.ByteReader
	}{bytes.NewReader(classic), z.in})
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	z.any, z.crc, z.total = true, 0, 0
	return err
}

// needed is how much of a dictionary to allocate. The library takes all of it before it reads a byte, and what Guix writes states
// the dictionary of the compression level (32 MiB at level 9) however small the item is. If the rest of the input is in the buffer
// and its last bytes are the trailer of this very member, nothing can refer to further back than the data size given there; a
// trailer that lies about it is refused anyway.
func (z *lzipDecoder) needed(dict int) int {
	rest, err := z.in.Peek(lzipBuffer)
	if err == nil || len(rest) < lzipTrailer {
		return dict
	}
	trailer := rest[len(rest)-lzipTrailer:]
	if binary.LittleEndian.Uint64(trailer[12:]) != uint64(z.offset()-z.first)+uint64(len(rest)) {
		return dict
	}
	return int(min(uint64(dict), max(lzipMinDict, binary.LittleEndian.Uint64(trailer[4:]))))
}

func (z *lzipDecoder) trailer() error {
	var t [lzipTrailer]byte
	if _, err := io.ReadFull(z.in, t[:]); err == io.EOF {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if crc := binary.LittleEndian.Uint32(t[:]); crc != z.crc {
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

package compress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os/exec"
	"strings"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

func (l Level) lzmaDict() int {
	switch l {
	case Fastest:
		return 1 << 20
	case Best:
		return 32 << 20
	}
	return 8 << 20
}

// lzmaPiece is the size in bytes of the pieces that become members of lzip or streams of xz: at least two dictionaries, so that
// little is lost at the seams, and small enough that a worker fits in memory.
func (l Level) lzmaPiece() int { return max(4<<20, 2*l.lzmaDict()) }

// dictFor returns a dictionary size that covers a piece, up to that of the level: readers allocate what the header says.
func (l Level) dictFor(piece []byte) int {
	size := lzipMinDict
	if len(piece) > size {
		size = 1 << bits.Len(uint(len(piece)-1))
	}
	return min(size, l.lzmaDict())
}

func (o Options) lzmaEncoder(m Method) (encodeFunc, error) {
	if o.Programs {
		return o.Level.program(m)
	}
	if m == Lzip {
		return o.Level.lzipMember, nil
	}
	return o.Level.xzStream, nil
}

// lzipMember writes one member: a header of 6 bytes, an LZMA stream that ends with a marker, and a trailer of 20 bytes.
func (l Level) lzipMember(dst *bytes.Buffer, piece []byte) error {
	begin := dst.Len()
	dict := l.dictFor(piece)
	dst.WriteString(lzipMagic)
	dst.WriteByte(byte(bits.TrailingZeros(uint(dict))))
	w, err := lzma.WriterConfig{
		Properties: &lzma.Properties{LC: 3, LP: 0, PB: 2},
		DictCap:    dict,
		EOSMarker:  true,
	}.NewWriter(&headless{dst: dst, skip: lzma.HeaderLen})
	if err != nil {
		return err
	}
	if _, err := w.Write(piece); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	var trailer [lzipTrailer]byte
	binary.LittleEndian.PutUint32(trailer[:], crc32.ChecksumIEEE(piece))
	binary.LittleEndian.PutUint64(trailer[4:], uint64(len(piece)))
	binary.LittleEndian.PutUint64(trailer[12:], uint64(dst.Len()-begin+len(trailer)))
	dst.Write(trailer[:])
	return nil
}

// headless drops the header that the library writes before a stream.
type headless struct {
	dst  *bytes.Buffer
	skip int
}

func (h *headless) Write(p []byte) (int, error) {
	n := min(h.skip, len(p))
	h.skip -= n
	h.dst.Write(p[n:])
	return len(p), nil
}

func (h *headless) WriteByte(b byte) error {
	if h.skip > 0 {
		h.skip--
		return nil
	}
	return h.dst.WriteByte(b)
}

func (l Level) xzStream(dst *bytes.Buffer, piece []byte) error {
	w, err := xz.WriterConfig{DictCap: l.dictFor(piece), CheckSum: xz.CRC64}.NewWriter(dst)
	if err != nil {
		return err
	}
	if _, err := w.Write(piece); err != nil {
		return err
	}
	return w.Close()
}

// program compresses each piece with a run of the program of m.
func (l Level) program(m Method) (encodeFunc, error) {
	path, err := exec.LookPath(string(m))
	if err != nil {
		return nil, err
	}
	level := "-6"
	switch l {
	case Fastest:
		level = "-0"
	case Best:
		level = "-9"
	}
	args := []string{level, "-c"}
	if m == Xz {
		args = append(args, "-T1", "--check=crc64")
	}
	return func(dst *bytes.Buffer, piece []byte) error {
		cmd := exec.Command(path, args...)
		// XZ_OPT, XZ_DEFAULTS and LZIP would change the result behind the configuration's back.
		cmd.Env = []string{"LC_ALL=C"}
		cmd.Stdin, cmd.Stdout = bytes.NewReader(piece), dst
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if err := cmd.Run(); err != nil {
			text := strings.TrimSpace(complaint.String())
			return fmt.Errorf("run %s: %w: %.200q", path, err, text)
		}
		return nil
	}, nil
}

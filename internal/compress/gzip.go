package compress

import (
	"bufio"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// gzipDecoder reads member after member itself, in order to count them.
type gzipDecoder struct {
	src *source
	*gzipState
}

// gzipState is what is worth keeping: 64 KiB of input and the tables and window of inflate.
type gzipState struct {
	in *bufio.Reader // a byte reader, so that inflate takes nothing beyond a member
	z  gzip.Reader
}

var gzipStates = sync.Pool{New: func() any { return &gzipState{in: bufio.NewReaderSize(nil, 64<<10)} }}

func newGzipDecoder(src *source) *gzipDecoder {
	d := &gzipDecoder{src: src, gzipState: gzipStates.Get().(*gzipState)}
	d.in.Reset(src)
	return d
}

func (d *gzipDecoder) Read(p []byte) (int, error) {
	for {
		if d.src.members == 0 {
			if err := d.next(); err != nil {
				return 0, err
			}
		}
		n, err := d.z.Read(p)
		if err == io.EOF {
			err = d.next()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next begins a member; it returns io.EOF if there is none.
func (d *gzipDecoder) next() error {
	if _, err := d.in.Peek(1); err != nil {
		return err
	}
	if err := d.z.Reset(d.in); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	d.z.Multistream(false)
	d.src.members++
	return nil
}

func (d *gzipDecoder) release() {
	d.in.Reset(nil)
	gzipStates.Put(d.gzipState)
	d.gzipState = nil
}

package compress

import (
	"bufio"
	"io"

	"github.com/andybalholm/brotli"
)

// brotliTail is more than the eight bytes that the decoder sets aside when a chunk ends within a code.
const brotliTail = 16

// brotliInput hands the last brotliTail bytes of the input over in one chunk. The decoder (v1.2.8) takes a valid stream for one
// with bytes after its end if the last chunk does no more than complete a code that began in the chunk before.
type brotliInput struct{ in *bufio.Reader }

func newBrotliDecoder(src io.Reader) io.Reader {
	return brotli.NewReader(brotliInput{bufio.NewReaderSize(src, 32<<10)})
}

func (b brotliInput) Read(p []byte) (int, error) {
	if _, err := b.in.Peek(brotliTail + 1); err == nil {
		p = p[:min(len(p), b.in.Buffered()-brotliTail)]
	} else if err != io.EOF {
		return 0, err
	}
	return b.in.Read(p)
}

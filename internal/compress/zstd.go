package compress

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zstdDecoders keeps decoders. Each works in the goroutine that reads: a server has as many readers as it has work for cores.
var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderMaxMemory(1<<62))
	if err != nil {
		panic("compress: zstd refuses constant options: " + err.Error())
	}
	return d
}}

type zstdDecoder struct {
	d   *zstd.Decoder
	src *source
	on  bool
}

func newZstdDecoder(src *source) *zstdDecoder {
	return &zstdDecoder{src: src, d: zstdDecoders.Get().(*zstd.Decoder)}
}

func (z *zstdDecoder) Read(p []byte) (int, error) {
	if !z.on {
		if err := z.d.Reset(z.src); err != nil {
			return 0, err
		}
		z.on = true
	}
	return z.d.Read(p)
}

func (z *zstdDecoder) release() {
	// A decoder that took a larger window than is usual is left to the garbage collector.
	if z.d.Reset(nil) == nil && z.src.tee.window <= maxServedWindow {
		zstdDecoders.Put(z.d)
	}
	z.d = nil
}

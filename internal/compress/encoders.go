package compress

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdFrame is how much of the input Options.Frames puts into one frame: two windows, so that little is lost at the seams.
const zstdFrame = 16 << 20

func (l Level) zstd(workers int) []zstd.EOption {
	level, window := zstd.SpeedDefault, maxServedWindow
	switch l {
	case Fastest:
		level, window = zstd.SpeedFastest, 4<<20
	case Best:
		level = zstd.SpeedBestCompression
	}
	return []zstd.EOption{
		zstd.WithEncoderLevel(level), zstd.WithWindowSize(window), zstd.WithEncoderCRC(true),
		zstd.WithZeroFrames(true), zstd.WithEncoderConcurrency(workers),
	}
}

// zstdWriters keeps encoders of single frames by level and workers, since each has tables of several MiB.
var zstdWriters, zstdFrameEncoders, gzipWriters sync.Map

type zstdKey struct{ level, workers int }

func poolOf(m *sync.Map, key any) *sync.Pool {
	p, ok := m.Load(key)
	if !ok {
		p, _ = m.LoadOrStore(key, new(sync.Pool))
	}
	return p.(*sync.Pool)
}

type zstdWriter struct {
	*zstd.Encoder
	pool *sync.Pool
}

func newZstdWriter(w io.Writer, o Options) (io.WriteCloser, error) {
	workers := min(o.Workers, 2) // the encoder has two stages: matching, and writing what was matched
	pool := poolOf(&zstdWriters, zstdKey{int(o.Level), workers})
	if e, ok := pool.Get().(*zstd.Encoder); ok {
		e.Reset(w)
		return &zstdWriter{e, pool}, nil
	}
	e, err := zstd.NewWriter(w, o.Level.zstd(workers)...)
	if err != nil {
		return nil, err
	}
	return &zstdWriter{e, pool}, nil
}

func (z *zstdWriter) Close() error {
	err := z.Encoder.Close()
	z.Reset(nil)
	z.pool.Put(z.Encoder)
	z.Encoder = nil
	return err
}

func (l Level) zstdFrameEncoder() encodeFunc {
	pool := poolOf(&zstdFrameEncoders, l)
	return func(dst *bytes.Buffer, piece []byte) error {
		e, ok := pool.Get().(*zstd.Encoder)
		if !ok {
			var err error
			if e, err = zstd.NewWriter(nil, l.zstd(1)...); err != nil {
				return err
			}
		}
		defer pool.Put(e)
		// The result is appended to what dst has room for, and written back to it.
		_, err := dst.Write(e.EncodeAll(piece, dst.AvailableBuffer()))
		return err
	}
}

type gzipWriter struct {
	*gzip.Writer
	pool *sync.Pool
}

func newGzipWriter(w io.Writer, l Level) io.WriteCloser {
	pool := poolOf(&gzipWriters, l)
	z, ok := pool.Get().(*gzip.Writer)
	if ok {
		z.Reset(w)
	} else {
		level := 6
		switch l {
		case Fastest:
			level = gzip.BestSpeed
		case Best:
			level = gzip.BestCompression
		}
		var err error
		if z, err = gzip.NewWriterLevel(w, level); err != nil {
			panic("compress: gzip refuses a constant level: " + err.Error())
		}
	}
	return &gzipWriter{z, pool}
}

func (z *gzipWriter) Close() error {
	err := z.Writer.Close()
	z.Reset(nil)
	z.pool.Put(z.Writer)
	z.Writer = nil
	return err
}

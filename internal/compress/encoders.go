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

// tinyZstd is the size in bytes up to which an input is compressed with the tables of the Fastest level at the Default level too: those
// fit into a processor's own cache and the default's do not, which for 4 KB makes 13 microseconds of 25, and of 60 with all
// processors at work; the result is 2.5% larger, some 50 bytes, and seldom takes another block of a disk.
const tinyZstd = 8 << 10

// zstdWriter writes one frame.
type zstdWriter struct {
	w       io.Writer
	o       Options
	tiny    []byte // the input, while it may be tiny
	encoder *zstd.Encoder
	pool    *sync.Pool
	err     error // why there is no encoder
}

func newZstdWriter(w io.Writer, o Options) (io.WriteCloser, error) {
	z := &zstdWriter{w: w, o: o}
	if o.Level == Default {
		return z, nil
	}
	return z, z.begin()
}

// begin gets an encoder for more than a tiny input.
func (z *zstdWriter) begin() error {
	workers := min(z.o.Workers, 2) // the encoder has two stages: matching, and writing what was matched
	z.pool = poolOf(&zstdWriters, zstdKey{int(z.o.Level), workers})
	e, ok := z.pool.Get().(*zstd.Encoder)
	if ok {
		e.Reset(z.w)
	} else {
		var err error
		if e, err = zstd.NewWriter(z.w, z.o.Level.zstd(workers)...); err != nil {
			return err
		}
	}
	z.encoder = e
	return nil
}

// Write implements io.Writer.
func (z *zstdWriter) Write(p []byte) (int, error) {
	if z.encoder == nil {
		if len(z.tiny)+len(p) <= tinyZstd {
			z.tiny = append(z.tiny, p...)
			return len(p), nil
		}
		if z.err = z.begin(); z.err != nil {
			return 0, z.err
		}
		if _, err := z.encoder.Write(z.tiny); err != nil {
			return 0, err
		}
		z.tiny = nil
	}
	return z.encoder.Write(p)
}

// Close ends the frame.
func (z *zstdWriter) Close() error {
	if z.err != nil {
		return z.err
	}
	if z.encoder == nil {
		var frame bytes.Buffer
		if err := Fastest.zstdFrameEncoder()(&frame, z.tiny); err != nil {
			return err
		}
		_, err := z.w.Write(frame.Bytes())
		return err
	}
	err := z.encoder.Close()
	z.encoder.Reset(nil)
	z.pool.Put(z.encoder)
	z.encoder = nil
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

package compress

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
)

var readable = []Method{None, Zstd, Gzip, Lzip, Xz, Bzip2, Brotli, Lz4}

// seed adds whole inputs of every method.
func seed(f *testing.F) {
	for _, data := range [][]byte{nil, {'x'}, prose(3000)} {
		for i, m := range readable {
			if m == None {
				f.Add(uint8(i), data)
				continue
			}
			for _, level := range peers[m].levels {
				f.Add(uint8(i), peers[m].pack(f, level, data))
			}
		}
	}
}

// Whatever the input, reading ends in io.EOF or an error of a known type, the same each time and however the input is cut up;
// and an input that was read whole is read as the same bytes again.
func FuzzReader(f *testing.F) {
	seed(f)
	const most = 4 << 20 // of output: a small input may stand for a great deal
	read := func(t *testing.T, m Method, in io.Reader) ([]byte, error) {
		r, err := NewReader(m, in)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		out, err := io.ReadAll(io.LimitReader(r, most))
		if err != nil && !typed(err) {
			t.Errorf("%s: error without a type: %v", m, err)
		}
		if err == nil && len(out) < most {
			if verdict := r.Servable(); verdict != nil && !errors.Is(verdict, ErrUnsuited) {
				t.Errorf("%s: read whole, but servable says %v", m, verdict)
			}
		}
		return out, err
	}
	f.Fuzz(func(t *testing.T, selector uint8, in []byte) {
		m := readable[int(selector)%len(readable)]
		out, err := read(t, m, bytes.NewReader(in))
		pieces := io.MultiReader(bytes.NewReader(in[:len(in)/3]), bytes.NewReader(in[len(in)/3:]))
		again, err2 := read(t, m, pieces)
		if (err == nil) != (err2 == nil) {
			t.Errorf("%s: %v, in two pieces %v", m, err, err2)
		}
		if err == nil && !bytes.Equal(out, again) {
			t.Errorf("%s: %d bytes, in two pieces %d others", m, len(out), len(again))
		}
	})
}

// The inspector comes to the same verdict however the bytes are cut up, and agrees with the decoder on what is whole.
func FuzzInspector(f *testing.F) {
	for _, level := range peers[Zstd].levels {
		z := peers[Zstd].pack(f, level, prose(3000))
		f.Add(z, 3)
		f.Add(join(skippable(5), z, peers[Zstd].pack(f, level, nil)), 20)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var whole, cutUp zstdInspector
		whole.write(in)
		step := max(1, cut&0xff)
		for p := in; len(p) > 0; p = p[min(step, len(p)):] {
			cutUp.write(p[:min(step, len(p))])
		}
		if a, b := whole.verdict(), cutUp.verdict(); a != b {
			t.Errorf("whole %q, in pieces of %d %q", a, step, b)
		}
	})
}

// A header may claim a window of any size.
func TestHeadersAloneTakeBoundedMemory(t *testing.T) {
	for name, c := range map[string]struct {
		m    Method
		in   []byte
		most uint64 // MiB
	}{
		"zstd, window of 128 MiB":         {Zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3}, 0x0a, 0, 0, 'x'), 132},
		"zstd, single segment of 128 MiB": {Zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 8}, 0x0a, 0, 0, 'x'), 132},
		"zstd, single segment of 4 GiB":   {Zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 255}, 0x0a, 0, 0, 'x'), 2},
		"lzip, dictionary of 128 MiB":     {Lzip, append([]byte("LZIP\x01\x1b"), make([]byte, 5)...), 132},
		"lzip, dictionary of 256 MiB":     {Lzip, append([]byte("LZIP\x01\x1c"), make([]byte, 5)...), 2},
		"xz, dictionary of 128 MiB":       {Xz, peers[Xz].pack(t, "-1 --lzma2=dict=128MiB", prose(3000))[:900], 132},
		"xz, dictionary of 192 MiB":       {Xz, peers[Xz].pack(t, "-1 --lzma2=dict=192MiB", prose(3000)), 2},
		"brotli, window of 16 MiB":        {Brotli, peers[Brotli].pack(t, "-q 9 --lgwin=24", prose(3000))[:900], 20},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err, _ := inflate(t, c.m, bytes.NewReader(c.in))
			runtime.ReadMemStats(&after)
			if !typed(err) {
				t.Errorf("error %v", err)
			}
			if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > c.most {
				t.Errorf("took %d MiB, at most %d allowed", took, c.most)
			}
		})
	}
}

// What Guix writes states the dictionary of its compression level even for a small item.
func TestSmallLzipItemTakesLittleMemory(t *testing.T) {
	data := prose(3000)
	packed := peers[Lzip].pack(t, "-9", data)
	packed[5] = 25 // 32 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wantInflated(t, Lzip, packed, data)
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) >> 10; took > 1024 {
		t.Errorf("took %d KiB", took)
	}
	for _, lie := range []byte{200, 0} { // a data size that is too small, with which the dictionary is, too
		bad := bytes.Clone(packed)
		bad[len(bad)-16], bad[len(bad)-15] = lie, 0
		if got, err, _ := inflate(t, Lzip, bytes.NewReader(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("data size %d: %d bytes, error %v", lie, len(got), err)
		}
	}
}

package compress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"testing/iotest"
)

// skippable is a frame that decoders pass over.
func skippable(n int) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{0x53, 0x2a, 0x4d, 0x18}, uint32(n)), make([]byte, n)...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestOnlyWhatSuitsEveryClientIsServable(t *testing.T) {
	data := prose(100_000)
	pack := func(m Method, level string) []byte { return peers[m].pack(t, level, data) }
	z, empty := pack(Zstd, "-3"), peers[Zstd].pack(t, "-3", nil)
	g := pack(Gzip, "-6")
	for _, c := range []struct {
		name   string
		m      Method
		packed []byte
		want   error
	}{
		{"anything", None, data, nil},
		{"nothing", None, nil, nil},
		{"one frame", Zstd, z, nil},
		{"frames", Zstd, join(z, z, z), nil},
		{"skippable frames before and between", Zstd, join(skippable(10), z, skippable(300_000), z), nil},
		{"empty frames before and between", Zstd, join(empty, z, empty, z), nil},
		{"skippable frame at the end", Zstd, join(z, skippable(10)), ErrUnsuited},
		{"skippable frame of no bytes at the end", Zstd, join(z, skippable(0)), ErrUnsuited},
		{"empty frame at the end", Zstd, join(z, empty), ErrUnsuited},
		{"an empty frame alone", Zstd, empty, nil},
		{"two empty frames", Zstd, join(empty, empty), ErrUnsuited},
		{"only a skippable frame", Zstd, skippable(10), ErrTruncated},
		{"letters at the end", Zstd, join(z, []byte("abcdef")), ErrCorrupt},
		{"no checksum", Zstd, pack(Zstd, "-3 --no-check"), nil},
		{"window of 8 MiB", Zstd, pack(Zstd, "--long=23"), nil},
		{"window of 16 MiB", Zstd, pack(Zstd, "--long=24"), ErrUnsuited},
		{"window of 128 MiB in the second frame", Zstd, join(z, pack(Zstd, "--long=27"), z), ErrUnsuited},
		{"window of 256 MiB", Zstd, pack(Zstd, "--ultra --long=28"), ErrWindow},
		{"one member", Gzip, g, nil},
		{"two members", Gzip, join(g, g), ErrUnsuited},
		{"an empty second member", Gzip, join(g, peers[Gzip].pack(t, "-6", nil)), ErrUnsuited},
		{"one member", Lzip, pack(Lzip, "-6"), nil},
		{"two members", Lzip, join(pack(Lzip, "-6"), pack(Lzip, "-0")), nil},
		{"one stream", Xz, pack(Xz, "-6"), nil},
		{"streams and padding", Xz, join(pack(Xz, "-6"), make([]byte, 8), pack(Xz, "-0"), make([]byte, 4)), nil},
		{"streams and odd padding", Xz, join(pack(Xz, "-6"), make([]byte, 7), pack(Xz, "-0")), ErrCorrupt},
		{"whole", Bzip2, pack(Bzip2, "-1"), ErrUnsuited},
		{"whole", Brotli, pack(Brotli, "-q 1"), ErrUnsuited},
		{"whole", Lz4, pack(Lz4, "-1"), ErrUnsuited},
		{"dictionary of 512 MiB", Lzip, []byte("LZIP\x01\x1d\x00\x00\x00\x00\x00"), ErrWindow},
		{"dictionary too small to be one", Lzip, []byte("LZIP\x01\x2c\x00\x00\x00\x00\x00"), ErrCorrupt},
	} {
		t.Run(string(c.m)+" "+c.name, func(t *testing.T) {
			_, err, whole := inflate(t, c.m, bytes.NewReader(c.packed))
			if !errors.Is(whole, c.want) {
				t.Errorf("servable: %v, want %v", whole, c.want)
			}
			if err != nil && !errors.Is(err, c.want) {
				t.Errorf("read: %v", err)
			}
			if c.m == Zstd || c.m == Gzip || c.m == Lzip {
				if _, _, dribs := inflate(t, c.m, iotest.OneByteReader(bytes.NewReader(c.packed))); !errors.Is(dribs, c.want) {
					t.Errorf("read byte by byte, servable: %v, want %v", dribs, c.want)
				}
			}
		})
	}
}

// The window is worked out as RFC 8878 section 3.1.1.1 has it.
func TestWindowOfFrameHeaders(t *testing.T) {
	for _, c := range []struct {
		header []byte
		rest   int
		window uint64
	}{
		{[]byte{0x00, 0x00}, 1, 1 << 10},
		{[]byte{0x00, 13 << 3}, 1, 8 << 20},
		{[]byte{0x00, 13<<3 | 1}, 1, 9 << 20},
		{[]byte{0x80, 13<<3 | 7, 9, 9, 9, 9}, 5, 15 << 20},
		{[]byte{0x20, 200}, 1, 200},
		{[]byte{0x60, 0, 1}, 2, 512},
		{[]byte{0xa0, 1, 0, 0, 1}, 4, 1<<24 + 1},
		{[]byte{0xe3, 9, 9, 9, 9, 0, 0, 0, 0, 1, 0, 0, 0}, 12, 1 << 32},
	} {
		if rest, window := headerRest(c.header[0]), frameWindow(c.header); rest != c.rest || window != c.window {
			t.Errorf("% x: %d more bytes, window %d; want %d, %d", c.header, rest, window, c.rest, c.window)
		}
	}
}

package compress

import (
	"bytes"
	"strings"
	"testing"
)

// A peer is a program that reads and writes a method.
type peer struct {
	debian, name string
	levels       []string
	extra        []string
}

var peers = map[Method]peer{
	Zstd:   {"zstd", "zstd", []string{"-1", "-3", "-9", "-19", "--fast=5", "-3 --long=27", "-3 --no-check"}, []string{"-q", "-c"}},
	Gzip:   {"gzip", "gzip", []string{"-1", "-6", "-9"}, []string{"-c"}},
	Lzip:   {"lzip", "lzip", strings.Fields("-0 -1 -2 -3 -4 -5 -6 -7 -8 -9 -1,-s4KiB -6,-b100KiB -6,-s64KiB -6,-s35KiB -9,-s100KiB -3,-m5"), []string{"-c"}},
	Xz:     {"xz-utils", "xz", []string{"-0", "-6", "-9", "-1 --check=none", "-1 --check=crc32", "-1 --check=sha256", "-0 --block-size=50000", "-0e -T2", "-1 --x86 --lzma2", "-1 --delta=dist=4 --lzma2=lc=2,lp=2,pb=4"}, []string{"-c"}},
	Bzip2:  {"bzip2", "bzip2", []string{"-1", "-9"}, []string{"-c"}},
	Brotli: {"brotli", "brotli", []string{"-q 1", "-q 5", "-q 9 --lgwin=24"}, []string{"-c"}},
	Lz4:    {"lz4", "lz4", []string{"-1", "-9", "-1 -BD", "-1 -BX", "-1 -B4", "-1 --no-frame-crc", "-1 --content-size"}, []string{"-q", "-c"}},
}

func (p peer) pack(tb testing.TB, level string, data []byte) []byte {
	args := append(strings.Fields(strings.ReplaceAll(level, ",", " ")), p.extra...)
	if strings.Contains(level, "=lc") {
		args = append(strings.Fields(level), p.extra...)
	}
	return run(tb, p.debian, data, p.name, args...)
}

func TestWhatProgramsWriteIsRead(t *testing.T) {
	samples := map[string][]byte{
		"nothing": {}, "a byte": {'x'}, "noise": noise(20_000), "zeros": make([]byte, 300_000), "prose": prose(115_000),
	}
	for m, p := range peers {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			for _, level := range p.levels {
				for name, data := range samples {
					t.Run(level+" "+name, func(t *testing.T) {
						packed := p.pack(t, level, data)
						wantInflated(t, m, packed, data)
						if m == Brotli {
							return // a brotli stream has no beginning to recognize, so that two in a row are not one
						}
						wantInflated(t, m, append(bytes.Clone(packed), packed...), append(bytes.Clone(data), data...))
					})
				}
			}
		})
	}
}

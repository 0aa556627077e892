package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/nar"
)

// narInput is how a command is told where to read a nar and how it is compressed.
type narInput struct {
	Compression string `enum:"auto,none,zstd,gzip,lzip,xz,bzip2,br,lz4" default:"auto" placeholder:"METHOD" help:"How the nar is compressed: none, zstd, gzip, lzip, xz, bzip2, br, lz4, or auto, which tells it by the first bytes, and br by the ending .nar.br. Default: auto."`
}

// magics are the first bytes by which the compressions are told. Brotli has none. (Sources: RFC 8878 3.1.1 and 3.1.2, RFC 1952
// 2.3.1, the lzip manual "File format", the xz file format 2.1.1.1, bzip2's "BZh", the LZ4 frame format.)
var magics = []struct {
	method compress.Method
	bytes  string
}{
	{compress.Zstd, "\x28\xb5\x2f\xfd"},
	{compress.Gzip, "\x1f\x8b"},
	{compress.Lzip, "LZIP"},
	{compress.Xz, "\xfd7zXZ\x00"},
	{compress.Bzip2, "BZh"},
	{compress.Lz4, "\x04\x22\x4d\x18"},
}

const (
	// longestMagic is the number of bytes by which zstd's skippable frames are told, and more than any magic has.
	longestMagic = 6
	// readBuffer spares system calls when a nar is read from a pipe or file.
	readBuffer = 256 << 10
)

// narStream is the uncompressed bytes of a nar.
type narStream struct {
	io.Reader
	name  string
	close []io.Closer
}

// open opens the nar in the file name, or on standard input if that is "-". Reading obeys ctx.
func (in narInput) open(ctx context.Context, inv *invocation, name string) (*narStream, error) {
	s := &narStream{name: name}
	r := inv.stdin
	if name == "-" {
		s.name = "standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read nar: %w", err)
		}
		s.close = append(s.close, f)
		if info, err := f.Stat(); err == nil && info.IsDir() {
			s.Close()
			return nil, hint(fmt.Errorf("read nar %s: it is a directory", name), fmt.Sprintf("narfold nar dump %s | narfold nar hash -", name))
		}
		r = interruptible(ctx, f)
	}
	buffered := bufio.NewReaderSize(r, readBuffer)
	s.Reader = buffered
	method := compress.Method(in.Compression)
	if in.Compression == "auto" {
		first, err := buffered.Peek(longestMagic)
		if err != nil && !errors.Is(err, io.EOF) {
			s.Close()
			return nil, s.failure("read", err)
		}
		method = methodOf(first, name)
	}
	if method == compress.None {
		return s, nil
	}
	z, err := compress.NewReader(method, buffered)
	if err != nil {
		s.Close()
		return nil, s.failure("read", err)
	}
	s.Reader = z
	s.close = append(s.close, z)
	return s, nil
}

// methodOf tells a compression by the first bytes of a file, and by its name where these tell nothing.
func methodOf(first []byte, name string) compress.Method {
	for _, m := range magics {
		if bytes.HasPrefix(first, []byte(m.bytes)) {
			return m.method
		}
	}
	if len(first) >= 4 && first[0]&0xf0 == 0x50 && string(first[1:4]) == "\x2a\x4d\x18" { // a skippable frame
		return compress.Zstd
	}
	if strings.HasSuffix(name, ".nar.br") {
		return compress.Brotli
	}
	return compress.None
}

// Close closes what was opened. It loses nothing, as all was only read.
func (s *narStream) Close() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i].Close()
	}
}

// failure says which nar an error is about, and what to do if it may be compressed by a method that cannot be told.
func (s *narStream) failure(verb string, err error) error {
	wrapped := fmt.Errorf("%s nar %s: %w", verb, s.name, err)
	if errors.Is(err, nar.ErrMagic) {
		return hint(wrapped, "--compression br, if that is how it is compressed; other methods are told by themselves")
	}
	return wrapped
}

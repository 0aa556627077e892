package compress

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// noise returns n bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := io.ReadFull(r, b); err != nil {
		panic(err)
	}
	return b
}

// prose returns n bytes that compress about as well as a nar does: words, repeated passages near and far, store paths and
// stretches of zeros and noise.
func prose(n int) []byte {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	words := make([]string, 4000)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = "etaoinshrdlucmfw"[r.IntN(16)]
		}
		words[i] = string(w)
	}
	b := make([]byte, 0, n+4096)
	for len(b) < n {
		switch k := r.IntN(200); {
		case k == 0:
			b = append(b, make([]byte, r.IntN(200))...)
		case k == 1:
			for range r.IntN(300) {
				b = append(b, byte(r.Uint32()))
			}
		case k == 2:
			b = fmt.Appendf(b, "/gnu/store/%032d-%s-%d.%d/lib", r.IntN(50), words[r.IntN(60)], r.IntN(9), r.IntN(9))
		case k < 7 && len(b) > 0:
			from := r.IntN(len(b))
			b = append(b, b[from:min(len(b), from+r.IntN(400))]...)
		default:
			b = append(append(b, words[int(r.ExpFloat64()*300)%len(words)]...), ' ')
		}
	}
	return b[:n]
}

// long returns more than the 4 MiB that make a piece of lzip and xz at the Fastest level, and is quick to compress.
func long() []byte { return join(prose(100_000), make([]byte, 4<<20), noise(100_000)) }

// run gives in to a program of a Debian package and returns what it writes.
func run(tb testing.TB, debian string, in []byte, name string, args ...string) []byte {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		tb.Fatalf("%s is needed: install the Debian package %s", name, debian)
	}
	cmd := exec.CommandContext(tb.Context(), name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &complaint
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, complaint.String())
	}
	return out.Bytes()
}

// matters reports whether writing m takes other paths with o than with its Level alone.
func matters(o Options, m Method) bool {
	return (!o.Frames || m == Zstd) && (!o.Programs || m == Lzip || m == Xz)
}

// deflated compresses with this package.
func deflated(tb testing.TB, o Options, m Method, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := o.NewWriter(m, &b)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// inflate reads packed to its end, and returns the verdict of Servable too.
func inflate(tb testing.TB, m Method, packed io.Reader) (data []byte, err, servable error) {
	tb.Helper()
	r, err := NewReader(m, packed)
	if err != nil {
		tb.Fatal(err)
	}
	data, err = io.ReadAll(r)
	if cerr := r.Close(); cerr != nil {
		tb.Fatal(cerr)
	}
	return data, err, r.Servable()
}

// wantInflated fails the test unless packed reads as data.
func wantInflated(tb testing.TB, m Method, packed, data []byte) {
	tb.Helper()
	got, err, _ := inflate(tb, m, bytes.NewReader(packed))
	if err != nil {
		tb.Fatalf("after %d bytes of %d: %v", len(got), len(data), err)
	}
	if !bytes.Equal(got, data) {
		tb.Fatalf("read %d bytes that differ from the %d written", len(got), len(data))
	}
}

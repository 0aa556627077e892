package compress

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/iotest"
)

// damaged gives, for each method, an input of several frames, members or streams as far as the method has such.
func damaged(tb testing.TB, data []byte) map[Method][]byte {
	all := make(map[Method][]byte)
	half := len(data) / 2
	for m, p := range peers {
		level := p.levels[0]
		if m == Lz4 {
			level = "-1 -BX" // with checks of blocks, too
		}
		if m == Brotli {
			all[m] = p.pack(tb, level, data)
			continue
		}
		all[m] = append(p.pack(tb, level, data[:half]), p.pack(tb, level, data[half:])...)
	}
	return all
}

// typed reports whether err is one that this package promises for damage.
func typed(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrWindow)
}

func TestFlippedBitIsFoundOrHarmless(t *testing.T) {
	data := prose(2000)
	for m, packed := range damaged(t, data) {
		if m == Brotli {
			continue // the format has no check
		}
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			found := 0
			for at := range packed {
				bad := bytes.Clone(packed)
				bad[at] ^= 1 << (at % 8)
				got, err, _ := inflate(t, m, bytes.NewReader(bad))
				switch {
				case err == nil && !bytes.Equal(got, data):
					t.Errorf("bit %d of byte %d: %d wrong bytes without an error", at%8, at, len(got))
				case err != nil && !typed(err):
					t.Errorf("bit %d of byte %d: error without a type: %v", at%8, at, err)
				case err != nil:
					found++
				}
			}
			// What is left are bits without meaning, such as the time in a gzip header or a larger dictionary.
			if found < len(packed)*95/100 {
				t.Errorf("only %d of %d flips were found", found, len(packed))
			}
		})
	}
}

func TestTruncationIsFoundAtEveryOffset(t *testing.T) {
	data := prose(2000)
	for m, packed := range damaged(t, data) {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			seams := 0
			for n := range packed {
				got, err, _ := inflate(t, m, bytes.NewReader(packed[:n]))
				if err == nil && bytes.Equal(got, data[:len(data)/2]) {
					seams++ // between two members nothing is cut off
				} else if !errors.Is(err, ErrTruncated) && !(m == Xz && errors.Is(err, ErrCorrupt)) {
					t.Errorf("cut to %d of %d bytes: %d bytes and error %v", n, len(packed), len(got), err)
				}
			}
			if seams > 1 {
				t.Errorf("%d cuts look like a whole input", seams)
			}
		})
	}
}

func TestBytesAfterTheEndAreFound(t *testing.T) {
	data := prose(4000)
	for m, packed := range damaged(t, data) {
		for name, tail := range map[string][]byte{"a zero": {0}, "zeros": make([]byte, 4099), "noise": noise(70_000), "a letter": {'L'}, "newline": {'\n'}} {
			t.Run(string(m)+" "+name, func(t *testing.T) {
				for how, r := range map[string]io.Reader{
					"in one piece": bytes.NewReader(append(bytes.Clone(packed), tail...)),
					"apart":        io.MultiReader(bytes.NewReader(packed), bytes.NewReader(tail)),
				} {
					if _, err, _ := inflate(t, m, r); !typed(err) {
						t.Errorf("%s: error %v", how, err)
					}
				}
			})
		}
	}
}

func TestErrorOfTheInputPassesUnchanged(t *testing.T) {
	data := prose(200_000)
	all := damaged(t, data)
	all[None] = data
	cause := errors.New("cable was cut")
	for m, packed := range all {
		t.Run(string(m), func(t *testing.T) {
			for range 6 {
				n := rand.IntN(len(packed) + 1)
				for name, failure := range map[string]error{"own": cause, "library's": io.ErrUnexpectedEOF} {
					_, err, servable := inflate(t, m, io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(failure)))
					if err != failure || servable != failure {
						t.Errorf("%s error after %d bytes of %d: %v, servable %v", name, n, len(packed), err, servable)
					}
				}
			}
		})
	}
}

func TestInputInDribsIsRead(t *testing.T) {
	data := prose(20_000)
	for m, packed := range damaged(t, data) {
		for name, r := range map[string]io.Reader{
			"bytes": iotest.OneByteReader(bytes.NewReader(packed)), "end with data": iotest.DataErrReader(bytes.NewReader(packed)),
		} {
			got, err, _ := inflate(t, m, r)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %s: %d bytes, error %v", m, name, len(got), err)
			}
		}
	}
}

func TestReaderIsNotUsedAfterClose(t *testing.T) {
	for m, packed := range damaged(t, prose(1000)) {
		r, err := NewReader(m, bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 10)); err != nil {
			t.Fatal(m, err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Fatal(m, err)
		}
		if _, err := r.Read(make([]byte, 10)); err != ErrClosed {
			t.Errorf("%s: %v", m, err)
		}
		if err := r.Servable(); err == nil {
			t.Errorf("%s: servable, though not read to the end", m)
		}
	}
}

// A decoder that comes from a pool must not remember its last user.
func TestPooledDecodersForget(t *testing.T) {
	for round := range 3 {
		for m, packed := range damaged(t, prose(40_000+round)) {
			if _, err, _ := inflate(t, m, bytes.NewReader(packed[:len(packed)-3])); !typed(err) {
				t.Errorf("%s: %v", m, err)
			}
			wantInflated(t, m, packed, prose(40_000+round))
			if got, err, _ := inflate(t, m, bytes.NewReader(nil)); len(got) > 0 || !errors.Is(err, ErrTruncated) {
				t.Errorf("%s: empty input gives %d bytes, %v", m, len(got), err)
			}
		}
	}
}

func TestWriterStopsAtAnErrorOfItsOutput(t *testing.T) {
	data := noise(200_000)
	for _, m := range writable {
		for _, o := range []Options{{Level: Fastest}, {Level: Fastest, Frames: true, Programs: true}} {
			for _, room := range []int64{0, 1, 100_000} {
				t.Run(string(m)+" "+strconv.FormatInt(room, 10), func(t *testing.T) {
					out := &full{room: room}
					w, err := o.NewWriter(m, out)
					if err != nil {
						t.Fatal(err)
					}
					_, werr := w.Write(data)
					cerr := w.Close()
					if !errors.Is(cerr, errFull) || werr != nil && !errors.Is(werr, errFull) {
						t.Errorf("Write: %v, Close: %v", werr, cerr)
					}
					if out.after > 0 {
						t.Errorf("%d writes after the error", out.after)
					}
					if _, err := w.Write(data); err != ErrClosed {
						t.Errorf("Write after Close: %v", err)
					}
				})
			}
		}
	}
}

func TestPiecesAreWrittenInOrderUntilAnError(t *testing.T) {
	data := noise(10_500)
	hold := func(dst *bytes.Buffer, piece []byte) error {
		_, err := dst.Write(piece)
		return err
	}
	for _, workers := range []int{1, 2, 7, 50} {
		for _, step := range []int{1, 999, 1000, 1001, len(data)} {
			for _, room := range []int64{0, 999, 5500, int64(len(data))} {
				out := &full{room: room}
				w := &writer{method: Lzip, out: &sink{w: out}}
				w.enc = newPieces(w.out, 1000, workers, hold)
				var werr error
				for p := data; len(p) > 0 && werr == nil; p = p[min(step, len(p)):] {
					_, werr = w.Write(p[:min(step, len(p))])
				}
				cerr := w.Close()
				if room < int64(len(data)) {
					if !errors.Is(cerr, errFull) || out.after > 0 {
						t.Errorf("%d workers, step %d, room %d: error %v, %d writes after it", workers, step, room, cerr, out.after)
					}
				} else if werr != nil || cerr != nil || !bytes.Equal(out.got, data) {
					t.Errorf("%d workers, step %d: %v, %v, %d bytes", workers, step, werr, cerr, len(out.got))
				}
			}
		}
	}
	broken := errors.New("encoder is broken")
	p := newPieces(io.Discard, 10, 2, func(*bytes.Buffer, []byte) error { return broken })
	if _, err := p.Write(data); err != broken {
		t.Errorf("Write: %v", err)
	}
	if err := p.Close(); err != broken {
		t.Errorf("Close: %v", err)
	}
}

var errFull = errors.New("disk is full")

// full takes room bytes.
type full struct {
	room   int64
	got    []byte
	failed bool
	after  int
}

func (f *full) Write(p []byte) (int, error) {
	if f.failed {
		f.after++
	}
	if int64(len(p)) > f.room {
		f.failed = true
		return int(f.room), errFull
	}
	f.room -= int64(len(p))
	f.got = append(f.got, p...)
	return len(p), nil
}

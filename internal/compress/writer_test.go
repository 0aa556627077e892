package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"testing"
)

var (
	writable = []Method{None, Zstd, Gzip, Lzip, Xz}
	levels   = map[string]Level{"fastest": Fastest, "default": Default, "best": Best}
)

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	samples := map[string][]byte{
		"nothing": {}, "a byte": {'x'}, "noise": noise(140_000),
	}
	text := prose(9 << 19) // more than a piece of lzip and xz, and than a window of zstd
	for _, m := range writable {
		for lname, level := range levels {
			t.Run(string(m)+" "+lname, func(t *testing.T) {
				t.Parallel()
				these := maps.Clone(samples)
				o := Options{Level: level}
				if level == Fastest {
					these["text of 4.5 MiB"], these["more than a piece"] = text, long()
				}
				for name, data := range these {
					// The library takes a minute for the long text under the race detector.
					o.Programs = len(data) == len(text)
					packed := deflated(t, o, m, data)
					got, err, servable := inflate(t, m, bytes.NewReader(packed))
					if err != nil || servable != nil || !bytes.Equal(got, data) {
						t.Errorf("%s: read %d bytes of %d, error %v, servable %v", name, len(got), len(data), err, servable)
					}
				}
			})
		}
	}
}

func TestOutputDependsOnInputAndOptionsOnly(t *testing.T) {
	data := long()
	for _, m := range writable {
		for lname, o := range map[string]Options{
			"fastest": {Level: Fastest}, "frames": {Level: Fastest, Frames: true}, "programs": {Level: Fastest, Programs: true},
		} {
			if !matters(o, m) {
				continue
			}
			t.Run(string(m)+" "+lname, func(t *testing.T) {
				t.Parallel()
				want := deflated(t, o, m, data)
				for workers, step := range map[int]int{1: 1009, 3: 1 << 20} {
					o.Workers = workers
					var b bytes.Buffer
					w, err := o.NewWriter(m, &b)
					if err != nil {
						t.Fatal(err)
					}
					for p := data; len(p) > 0; p = p[min(step, len(p)):] {
						if _, err := w.Write(p[:min(step, len(p))]); err != nil {
							t.Fatal(err)
						}
					}
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(b.Bytes(), want) {
						t.Errorf("%d workers, writes of %d: %d bytes that differ from %d", workers, step, b.Len(), len(want))
					}
				}
			})
		}
	}
}

func TestMissingProgramIsSaid(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, m := range []Method{Lzip, Xz} {
		if _, err := (Options{Programs: true}).NewWriter(m, new(bytes.Buffer)); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("%s: %v", m, err)
		}
	}
}

func TestMethodsThatAreNotWrittenAreRefused(t *testing.T) {
	for _, m := range []Method{Bzip2, Brotli, Lz4, "rot13", ""} {
		if w, err := NewWriter(m, new(bytes.Buffer), Default); err == nil {
			t.Errorf("%q: %v", m, w)
		}
	}
	for _, o := range []Options{{Level: -1}, {Level: 3}, {Workers: -1}} {
		if _, err := o.NewWriter(Zstd, new(bytes.Buffer)); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func ExampleNewWriter() {
	var stored bytes.Buffer
	w, err := NewWriter(Zstd, &stored, Default)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(w, "nix-archive-1")
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}
	r, err := NewReader(Zstd, &stored)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	var nar bytes.Buffer
	if _, err := nar.ReadFrom(r); err != nil {
		fmt.Println(err)
	}
	fmt.Println(nar.String(), r.Servable())
	// Output: nix-archive-1 <nil>
}

func TestAroundTheSizeOfATinyInputTheDivisionIntoWritesDoesNotShow(t *testing.T) {
	for _, size := range []int{0, 1, tinyZstd - 1, tinyZstd, tinyZstd + 1, 3 * tinyZstd} {
		data := bytes.Repeat([]byte("some words that are in a small item "), size/36+1)[:size]
		var first []byte
		for _, chunk := range []int{size + 1, 1000, tinyZstd, 7} {
			var out bytes.Buffer
			w, err := NewWriter(Zstd, &out, Default)
			if err != nil {
				t.Fatal(err)
			}
			for rest := data; len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
				if _, err := w.Write(rest[:min(chunk, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = out.Bytes()
			}
			if !bytes.Equal(out.Bytes(), first) {
				t.Errorf("%d bytes in writes of %d: other bytes than in one write", size, chunk)
			}
			r, err := NewReader(Zstd, &out)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) || r.Servable() != nil {
				t.Errorf("%d bytes in writes of %d: read back %d, %v, %v", size, chunk, len(got), err, r.Servable())
			}
			r.Close()
		}
	}
}

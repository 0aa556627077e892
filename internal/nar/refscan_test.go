package nar

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"narfold/internal/storepath"
)

// parts makes n hash parts.
func parts(n int) []storepath.HashPart {
	r := rand.NewChaCha8([32]byte{2})
	all := make([]storepath.HashPart, n)
	for i := range all {
		var b [20]byte
		_, _ = r.Read(b[:])
		all[i] = storepath.HashPartOf(b)
	}
	slices.Sort(all)
	return all
}

func TestReferencesAreFoundWhereverTheyStand(t *testing.T) {
	p := parts(4)
	for name, c := range map[string]struct {
		text string
		want []storepath.HashPart
	}{
		"nothing":               {"", nil},
		"alone":                 {string(p[0]), p[:1]},
		"in a path":             {"/gnu/store/" + string(p[1]) + "-x/bin", p[1:2]},
		"after characters":      {"abcdf" + string(p[2]) + "abcdf", p[2:3]},
		"one after another":     {string(p[0]) + string(p[1]), p[:2]},
		"twice":                 {string(p[0]) + "/" + string(p[0]), p[:1]},
		"in a long run":         {strings.Repeat("0", 1000) + string(p[3]) + strings.Repeat("z", 1000), p[3:]},
		"cut by a byte":         {string(p[0][:16]) + "e" + string(p[0][16:]), nil},
		"short of the last":     {string(p[0][:31]), nil},
		"short of the first":    {string(p[0][1:]), nil},
		"upper case":            {strings.ToUpper(string(p[0])), nil},
		"among foreign bytes":   {"\x00\xff" + string(p[0]) + "\x00" + string(p[2]) + "\n", []storepath.HashPart{p[0], p[2]}},
		"31 foreign and then":   {strings.Repeat("e", 31) + string(p[0]), p[:1]},
		"31 characters between": {strings.Repeat("a", 31) + "." + string(p[0]) + "." + strings.Repeat("a", 31) + string(p[1]), p[:2]},
	} {
		t.Run(name, func(t *testing.T) {
			for step := 1; step <= len(c.text)+1; step++ {
				s := NewRefScanner(p)
				for rest := []byte(c.text); len(rest) > 0; rest = rest[min(step, len(rest)):] {
					if n, err := s.Write(rest[:min(step, len(rest))]); n != min(step, len(rest)) || err != nil {
						t.Fatalf("Write: %d, %v", n, err)
					}
				}
				if got := s.Found(); !slices.Equal(got, c.want) {
					t.Fatalf("written %d bytes at a time: %v, want %v", step, got, c.want)
				}
			}
		})
	}
}

func TestTheReferencesOfANarAreFound(t *testing.T) {
	p := parts(300)
	var text bytes.Buffer
	for i, part := range p {
		text.Write(noise(i * 7))
		if i%3 == 0 {
			text.WriteString("/nix/store/" + string(part) + "-name")
		}
	}
	var nar bytes.Buffer
	s := NewRefScanner(p)
	w := NewWriter(&nar)
	must(t, w.File("", int64(text.Len()), false))
	_, err := w.Write(text.Bytes())
	must(t, err)
	must(t, w.Close())
	_, err = nar.WriteTo(s)
	must(t, err)
	var want []storepath.HashPart
	for i := 0; i < len(p); i += 3 {
		want = append(want, p[i])
	}
	if got := s.Found(); !slices.Equal(got, want) {
		t.Errorf("found %d of %d", len(got), len(want))
	}
}

func FuzzRefScanner(f *testing.F) {
	p := parts(3)
	f.Add([]byte("/gnu/store/"+string(p[0])+"-x"), uint8(5))
	f.Add([]byte(string(p[1])+string(p[2])), uint8(33))
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		s := NewRefScanner(p)
		for rest := text; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			_, _ = s.Write(rest[:n])
			rest = rest[n:]
		}
		var want []storepath.HashPart
		for _, part := range p {
			if bytes.Contains(text, []byte(part)) {
				want = append(want, part)
			}
		}
		if got := s.Found(); !slices.Equal(got, want) {
			t.Fatalf("found %v, want %v", got, want)
		}
	})
}

package source

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"narfold/internal/storepath"
)

func TestAListOfStorePathsIsReadStrictly(t *testing.T) {
	h := strings.Repeat("0", 32)
	got, err := parseStorePaths(strings.NewReader("# a release\n\n/gnu/store/" + h + "-a\r\n" + h + "-b\n  " + h + "\n"))
	want := []wanted{{storepath.HashPart(h), storepath.Base(h + "-a"), "/gnu/store"}, {storepath.HashPart(h), storepath.Base(h + "-b"), ""}, {storepath.HashPart(h), "", ""}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("read %v, %v", got, err)
	}
	for _, text := range []string{"hello\n", "/gnu/store/" + h + "-a/bin\n", strings.Repeat("x", maxListLine+1) + "\n", h + "-a\x00\n"} {
		if _, err := parseStorePaths(strings.NewReader(text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if _, err := parseListNamed("x.xz", strings.NewReader("not xz")); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged list: %v", err)
	}
}

func FuzzParseStorePaths(f *testing.F) {
	f.Add("/gnu/store/00000000000000000000000000000000-a\n# x\n00000000000000000000000000000000")
	f.Fuzz(func(t *testing.T, text string) {
		items, err := parseStorePaths(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v", err)
			}
			return
		}
		var lines []string
		for _, w := range items {
			lines = append(lines, w.String())
		}
		again, err := parseStorePaths(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil || !slices.Equal(again, items) {
			t.Errorf("%q is %v, then %v, %v", text, items, again, err)
		}
	})
}

func TestACacheInfoNamesTheStore(t *testing.T) {
	for text, want := range map[string]storepath.Dir{
		"StoreDir: /gnu/store\nPriority: 100\n": "/gnu/store", "Priority: 1\nStoreDir:/nix/store": "/nix/store", "": "", "Priority: 1\n": "",
	} {
		if got, err := parseCacheInfo([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzParseCacheInfo(f *testing.F) {
	f.Add([]byte("StoreDir: /gnu/store\nWantMassQuery: 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir, err := parseCacheInfo(text)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v", err)
		}
		if err == nil && dir != "" {
			if _, err := storepath.ParseDir(string(dir)); err != nil {
				t.Errorf("%q gives %q", text, dir)
			}
		}
	})
}

func TestARangeIsReadAsServersWriteIt(t *testing.T) {
	for s, want := range map[string][2]int64{"bytes 0-9/10": {0, 10}, "bytes 5-9/10": {5, 10}, "bytes 5-9/*": {5, -1}} {
		if from, size, ok := contentRange(s); !ok || from != want[0] || size != want[1] {
			t.Errorf("%q: %d, %d, %v", s, from, size, ok)
		}
	}
	for _, s := range []string{"", "bytes */10", "bytes 5-4/10", "bytes 0-10/10", "bytes -1-9/10", "octets 0-9/10", "bytes 0-9", "bytes 0-9/x"} {
		if _, _, ok := contentRange(s); ok {
			t.Errorf("%q is taken", s)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Fuzz(func(t *testing.T, s string) {
		if from, size, ok := contentRange(s); ok && (from < 0 || size >= 0 && from >= size) {
			t.Errorf("%q: from %d of %d", s, from, size)
		}
	})
}

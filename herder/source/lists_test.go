package source

import (
	"errors"
	"os/exec"
	"path/filepath"
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

// The manifest that Guix 1.4 leaves in a profile has this shape.
const guixManifest = `;; a comment, of those who export "/gnu/store/00000000000000000000000000000000-not-a-string
(manifest
  (version 4)
  (packages
    (("hello" "2.12" "out" "/gnu/store/11111111111111111111111111111111-hello-2.12"
      (propagated-inputs (("glibc" "2.35" "out" "/gnu/store/22222222222222222222222222222222-glibc-2.35")))
      (search-paths (("PATH" ("bin") ":" directory #f)))
      (properties (provenance (repository (url "https://example.org/\"x\"") (commit "")))))
     ("hello" "2.12" "doc" "/gnu/store/11111111111111111111111111111111-hello-2.12/share/doc"))))
`

func TestTheManifestOfAProfileIsAListToo(t *testing.T) {
	text := strings.Replace(guixManifest, `of those who export "`, "of those who export ", 1)
	got, err := parseList(strings.NewReader(text))
	if err != nil || len(got) != 2 || got[0].String() != "/gnu/store/11111111111111111111111111111111-hello-2.12" || got[1].String() != "/gnu/store/22222222222222222222222222222222-glibc-2.35" {
		t.Errorf("read %v, %v", got, err)
	}
	for _, text := range []string{`("open`, `("` + strings.Repeat("x", maxManifestString+1) + `")`, `("x\`} {
		if _, err := parseList(strings.NewReader(text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if got, err := parseList(strings.NewReader("")); err != nil || len(got) > 0 {
		t.Errorf("an empty list: %v, %v", got, err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(guixManifest)
	f.Add(`(""/"\x")`)
	f.Fuzz(func(t *testing.T, text string) {
		items, err := parseManifest(strings.NewReader(text))
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v", err)
		}
		for _, w := range items {
			if again, err := parseItem(w.String()); err != nil || again != w {
				t.Errorf("%q gives %v: %v", text, w, err)
			}
		}
	})
}

// The programs that people compress lists with, by the ending that they give to files.
func TestAListIsExpandedAsItsNameSays(t *testing.T) {
	h := strings.Repeat("0", 32)
	for ending, program := range map[string][]string{
		"": {"cat"}, ".xz": {"xz", "-c"}, ".zst": {"zstd", "-qc"}, ".br": {"brotli", "-c"}, ".gz": {"gzip", "-c"}, ".lz": {"lzip", "-c"}, ".bz2": {"bzip2", "-c"}, ".lz4": {"lz4", "-qc"},
	} {
		cmd := exec.Command(program[0], program[1:]...)
		cmd.Stdin = strings.NewReader("/nix/store/" + h + "-a\n")
		packed, err := cmd.Output()
		if err != nil {
			t.Fatalf("needs the Debian package %s: %v", program[0], err)
		}
		name := filepath.Join(t.TempDir(), "store-paths"+ending)
		writeFile(t, name, string(packed))
		got, err := readStorePaths(t.Context(), name, Options{})
		if err != nil || len(got) != 1 || got[0].String() != "/nix/store/"+h+"-a" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
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

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/nar"
)

// smallNar returns a nar with a file "a" and another behind it, and an odd name.
func smallNar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	for _, h := range []nar.Header{
		{Type: nar.Directory},
		{Path: "a", Type: nar.Regular, Size: 3},
		{Path: "evil\x1b[2J", Type: nar.Symlink, Target: "new\nline"},
		{Path: "z", Type: nar.Regular, Size: 100_000},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("."), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t testing.TB, method compress.Method, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compress.NewWriter(method, &out, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestACompressionIsToldByItsFirstBytes(t *testing.T) {
	n := smallNar(t)
	for _, method := range []compress.Method{compress.None, compress.Zstd, compress.Gzip, compress.Lzip, compress.Xz} {
		if got := methodOf(compressed(t, method, n)[:longestMagic], "x"); got != method {
			t.Errorf("%s is taken for %s", method, got)
		}
	}
	for first, want := range map[string]compress.Method{
		"":                         compress.None,
		"\x1f":                     compress.None,
		"BZh91AY":                  compress.Bzip2,
		"\x04\x22\x4d\x18\x64\x40": compress.Lz4,
		"\x50\x2a\x4d\x18\x00\x00": compress.Zstd, // skippable frames
		"\x5f\x2a\x4d\x18\x00\x00": compress.Zstd,
		"\x60\x2a\x4d\x18\x00\x00": compress.None,
	} {
		if got := methodOf([]byte(first), "x.nar"); got != want {
			t.Errorf("%q is taken for %s, want %s", first, got, want)
		}
	}
	if got := methodOf([]byte("\x0b\x02\x80"), "x.nar.br"); got != compress.Brotli {
		t.Errorf("x.nar.br is taken for %s", got)
	}
}

func TestNamesDoNothingToATerminal(t *testing.T) {
	stdout := string(must(t, smallNar(t), "nar", "ls", "-l", "-"))
	if want := `lrwxrwxrwx                    0 "./evil\x1b[2J" -> "new\nline"` + "\n"; !strings.Contains(stdout, want) {
		t.Errorf("listed\n%swant the line\n%s", stdout, want)
	}
}

// TestCatTellsOfDamageBehindTheFile checks that compressed bytes are not believed before their checksum.
func TestCatTellsOfDamageBehindTheFile(t *testing.T) {
	whole := compressed(t, compress.Gzip, smallNar(t))
	if stdout := must(t, whole, "nar", "cat", "-", "a"); string(stdout) != "..." {
		t.Errorf("printed %q", stdout)
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-6] ^= 1 // in the CRC32
	for name, input := range map[string][]byte{"wrong checksum": damaged, "cut": whole[:len(whole)-9]} {
		if _, stderr, code := narfold(t, input, "nar", "cat", "-", "a"); code != exitDamage {
			t.Errorf("%s: exit code %d, said %q", name, code, stderr)
		}
	}
}

func TestADamagedNarRestoresNothing(t *testing.T) {
	dir := t.TempDir()
	n := smallNar(t)
	for name, input := range map[string][]byte{"cut": n[:len(n)-8], "more": append(bytes.Clone(n), 0), "cut zstd": compressed(t, compress.Zstd, n)[:50]} {
		if _, stderr, code := narfold(t, input, "nar", "restore", filepath.Join(dir, "x")); code != exitDamage {
			t.Errorf("%s: exit code %d, said %q", name, code, stderr)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
}

func TestNarCommandsObeyASignal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{syscall.SIGTERM})
	file := spit(t, filepath.Join(t.TempDir(), "n"), smallNar(t))
	for _, args := range [][]string{
		{"nar", "hash", file}, {"nar", "hash", "-"}, {"nar", "ls", file}, {"nar", "cat", file, "a"},
		{"nar", "dump", file}, {"nar", "restore", file + "-copy"},
	} {
		if _, stderr, code := narfoldIn(ctx, smallNar(t), args...); code != 143 {
			t.Errorf("%v: exit code %d, said %q", args[:2], code, stderr)
		}
	}
}

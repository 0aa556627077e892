package nar

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nixStore returns the program that most tests compare with.
func nixStore(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("nix-store")
	if err != nil {
		t.Fatal("nix-store is missing: install the Debian package nix-bin")
	}
	return path
}

// nixDump returns what nix-store makes of path.
func nixDump(t testing.TB, path string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), nixStore(t), "--dump", path)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("nix-store --dump %s: %v\n%s", path, err, &errs)
	}
	return out.Bytes()
}

// nixRestore lets nix-store make target from a nar, and returns what it says if it refuses.
func nixRestore(t testing.TB, nar []byte, target string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), nixStore(t), "--restore", target)
	cmd.Stdin = bytes.NewReader(nar)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nix-store --restore %s: %w\n%s", target, err, out)
	}
	return nil
}

// must fails the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample is a tree with everything that a nar can hold, and every length of padding.
func sample(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "sample")
	dir := func(name string) { must(t, os.MkdirAll(filepath.Join(root, name), 0o755)) }
	file := func(name, content string, mode os.FileMode) {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), mode))
	}
	dir("empty")
	dir("a/b/c/d")
	dir("a-b")
	dir("Ünïcode 目录")
	file("a/b/c/d/file", "deep\n", 0o644)
	file("a-b/x", "sorts between a and a/ in a list of paths, not in a nar", 0o644)
	file("program", "#!/bin/sh\n", 0o755)
	file("owner only", "x", 0o700)
	file("group may", "only the owner's bit counts", 0o654)
	file("read only", "r", 0o444)
	file(".hidden", "", 0o644)
	file("...", "three dots are a name", 0o644)
	file("new\nline", "\n", 0o644)
	file("not\xffUTF-8\xfe", "bytes", 0o644)
	file("Ünïcode 目录/fichier ☃", "snow", 0o644)
	file(strings.Repeat("n", MaxName), "longest name", 0o644)
	file("big", string(noise(3*bufferSize+5)), 0o644)
	file("just a buffer", string(noise(bufferSize)), 0o644)
	file("CASE", "upper", 0o644)
	file("case", "lower", 0o644)
	for i := range 17 {
		file(fmt.Sprintf("length %d", i), strings.Repeat("x", i), 0o644)
	}
	for name, target := range map[string]string{
		"dangling": "nowhere", "absolute": "/etc/passwd", "up": "../../..", "link to dir": "a/b", "loop": "loop",
		"long": strings.Repeat("t/", MaxTarget/2) + "t", "bytes": "\xff\x01 ",
	} {
		must(t, os.Symlink(target, filepath.Join(root, name)))
	}
	return root
}

// noise returns n bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(rand.NewChaCha8([32]byte{1}), b)
	return b
}

// dumped returns what Dump makes of path.
func dumped(t testing.TB, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, Dump(t.Context(), &out, path))
	return out.Bytes()
}

// differ tells where two nars differ, without printing them.
func differ(t testing.TB, got, want []byte, who string) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d bytes, want %d; first difference at byte %d: %q, want %q", who, len(got), len(want), i,
		got[i:min(i+40, len(got))], want[i:min(i+40, len(want))])
}

package nar

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"narfold/internal/storepath"
)

// The benchmarks report, beside the usual, MB/cpu-s: millions of bytes of nar for each second of processor time, user and
// system, of this process or of the child. The peer is measured in the same run, and its lines tell how many times its
// MB/cpu-s ours was:
//
//	go test -run '^$' -bench . ./internal/nar
//
// TMPDIR says which file system is measured along.

// benchTrees makes what is measured: ten thousand files with the sizes of a source tree's, and one file of 200 MB.
var benchTrees = sync.OnceValues(func() (dir string, err error) {
	// Not in a test's TempDir, since all benchmarks share it; main_test removes it.
	if dir, err = os.MkdirTemp("", "nar-bench"); err != nil {
		return "", err
	}
	r := rand.New(rand.NewPCG(1, 2))
	text := noise(1 << 20)
	for i := range 10_000 {
		sub := filepath.Join(dir, "small", fmt.Sprintf("dir%03d", i/40), "src")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return dir, err
		}
		size := min(int(r.ExpFloat64()*11_000), len(text))
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d.go", i)), text[:size], 0o644); err != nil {
			return dir, err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "big"), 0o755); err != nil {
		return dir, err
	}
	return dir, os.WriteFile(filepath.Join(dir, "big", "file"), bytes.Repeat(text, 200), 0o644)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if benchMade {
		if dir, err := benchTrees(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

var benchMade bool

// eachTree runs f on both trees and their nars.
func eachTree(b *testing.B, f func(b *testing.B, tree string, nar []byte)) {
	benchMade = true
	dir, err := benchTrees()
	must(b, err)
	for _, name := range []string{"small", "big"} {
		tree := filepath.Join(dir, name)
		nar := dumped(b, tree)
		b.Run(name, func(b *testing.B) { f(b, tree, nar) })
	}
}

// cpu returns the processor time used so far by this process (RUSAGE_SELF) or by children that it waited for.
func cpu(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(who, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCPU runs step until the benchmark has enough, and reports and returns MB/cpu-s. What reset does is not counted.
func perCPU(b *testing.B, who int, size int, step func(), reset func()) float64 {
	b.Helper()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var used time.Duration
	for b.Loop() {
		before := cpu(b, who)
		step()
		used += cpu(b, who) - before
		if reset != nil {
			b.StopTimer()
			reset()
			b.StartTimer()
		}
	}
	rate := float64(size) * float64(b.N) / 1e6 / used.Seconds()
	b.ReportMetric(rate, "MB/cpu-s")
	return rate
}

// null is what subprocesses write to as well: a file, so that neither side copies.
func null(b *testing.B) *os.File {
	b.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	must(b, err)
	b.Cleanup(func() { f.Close() })
	return f
}

func BenchmarkDump(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		var ours float64
		b.Run("narfold", func(b *testing.B) {
			out := null(b)
			ours = perCPU(b, syscall.RUSAGE_SELF, len(nar), func() { must(b, Dump(b.Context(), out, tree)) }, nil)
		})
		b.Run("nix-store", func(b *testing.B) {
			nix, out := nixStore(b), null(b)
			theirs := perCPU(b, syscall.RUSAGE_CHILDREN, len(nar), func() {
				cmd := exec.CommandContext(b.Context(), nix, "--dump", tree)
				cmd.Stdout = out
				must(b, cmd.Run())
			}, nil)
			b.ReportMetric(ours/theirs, "narfold/nix-store")
		})
	})
}

func BenchmarkDumpAndHash(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		out := null(b)
		perCPU(b, syscall.RUSAGE_SELF, len(nar), func() { must(b, Dump(b.Context(), io.MultiWriter(out, NewHasher()), tree)) }, nil)
	})
}

func BenchmarkRestore(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		file := filepath.Join(b.TempDir(), "nar")
		must(b, os.WriteFile(file, nar, 0o644))
		target := filepath.Join(b.TempDir(), "out")
		reset := func() { must(b, os.RemoveAll(target)) }
		open := func(b *testing.B) *os.File {
			f, err := os.Open(file)
			must(b, err)
			return f
		}
		var ours float64
		b.Run("narfold", func(b *testing.B) {
			ours = perCPU(b, syscall.RUSAGE_SELF, len(nar), func() {
				f := open(b)
				defer f.Close()
				must(b, Restore(b.Context(), f, target))
			}, reset)
		})
		b.Run("nix-store", func(b *testing.B) {
			nix := nixStore(b)
			theirs := perCPU(b, syscall.RUSAGE_CHILDREN, len(nar), func() {
				cmd := exec.CommandContext(b.Context(), nix, "--restore", target)
				f := open(b)
				defer f.Close()
				cmd.Stdin = f
				must(b, cmd.Run())
			}, reset)
			b.ReportMetric(ours/theirs, "narfold/nix-store")
		})
	})
}

func BenchmarkReader(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		perCPU(b, syscall.RUSAGE_SELF, len(nar), func() {
			r := NewReader(onlyReader{bytes.NewReader(nar)})
			for {
				if _, err := r.Next(); err == io.EOF {
					return
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}, nil)
	})
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

func BenchmarkVerify(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		perCPU(b, syscall.RUSAGE_SELF, len(nar), func() {
			_, err := Verify(onlyReader{bytes.NewReader(nar)})
			must(b, err)
		}, nil)
	})
}

func BenchmarkHashAlone(b *testing.B) {
	eachTree(b, func(b *testing.B, tree string, nar []byte) {
		perCPU(b, syscall.RUSAGE_SELF, len(nar), func() { _, _ = NewHasher().Write(nar) }, nil)
	})
}

func BenchmarkRefScanner(b *testing.B) {
	p := parts(500)
	for name, text := range map[string][]byte{
		"noise": noise(32 << 20),
		"text":  bytes.Repeat([]byte("The quick brown fox jumps over "+storepath.HashPart(p[7])+" and the lazy dog.\n"), 1<<19),
		"hex":   bytes.Repeat([]byte("0123456789abcdf0"), 1<<21),
	} {
		b.Run(name, func(b *testing.B) {
			perCPU(b, syscall.RUSAGE_SELF, len(text), func() { _, _ = NewRefScanner(p).Write(text) }, nil)
		})
	}
}

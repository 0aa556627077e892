package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nars measures dump, restore and hash of the binary against nix-store, nix-hash and go-nix.
func (b *bench) nars() error {
	b.report.section("Nars: dump, restore, hash", `
Each turn is a process, from its start to its end, on files that are in the page cache. "small" is a tree of 10,000 files in 250
directories, 110 MB; "big" is one file of 200 MB. `+"`nar dump`"+` writes to /dev/null and its peers are `+"`nix-store --dump`"+` and go-nix's
DumpPath; `+"`nar restore`"+` reads a file, and its peers are `+"`nix-store --restore`"+` and a program over go-nix's Reader; `+"`nar hash`"+` checks
that the file is a nar and hashes it, and its peers are `+"`nix-hash --type sha256 --flat`"+`, which only hashes, and go-nix's Reader with
SHA-256. What was restored is deleted at the end, except on tmpfs; there are at most 5 rounds, since it is much.
go-nix's Reader starts goroutines for each entry, and the library's writer is behind a buffer of 256 KiB here, which it does not bring.`)
	b.report.table("where", "nar", "", "MB/s", "MB per CPU second", "Narfold's rate ÷ this", "Narfold's MB per CPU second ÷ this")
	places := []struct{ name, dir string }{{"disk", b.disk}}
	if b.memory != "" {
		places = append([]struct{ name, dir string }{{"tmpfs", b.memory}}, places...)
	}
	for _, place := range places {
		if err := b.narsOn(place.name, filepath.Join(place.dir, "nar")); err != nil {
			return err
		}
	}
	return b.narPackage()
}

func (b *bench) narsOn(place, dir string) error {
	defer os.RemoveAll(dir)
	if err := narTrees(dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, tree := range []string{"small", "big"} {
		path, file := filepath.Join(dir, tree), filepath.Join(dir, tree+".nar")
		if err := narFile(b.narfold, path, file); err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		size := float64(info.Size()) / 1e6
		run := func(in string, name string, args ...string) (sample, error) {
			c := exec.Command(name, args...)
			if in != "" {
				f, err := os.Open(in)
				if err != nil {
					return sample{}, err
				}
				defer f.Close()
				c.Stdin = f
			}
			wall, cpu, err := timed(c)
			return sample{size, wall, cpu}, err
		}
		always := func(name string, args ...string) func(int) (sample, error) {
			return func(int) (sample, error) { return run("", name, args...) }
		}
		// Each restores to a new place: on a disk, deleting between the turns would slow down who comes next.
		restoring := func(who, name string, args ...string) func(int) (sample, error) {
			return func(round int) (sample, error) {
				out := filepath.Join(dir, fmt.Sprintf("%s-%s-%d", tree, who, round))
				s, err := run(file, name, append(args, out)...)
				if err == nil && place == "tmpfs" {
					err = os.RemoveAll(out)
				}
				return s, err
			}
		}
		for _, m := range []struct {
			what  string
			peers []peer
		}{
			{"dump", []peer{
				{"narfold nar dump", always(b.narfold, "nar", "dump", path)},
				{"nix-store --dump", always("nix-store", "--dump", path)},
				{"go-nix DumpPath", always(self, "go-nix", "dump", path)},
			}},
			{"restore", []peer{
				{"narfold nar restore", restoring("narfold", b.narfold, "nar", "restore")},
				{"nix-store --restore", restoring("nix", "nix-store", "--restore")},
				{"go-nix Reader", restoring("go-nix", self, "go-nix", "restore")},
			}},
			{"hash", []peer{
				{"narfold nar hash", always(b.narfold, "nar", "hash", file)},
				{"nix-hash --flat", always("nix-hash", "--type", "sha256", "--flat", file)},
				{"go-nix Reader", always(self, "go-nix", "hash", file)},
			}},
		} {
			samples, err := alternate(min(b.rounds, 5), m.peers)
			if err != nil {
				return fmt.Errorf("%s %s on %s: %w", m.what, tree, place, err)
			}
			b.narRows(place, tree, m.peers, samples)
		}
	}
	return nil
}

func (b *bench) narRows(place, tree string, peers []peer, samples map[string][]sample) {
	ours := samples[peers[0].name]
	perCPU := func(s sample) float64 { return 1 / s.cost() }
	for i, p := range peers {
		s := samples[p.name]
		rate, cpu := "", ""
		if i > 0 {
			rate, cpu = against(ours, s, sample.rate).bold(), against(ours, s, perCPU).bold()
		}
		b.report.row(place, tree, p.name, rates(s).String(), spreadOf(len(s), func(i int) float64 { return perCPU(s[i]) }).String(), rate, cpu)
	}
}

// narTrees makes what is archived: files with the sizes of a source tree's, and a big one.
func narTrees(dir string) error {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for i := range 10_000 {
		sub := filepath.Join(dir, "small", fmt.Sprintf("dir%03d", i/40), "src")
		if i%40 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		size := min(int(r.ExpFloat64()*11_000), len(noise))
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d.go", i)), noise[:size], 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "big"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "big", "file"), bytes.Repeat(noise, 191), 0o644)
}

func narFile(narfold, path, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	c := exec.Command(narfold, "nar", "dump", path)
	c.Stdout = out
	_, _, err = timed(c)
	return err
}

// narPackage shows what the binary's figures are without the start of a process and its pipes.
func (b *bench) narPackage() error {
	var results []goResult
	for _, pattern := range []string{"^Benchmark(Dump|Restore)$/./^narfold$", "^Benchmark(DumpAndHash|Reader|Verify)$"} {
		more, err := b.goBench("internal/nar", pattern, "5x")
		if err != nil {
			return err
		}
		results = append(results, more...)
	}
	b.report.print("\nThe package in its own benchmarks, without processes (`go test -bench . ./internal/nar`, on tmpfs, 5 times each):\n\n")
	b.report.table("", "MB/s", "MB per CPU second", "allocations")
	for _, r := range results {
		b.report.row(strings.TrimSuffix(r.name, "/narfold"), figure(r.values["MB/s"]), figure(r.values["MB/cpu-s"]), figure(r.values["allocs/op"]))
	}
	return nil
}

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// importItems is how many small items are imported.
const importItems = 2000

// importing measures narfold import against nix copy to a directory.
func (b *bench) importing() error {
	b.report.section("Import of small items", fmt.Sprintf(`
A store of real Nix with %d small items of some 3 KB, each a directory of three files that references up to two others, and one item
that references them all; brought there by `+"`nix-store --import`"+`, which leaves the same rows and files as building them. Each turn takes the
closure of the last into a new, empty destination on the disk: `+"`narfold import --closure`"+`, which reads and hashes every nar,
compresses it with zstd, signs its narinfo, catalogues it, and ends when all would survive a power cut; and
`+"`nix copy --quiet --to file://...?compression=zstd`"+`, which flushes nothing, and signs nothing without a key. So nix copy is shown alone, and with
what brings it to the same result: a secret key, and `+"`sync -f`"+` of the file system after it. The more others use the machine's disk, the
more it counts that nix copy creates two files for each item and Narfold one. No destination is deleted before the last turn, because
creating files where many were just deleted is slow on ext4.`, importItems))
	nix, err := newNixStore(filepath.Join(b.disk, "import-nix"))
	if err != nil {
		return err
	}
	nix.fill(importItems)
	if err := nix.load(); err != nil {
		return err
	}
	items := float64(len(nix.items))
	key := filepath.Join(b.disk, "import.key")
	if _, _, err := timed(nix.command("nix-store", "--generate-binary-cache-key", "bench-1", key, key+".pub")); err != nil {
		return err
	}
	// copying has a turn of nix copy; flushed gets what it took with the flush after it.
	copying := func(name, parameters string, flushed *[]sample) func(int) (sample, error) {
		return func(round int) (sample, error) {
			to := filepath.Join(b.disk, fmt.Sprintf("import-%s-%d", name, round))
			wall, cpu, err := timed(nix.command("nix", "copy", "--quiet", "--to", "file://"+to+"?compression=zstd"+parameters, nix.top()))
			if err != nil {
				return sample{}, err
			}
			begun := time.Now()
			_, more, err := timed(exec.Command("sync", "-f", to))
			*flushed = append(*flushed, sample{items, wall + time.Since(begun), cpu + more})
			return sample{items, wall, cpu}, err
		}
	}
	var plainFlushed, signedFlushed []sample
	peers := []peer{
		{"narfold import --closure", func(round int) (sample, error) {
			state := filepath.Join(b.disk, fmt.Sprintf("import-narfold-%d", round))
			wall, cpu, err := timed(exec.Command(b.narfold, "import", "--closure", "--state", state, nix.top()))
			return sample{items, wall, cpu}, err
		}},
		{"nix copy", copying("nix", "", &plainFlushed)},
		{"nix copy, signing", copying("nix-signed", "&secret-key="+key, &signedFlushed)},
	}
	// What filled the store is still to be written to the disk.
	if _, _, err := timed(exec.Command("sync", "-f", b.disk)); err != nil {
		return err
	}
	samples, err := alternate(b.rounds, peers)
	if err != nil {
		return err
	}
	ours := samples[peers[0].name]
	b.report.table("", "items/s", "CPU ms per item", "Narfold's rate ÷ this", "Narfold's CPU ÷ this")
	row := func(name string, s []sample, first bool) {
		rate, cpu := against(ours, s, sample.rate).bold(), against(ours, s, sample.cost).bold()
		if first {
			rate, cpu = "", ""
		}
		b.report.row(name, rates(s).String(), spreadOf(len(s), func(i int) float64 { return s[i].cost() * 1e3 }).String(), rate, cpu)
	}
	row(peers[0].name+" (signed, durable)", ours, true)
	row("nix copy", samples["nix copy"], false)
	row("nix copy && sync -f", plainFlushed, false)
	row("nix copy, signing, && sync -f", signedFlushed, false)
	return nil
}

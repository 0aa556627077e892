// Command bench measures Narfold against its peers, in the same run, alternately, and writes a page of ratios.
//
// It is a program of its own module, and not tests, because it drives the real binaries as an operator would, because it needs a
// library that the product does not (go-nix), and because nothing in it may fail for being slow. It is called by scripts/bench.sh.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	narfold string // the binary
	gateway string // versitygw
	source  string // the root of the product's module
	disk    string // a folder of this run, on a disk
	memory  string // a folder of this run, on tmpfs; empty if there is none
	rounds  int
	seconds time.Duration // of one load on a server
	report  *report

	items     []int // of the catalogues, in turn
	peerItems int   // the most with which the catalogue's peer is measured
}

type part struct {
	name string
	run  func(*bench) error
	page int // on which it is reported
}

// parts are what can be asked for, in the order of the pages. What deletes many files comes last: for some minutes after that, ext4
// creates files slowly. Unless parts are named, those of page 1 are meant.
var parts = []part{
	{"import", (*bench).importing, 1},
	{"serving", (*bench).serving, 1},
	{"signatures", (*bench).signatures, 1},
	{"objects", (*bench).objects, 1},
	{"nar", (*bench).nars, 1},
	{"catalogue", (*bench).catalogue, 2},
}

// partNames lists what can be asked for.
func partNames(separator string) string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, separator)
}

func main() {
	// The peer that is a library is run as a process, like the others.
	if len(os.Args) > 1 && os.Args[1] == "go-nix" {
		if err := goNix(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "go-nix:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{report: &report{out: os.Stdout}}
	flag.StringVar(&b.narfold, "narfold", "./narfold", "the binary that is measured")
	flag.StringVar(&b.gateway, "versitygw", ".cache/bin/versitygw", "the S3 server")
	flag.StringVar(&b.source, "source", ".", "the root of the module, for the measurements of packages")
	flag.IntVar(&b.rounds, "rounds", 7, "how often each peer has its turn")
	seconds := flag.Int("seconds", 2, "how long a server is loaded in each round")
	disk := flag.String("disk", os.TempDir(), "a folder on a disk")
	memory := flag.String("memory", "/dev/shm", "a folder on tmpfs, or nothing")
	out := flag.String("out", "", "the page that a run of all parts of page 1 writes")
	second := flag.String("out2", "", "the page that a run of all parts of page 2, by their names, writes")
	items := flag.String("items", "1000000", "how many items the catalogues have; several numbers with commas between them are done in turn")
	flag.IntVar(&b.peerItems, "peer-items", 1_000_000, "the most items with which the catalogue's peer is measured, which takes long to fill")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "bench [flags] ["+partNames("|")+"]...")
		flag.PrintDefaults()
	}
	flag.Parse()
	b.seconds = time.Duration(*seconds) * time.Second
	var err error
	if b.items, err = parseItems(*items); err == nil {
		err = b.run(*disk, *memory, []string{*out, *second}, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the wanted parts. pages are the files of page 1 and on; one is written when the parts are all those of a page.
func (b *bench) run(disk, memory string, pages, wanted []string) (err error) {
	for _, w := range wanted {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == w }) {
			return fmt.Errorf("%q is no part of it: want some of %s", w, partNames(", "))
		}
	}
	for _, p := range []*string{&b.narfold, &b.gateway, &b.source} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if b.rounds < 1 || b.seconds <= 0 {
		return errors.New("rounds and seconds: want at least 1")
	}
	if b.disk, err = os.MkdirTemp(disk, "narfold-bench-"); err != nil {
		return err
	}
	// nginx's workers have another user where it is not told otherwise.
	if err := os.Chmod(b.disk, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(b.disk)
	if memory != "" {
		if b.memory, err = os.MkdirTemp(memory, "narfold-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.memory)
	}
	before, begun := load(), time.Now()
	if len(wanted) == 0 {
		wanted = namesOf(1)
	}
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s (load %s)\n", p.name, load())
		if err := p.run(b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	whole := 0 // the page that was measured whole
	for page := 1; page <= len(pages); page++ {
		if slices.Equal(slices.Compact(slices.Sorted(slices.Values(wanted))), slices.Sorted(slices.Values(namesOf(page)))) {
			whole = page
		}
	}
	head := b.machine(max(1, whole), before, begun)
	fmt.Println(head)
	if whole == 0 || pages[whole-1] == "" {
		return nil
	}
	fmt.Fprintf(os.Stderr, "bench: writing %s\n", pages[whole-1])
	return os.WriteFile(pages[whole-1], []byte(head+strings.TrimRight(b.report.text.String(), "\n")+"\n"), 0o644)
}

// namesOf lists the parts of a page.
func namesOf(page int) (names []string) {
	for _, p := range parts {
		if p.page == page {
			names = append(names, p.name)
		}
	}
	return names
}

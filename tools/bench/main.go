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
}

type part struct {
	name string
	run  func(*bench) error
}

// parts are what can be asked for, in the order of the page. What deletes many files comes last: for some minutes after that, ext4
// creates files slowly.
var parts = []part{
	{"import", (*bench).importing},
	{"serving", (*bench).serving},
	{"signatures", (*bench).signatures},
	{"objects", (*bench).objects},
	{"nar", (*bench).nars},
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
	out := flag.String("out", "", "the page that a run of all parts writes")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "bench [flags] [import|serving|signatures|objects|nar]...")
		flag.PrintDefaults()
	}
	flag.Parse()
	b.seconds = time.Duration(*seconds) * time.Second
	if err := b.run(*disk, *memory, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(disk, memory, out string, wanted []string) (err error) {
	for _, w := range wanted {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == w }) {
			return fmt.Errorf("%q is no part of it: want import, serving, signatures, objects or nar", w)
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
	for _, p := range parts {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s (load %s)\n", p.name, load())
		if err := p.run(b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	head := b.machine(before, begun)
	fmt.Println(head)
	if out == "" || len(wanted) > 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "bench: writing %s\n", out)
	return os.WriteFile(out, []byte(head+strings.TrimRight(b.report.text.String(), "\n")+"\n"), 0o644)
}

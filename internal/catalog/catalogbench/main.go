// Command catalogbench fills a catalogue with synthetic items and measures what it then costs to open, ask and walk it, one step in
// each process, so that what one step leaves in memory is not counted for the next.
//
// It is run by the benchmark of part 2, for the catalogues of Narfold and for a database of the plain kind that they are compared
// with. Results are one line of JSON on standard output; units are in the names of the fields.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

const usage = `catalogbench import|use|generate|names [flags]

import    fill a new database with items 0 to N-1, close it, and tell how long it took and how large it is
use       open a database that import has filled, cold, and measure look-ups and walks
generate  only make the items, to tell what of an import is that
names     tell 10,000 hash parts of items, and as many that no item has

flags:
`

// settings are what is measured.
type settings struct {
	kind    string
	where   string // a folder, or what else the kind takes
	items   int
	batch   int  // publications in one transaction
	publish bool // in transactions also what can be built at once
	rate    int  // look-ups per second of the load with a schedule
	seconds time.Duration
	seed    uint64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "catalogbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("catalogbench", flag.ContinueOnError)
	flags.StringVar(&s.kind, "kind", "sqlite", "what is measured: "+kindNames())
	flags.StringVar(&s.where, "at", "", "the folder of the database, or its URL")
	flags.IntVar(&s.items, "items", 1_000_000, "how many items there are")
	flags.IntVar(&s.batch, "batch", 2000, "how many are published in one transaction")
	flags.BoolVar(&s.publish, "publish", false, "publish in transactions also where a catalogue can be built at once")
	flags.IntVar(&s.rate, "rate", 20_000, "look-ups per second when latency is measured")
	flags.DurationVar(&s.seconds, "for", 5*time.Second, "how long each kind of look-up is measured")
	flags.Uint64Var(&s.seed, "seed", 1, "of the items")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if len(args) == 0 {
		flags.Usage()
		return errors.New("want import, use, generate or names")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if s.items < 1 || s.batch < 1 || s.rate < 1 || s.seconds <= 0 || flags.NArg() > 0 {
		return errors.New("items, batch, rate and for: want at least 1, and nothing after the flags")
	}
	var result any
	var err error
	switch args[0] {
	case "import":
		result, err = importing(ctx, s)
	case "use":
		result, err = using(ctx, s)
	case "generate":
		result, err = generating(ctx, s)
	case "names":
		result, err = naming(s)
	default:
		err = fmt.Errorf("%q is none of import, use, generate and names", args[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return json.NewEncoder(out).Encode(result)
}

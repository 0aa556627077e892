// Package source lists the store items that somebody wants to publish, references first, from wherever they are: a binary cache in a
// directory, behind HTTP or in a bucket, the cache of guix publish, the database of a nar-herder with its nars, a store with or
// without its database, or a narinfo with its nar.
//
// What it lists are publish.Jobs; reading nars, checking hashes and signatures, and publishing is the publisher's work. What a
// source says is foreign: names and sizes are bounded, nothing outside the source's own root is opened, and an item that cannot be
// used is left out with a reason instead of ending the list.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"runtime"

	"narfold/herder/publish"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// Errors on which callers decide.
var (
	// ErrUnknown says that a SOURCE is nothing that this package knows.
	ErrUnknown = errors.New("not a source of store items")
	// ErrNoNars says that a database of narinfos was named, and not where its nars are. It is ErrUnknown too.
	ErrNoNars = fmt.Errorf("%w: a database of narinfos has no nars in it: want the place where they are too", ErrUnknown)
	// ErrNotFound says that an item is certainly not in the source. It is fs.ErrNotExist too.
	ErrNotFound = fmt.Errorf("not in the source: %w", fs.ErrNotExist)
	// ErrUnlistable says that a source cannot tell what it has: name the items.
	ErrUnlistable = errors.New("source cannot be listed; name the items")
	// ErrNoMetadata says that a store has no database and that reading references out of the files was not asked for.
	ErrNoMetadata = errors.New("store has no database")
	// ErrUnavailable says that the source could not be asked, or could not answer now; trying again may help.
	ErrUnavailable = errors.New("source unavailable")
	// ErrDamaged says that the source's own data cannot be used.
	ErrDamaged = errors.New("source is damaged")
)

// Source is a list of store items.
type Source interface {
	// Jobs lists the items, each after what it references as far as the source has it; items that reference each other in a
	// circle are listed in some order. It yields at most one error, last. What a job opens may be opened until Close, also
	// after the list has ended. Jobs is called from one goroutine at a time, and may be called again.
	Jobs(ctx context.Context) iter.Seq2[publish.Job, error]
	// Len returns how many items Jobs yields at most, and whether that is known: at the latest with the first item.
	Len() (items int64, known bool)
	// NarBytes returns the sum of the NarSizes of what Len counts, and whether that is known: never before Len.
	NarBytes() (bytes int64, known bool)
	// Dir returns the store directory of the items, or "" while it is not known.
	Dir() storepath.Dir
	// String names the source as an operator would, without passwords.
	String() string
	Close() error
}

// Options say what to list. The zero value lists all of a source that can be listed.
type Options struct {
	// Items name what to list instead of everything: hash parts, base names or store paths.
	Items []string
	// Closure lists also what the named items reference, and so on.
	Closure bool
	// Derivations lists build recipes (.drv) of a store too. Caches rarely have any, and list them always.
	Derivations bool
	// Parallel is how many narinfos are requested at once over a network. Default 16.
	Parallel int
	// StorePaths names a list of store paths, one a line, or the manifest of a Guix profile, as a file or an http(s) URL,
	// compressed if it ends in .xz, .zst, .gz, .br, .bz2, .lz or .lz4. They are added to Items. An HTTP cache without Items is
	// asked for its own: store-paths.xz, then store-paths.
	StorePaths string
	// Missing returns those of hs that are wanted, in the order given. The others, and what only they reference, are passed over
	// without a word, and none of their narinfos is asked for. It is used where items are named. Default: all are wanted.
	Missing func(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	// Accept is shown each narinfo of a cache before what it references is looked for; one for which it returns an error is left
	// out. It is called by several at once. Default: all are accepted.
	Accept func(n *narinfo.Narinfo) error

	// Nars is where the nars of a database of narinfos are, by the URLs in the narinfos: a directory, or a URL of a server or bucket.
	Nars string

	// Real is the directory in which the items of a store directory really are, if not there.
	Real string
	// State is the store's state directory, the value of NIX_STATE_DIR. Default: by nixdb.PathOf.
	State string
	// Database is the file of the store's database. Default: by nixdb.PathOf.
	Database string
	// ScanReferences reads the references out of the files of a store without a database, as the daemons do after a build. There
	// is then nothing to tell a whole item from one that is still being built or copied: no daemon may be at work.
	ScanReferences bool

	// HTTP makes requests. Default: a client of this package's own, with timeouts and for few hosts. The narinfos and redirections
	// of an HTTP cache may send it to any http(s) URL on any host, as they may send Guix and Nix; a client that is given here
	// may refuse to go there. Caches in directories and buckets cannot.
	HTTP *http.Client
	// Bucket opens an s3:// source. The keys are below the location's prefix. Without it such a source is ErrUnknown.
	Bucket func(ctx context.Context, at S3Location) (Bucket, error)
	// Spool is a directory for a temporary file with the narinfos of a network source. Default: os.TempDir.
	Spool string

	// Sign and By go into the jobs of caches as they are. Items of a store always have Sign, since they are dumped here.
	// Default for By: "import".
	Sign bool
	By   string
	// Refused is told of each item that is left out, and why, by one goroutine at a time, while Jobs is read. Without it the
	// first such item ends the list with its error.
	Refused func(item string, err error)
	// Unavailable is told, as Refused is, of an item for which the source had no answer; if it returns nil the item is left out,
	// and else its error ends the list. Default: the first such item ends the list.
	Unavailable func(item string, err error) error
	Log         *slog.Logger
}

func (o *Options) withDefaults() Options {
	d := *o
	if d.Parallel <= 0 {
		d.Parallel = 16
	}
	if d.By == "" {
		d.By = "import"
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d
}

// refuse leaves an item out, or returns the error that ends the list.
func (o *Options) refuse(item string, err error) error {
	if o.Refused == nil {
		return fmt.Errorf("list %s: %w", item, err)
	}
	o.Refused(item, err)
	return nil
}

// localWorkers is how many local files are read at once.
func localWorkers() int { return runtime.GOMAXPROCS(0) }

// jobs is what a list is yielded to. It returns false if no more is wanted.
type jobs = func(publish.Job, error) bool

// finish yields err as the last of a list, unless the reader has gone.
func finish(yield jobs, err error) {
	if err != nil && !errors.Is(err, errStopped) {
		yield(publish.Job{}, err)
	}
}

// errStopped says that the reader of a list wants no more.
var errStopped = errors.New("list not wanted any more")

// opener gives the compressed bytes of a nar.
type opener = func(ctx context.Context) (io.ReadCloser, error)

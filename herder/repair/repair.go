// Package repair brings back the objects of published nars that are damaged or gone, from sources that still have the nars.
//
// A nar from a source is expanded and hashed before anything is written, and must be the one that was published. Where its compressed
// bytes are those that were published, as they came or as they are made again here, they are put back under the same key: clients
// get what they were promised. Where they are not, the nar gets a new object under a key of the next generation, and the catalogue
// names that instead, in one transaction; a key never changes its bytes. An object is read again before anything takes its place, so
// that a sound one is never touched. It works beside a running herder, imports, checks and other repairs.
package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"narfold/herder/check"
	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Config says what is repaired.
type Config struct {
	Catalogue Catalogue
	Objects   Objects
	// Spool is a folder for nars on their way.
	Spool string
	// Options are those of the publisher: the nearer they are to those with which the damaged file was made, the likelier its very
	// bytes are made again.
	Options compress.Options
	// Workers is how many nars are fetched at once. Default: GOMAXPROCS.
	Workers int
	// DryRun only tells what the sources could mend, and reads no nar.
	DryRun bool
	Log    *slog.Logger
}

// Catalogue is what repairing asks of a catalogue.
type Catalogue interface {
	catalog.Publisher
	Item(ctx context.Context, h storepath.HashPart) (catalog.Item, error)
}

// Objects is what repairing asks of an object store: it never deletes.
type Objects interface {
	check.Objects
	objstore.Writer
}

// Result is what became of a damaged file.
type Result string

// The results.
const (
	Damaged  Result = "damaged"  // it is as it was found
	Mendable Result = "mendable" // it is as it was found, and a source says that it has the nar
	Restored Result = "restored" // its object has the published bytes again
	Replaced Result = "replaced" // the nar has another object, under NewKey
	Whole    Result = "whole"    // it was found whole when it was looked at again
)

// Mending is what became of one damaged file.
type Mending struct {
	Key    objstore.Key `json:"key"`
	Kind   check.Kind   `json:"kind"`
	Detail string       `json:"detail"`
	Items  []string     `json:"items"` // published items with this file; the first ten
	Result Result       `json:"result"`
	// NewKey is the key of what Replaced the file.
	NewKey objstore.Key `json:"new_key,omitempty"`
	// Source is where the nar came from.
	Source string `json:"source,omitempty"`
	// Why says for a file that is not mended what each source lacked.
	Why []string `json:"why,omitempty"`

	file catalog.File
}

func (m *Mending) open() bool { return m.Result == Damaged }

// Repairer collects what is damaged, and then mends it. Its methods are called one after the other.
type Repairer struct {
	Config
	nars  map[digest.SHA256]*lost
	items map[storepath.HashPart]*lost
	all   []*Mending
}

// lost is a nar with damaged files.
type lost struct {
	hash  digest.SHA256
	size  int64
	items []catalog.Item

	mu    sync.Mutex // guards what follows while sources are read
	files []*Mending
}

// New returns a Repairer that knows of no damage yet.
func New(cfg Config) *Repairer {
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Repairer{Config: cfg, nars: make(map[digest.SHA256]*lost), items: make(map[storepath.HashPart]*lost)}
}

// Found takes over what a check has found about an object of published items, and reports whether it can be mended by fetching a nar.
// Items that were withdrawn since, and files that were replaced, are nobody's damage any more.
func (r *Repairer) Found(ctx context.Context, f *check.Finding) (bool, error) {
	if f.Kind != check.Missing && f.Kind != check.Size && f.Kind != check.Corrupt || len(f.Items) == 0 {
		return false, nil
	}
	for _, name := range f.Items {
		p, err := storepath.Parse(name)
		if err != nil {
			return false, err
		}
		it, err := r.Catalogue.Item(ctx, p.HashPart())
		if errors.Is(err, catalog.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if i := slices.IndexFunc(it.Files, func(g catalog.File) bool { return g.Key == f.Key }); i >= 0 {
			r.add(it, Mending{Key: f.Key, Kind: f.Kind, Detail: f.Detail, file: it.Files[i]})
		}
	}
	return true, nil
}

// Examine reads all files of a published item, and takes over what is damaged.
func (r *Repairer) Examine(ctx context.Context, h storepath.HashPart) error {
	it, err := r.Catalogue.Item(ctx, h)
	if err != nil {
		return err
	}
	for _, f := range it.Files {
		kind, detail, err := check.Examine(ctx, r.Objects, it, f)
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Key, err)
		}
		if kind != "" {
			r.add(it, Mending{Key: f.Key, Kind: kind, Detail: detail, file: f})
		}
	}
	return nil
}

// add notes that a file of it is damaged.
func (r *Repairer) add(it catalog.Item, m Mending) {
	l := r.nars[it.NarHash]
	if l == nil {
		l = &lost{hash: it.NarHash, size: it.NarSize}
		r.nars[it.NarHash] = l
	}
	if h := it.Path.HashPart(); r.items[h] == nil {
		r.items[h] = l
		l.items = append(l.items, it)
	}
	i := slices.IndexFunc(l.files, func(have *Mending) bool { return have.Key == m.Key })
	if i < 0 {
		m.Result = Damaged
		l.files = append(l.files, &m)
		r.all = append(r.all, &m)
		i = len(l.files) - 1
	}
	if name := it.Path.String(); !slices.Contains(l.files[i].Items, name) {
		l.files[i].Items = append(l.files[i].Items, name)
	}
}

// Wanted returns the store paths of the items that have a damaged file, for sources that list what is named.
func (r *Repairer) Wanted() []string {
	var names []string
	for _, l := range r.nars {
		for _, it := range l.items {
			names = append(names, it.Path.String())
		}
	}
	slices.Sort(names)
	return names
}

// Mendings returns what became of every damaged file, by key. It is called when no From runs.
func (r *Repairer) Mendings() []*Mending {
	slices.SortFunc(r.all, func(a, b *Mending) int { return cmp.Compare(a.Key, b.Key) })
	return r.all
}

// Left is how many files are damaged still.
func (r *Repairer) Left() (n int) {
	for _, m := range r.all {
		if m.Result == Damaged || m.Result == Mendable {
			n++
		}
	}
	return n
}

// SourceError is an error of a list of jobs: other sources may still do.
type SourceError struct {
	Source string
	Err    error
}

// Error implements error.
func (e *SourceError) Error() string { return fmt.Sprintf("read %s: %v", e.Source, e.Err) }

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// From mends what the jobs of a source have nars for; others are passed over. That a source cannot give one nar is told in the
// Mending. It fails with a SourceError if the source could not go on, and with another error if the catalogue, the object store or
// the spool could not; what was mended until then is.
func (r *Repairer) From(ctx context.Context, source string, jobs iter.Seq2[publish.Job, error]) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Workers)
	var listing error
	for job, err := range jobs {
		if err != nil {
			listing = &SourceError{source, err}
			break
		}
		if gctx.Err() != nil {
			break
		}
		l := r.items[job.Narinfo.StorePath.HashPart()]
		if l == nil {
			continue
		}
		g.Go(func() error {
			l.mu.Lock()
			defer l.mu.Unlock()
			return r.mend(gctx, source, l, job)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if listing == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return listing
}

// Package publish turns nars into published store items.
//
// Whatever the source, the way is one: the nar is expanded and hashed while it is read; its compressed forms are spooled; keys are
// reserved in the catalogue; the objects are put under them, and made durable for a whole batch at once; the narinfo is signed; and one
// transaction of the catalogue makes the batch visible, references first. What is already there is not read again. A crash at any
// moment leaves keys that are reserved and nothing that is served, and running again completes.
package publish

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"slices"

	"narfold/herder/keyring"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Errors that concern one item; others go on. Each Result wraps them with the item.
var (
	// ErrNarHash says that a nar is not the one that its narinfo names.
	ErrNarHash = errors.New("nar differs from its narinfo")
	// ErrSignature says that a signature does not verify, or that none is by a trusted key.
	ErrSignature = keyring.ErrSignature
	// ErrReferences says that references are not published.
	ErrReferences = errors.New("references are not published")
	// ErrDiffers says that the item is published with another nar: it does not build reproducibly.
	ErrDiffers = errors.New("item is published with another content")
	// ErrNoSource says that a job brings no nar, and that no published item has it.
	ErrNoSource = errors.New("no nar was given, and none is published that the narinfo could mean")
	// ErrSource says that the bytes could not be had: the source is damaged or cannot be reached.
	ErrSource = errors.New("nar cannot be read from its source")
)

// Source is one form in which a nar can be had.
type Source struct {
	Compression compress.Method
	// Open gives the compressed bytes. Their end is the end of the nar.
	Open func(ctx context.Context) (io.ReadCloser, error)
	// Keep serves these bytes as they are, if they suit every client; otherwise they are compressed again.
	Keep bool
	// Placed, if not "", is where these bytes lie in the object store already: under the key that is reserved for them. They are read
	// from there and verified like all others, but neither spooled nor stored.
	Placed objstore.Key
}

// Job asks for one store item to be published.
type Job struct {
	// Narinfo tells what is known of the item. A job with a Dump needs only StorePath, References and Deriver; one with
	// Sources has a parsed narinfo, whose NarHash and NarSize the nar must have.
	Narinfo *narinfo.Narinfo
	// Sources are the forms in which the nar can be had. All are read, and those with Keep are served.
	Sources []Source
	// Dump writes the uncompressed nar, instead of Sources.
	Dump func(ctx context.Context, w io.Writer) error
	// Sign adds the signatures of the keyring: for what was dumped here, or comes from somebody who may publish.
	Sign bool
	// Wait keeps the item until its references are published, instead of refusing it.
	Wait bool
	// By says who asks, for the record.
	By string

	settled func(Result, error) // set by Queue
}

// Result is what became of a Job.
type Result struct {
	Path     storepath.Path
	Verdict  catalog.Verdict
	Missing  []storepath.Base // for Waiting and Refused
	Released []storepath.Path // what had waited for it
	NarSize  int64            // bytes of the nar
	Stored   int64            // bytes put into the object store
	Err      error            // why nothing became of it; nil for Published, Present and Waiting
}

// Publisher publishes. Its fields are set before the first call and not changed afterwards.
type Publisher struct {
	Catalogue catalogue
	Objects   objects
	Keys      *keyring.Ring
	// Spool is a folder for compressed nars on their way, best on the file system of a directory store.
	Spool string
	// Compressions are made of every nar that has none of them yet. Default: zstd alone.
	Compressions []compress.Method
	Options      compress.Options
	// Workers is how many nars are read and compressed at once. Default: GOMAXPROCS.
	Workers int
	Log     *slog.Logger
}

// catalogue is what publishing needs of a catalogue.
type catalogue interface {
	catalog.Publisher
	Item(ctx context.Context, h storepath.HashPart) (catalog.Item, error)
	Files(ctx context.Context, narHashes []digest.SHA256) ([][]catalog.File, error)
}

// objects is what publishing needs of an object store: it never deletes.
type objects interface {
	objstore.Reader
	objstore.Writer
}

func (p *Publisher) spooler() *Spooler {
	return &Spooler{Dir: p.Spool, Compressions: p.Compressions, Options: p.Options, Workers: p.Workers}
}

// Run publishes what jobs yields, which must be references first, and reports each result, from one goroutine, in no particular
// order. An error of one item is in its Result; Run fails only if it cannot go on: the context, the catalogue, the object store or
// the spool. After such an error, run again: what was reported as published is, and the rest is taken up where it was left.
func (p *Publisher) Run(ctx context.Context, jobs iter.Seq2[Job, error], report func(Result)) error {
	return p.run(ctx, listed(jobs), report)
}

func (p *Publisher) run(ctx context.Context, list func(context.Context) iter.Seq2[Job, error], report func(Result)) error {
	st := p.newStoring()
	return p.spooler().run(ctx, list, stages{admit: st.admit, item: p.prepareItem, store: st.run, spooled: st.spooled,
		finish: func(ctx context.Context, order <-chan *task, b *budget) (*task, error) {
			return p.commitAll(ctx, order, b, st, report)
		}})
}

// One publishes a single item: what an HTTP upload needs.
func (p *Publisher) One(ctx context.Context, job Job) (Result, error) {
	var result Result
	err := p.Run(ctx, func(yield func(Job, error) bool) { yield(job, nil) }, func(r Result) { result = r })
	return result, err
}

// References orders jobs so that each comes after those that it references; jobs that reference each other keep their order, to be
// refused. It is for sources that are listed in another order.
func References(items []*narinfo.Narinfo) []*narinfo.Narinfo {
	at := make(map[storepath.Base]int, len(items))
	for i, n := range items {
		at[n.StorePath.Base] = i
	}
	const (
		unseen = iota
		open
		done
	)
	state := make([]byte, len(items))
	ordered := make([]*narinfo.Narinfo, 0, len(items))
	type frame struct{ item, next int }
	for start := range items {
		if state[start] != unseen {
			continue
		}
		state[start] = open
		stack := []frame{{item: start}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := items[top.item].References
			if top.next == len(refs) {
				state[top.item] = done
				ordered = append(ordered, items[top.item])
				stack = stack[:len(stack)-1]
				continue
			}
			r, ok := at[refs[top.next]]
			top.next++
			if ok && state[r] == unseen {
				state[r] = open
				stack = append(stack, frame{item: r})
			}
		}
	}
	return slices.Clip(ordered)
}

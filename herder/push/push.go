// Package push sends store items to a herder elsewhere: what it lacks, references first, with every nar read and verified here before
// it is sent. What is published there or was sent before is not sent again, so that a push which was interrupted is simply run again.
package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// Pusher pushes. Its fields are set before the first call and not changed afterwards.
type Pusher struct {
	To      Herder
	Spooler publish.Spooler
	// Wait has the herder keep items whose references are missing until these come, instead of refusing them.
	Wait bool
	// Parallel is how many items are sent at once. Default: 8.
	Parallel int
}

// Herder is where items go; publishapi.Client is one.
type Herder interface {
	// Promise returns those of hs that the herder lacks; the others stay there until ReleaseLease, as long as RenewLease is called now and then.
	Promise(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	RenewLease(ctx context.Context) error
	ReleaseLease(ctx context.Context) error
	StageNar(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) (sent bool, err error)
	PutNar(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) error
	// PlaceNar puts a nar past the herder, if that is what it wants.
	PlaceNar(ctx context.Context, item storepath.Base, m compress.Method, size int64, open func() (io.ReadCloser, error)) (placed, sent bool, err error)
	PutNarinfo(ctx context.Context, raw []byte, wait bool, placed ...compress.Method) (publishapi.Published, error)
}

var _ Herder = (*publishapi.Client)(nil)

// ErrFilesAreSigned says that a narinfo's signature covers the URLs of its nar, which do not name what is uploaded.
var ErrFilesAreSigned = errors.New("its signature covers where its nar is, as guix publish wrote it until 2022: import it where the herder runs")

// Run pushes what jobs yields, which must be references first, and reports each result, by one goroutine at a time, in no particular
// order; Stored is what was sent. An error of one item is in its Result. Run fails only if it cannot go on: the source, the spool, or
// the herder, when that has been unavailable for too long or denies everything.
func (p *Pusher) Run(ctx context.Context, jobs iter.Seq2[publish.Job, error], report func(publish.Result)) error {
	r := &run{Pusher: p, known: make(map[storepath.HashPart]standing)}
	r.report = func(res publish.Result) {
		r.telling.Lock()
		defer r.telling.Unlock()
		report(res)
	}
	// What sends may fail while the lister waits for an answer that would take long: it is told.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer p.holdOn(ctx)()
	err := p.Spooler.Run(ctx, r.lacking(ctx, jobs), cmp.Or(p.Parallel, defaultParallel), func(ctx context.Context, s *publish.Spooled) error {
		err := r.send(ctx, s)
		if err != nil {
			cancel(err)
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

const (
	// renewEvery is how often what was promised is renewed; it is promised for an hour.
	renewEvery = 10 * time.Minute
	// releaseTime bounds how long releasing takes: what is not released expires.
	releaseTime = 10 * time.Second
)

// holdOn keeps what the herder promises from expiring, until the function that it returns is called, which releases it.
func (p *Pusher) holdOn(ctx context.Context) (release func()) {
	renewing, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				// If it fails, what is published shows it: the herder compares again.
				_ = p.To.RenewLease(renewing)
			case <-renewing.Done():
				return
			}
		}
	})
	return func() {
		stop()
		done.Wait()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		_ = p.To.ReleaseLease(ctx)
	}
}

const defaultParallel = 8

// standing is what is known of an item at the herder.
type standing byte

const (
	unknown standing = iota
	absent
	there // published, or on its way
)

// run is one Run.
type run struct {
	*Pusher
	report  func(publish.Result)
	telling sync.Mutex

	mu    sync.Mutex
	known map[storepath.HashPart]standing
}

// asked is how many items are asked for at once, and so held in memory before the first of them is read.
const asked = 1000

// lacking yields those of jobs that the herder lacks and would take, and reports on the others.
func (r *run) lacking(ctx context.Context, jobs iter.Seq2[publish.Job, error]) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		chunk := make([]publish.Job, 0, asked)
		flush := func() bool {
			if err := r.ask(ctx, chunk); err != nil {
				yield(publish.Job{}, err)
				return false
			}
			for _, job := range chunk {
				if r.admit(job) && !yield(job, nil) {
					return false
				}
			}
			chunk = chunk[:0]
			return true
		}
		for job, err := range jobs {
			if err != nil {
				// What was listed before it is not held back by it.
				if flush() {
					yield(publish.Job{}, err)
				}
				return
			}
			if chunk = append(chunk, job); len(chunk) == asked && !flush() {
				return
			}
		}
		flush()
	}
}

// ask learns which of the items and of their references the herder has.
func (r *run) ask(ctx context.Context, jobs []publish.Job) error {
	var ask []storepath.HashPart
	r.mu.Lock()
	for _, job := range jobs {
		for _, b := range append([]storepath.Base{job.Narinfo.StorePath.Base}, job.Narinfo.References...) {
			if h := b.HashPart(); r.known[h] == unknown {
				r.known[h] = there // until the answer says otherwise
				ask = append(ask, h)
			}
		}
	}
	r.mu.Unlock()
	if len(ask) == 0 {
		return nil
	}
	missing, err := r.To.Promise(ctx, ask)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range missing {
		r.known[h] = absent
	}
	return nil
}

// admit decides about an item before its nar is read, and reports if there is nothing to do.
func (r *run) admit(job publish.Job) bool {
	path := job.Narinfo.StorePath
	refuse := func(err error) bool {
		r.report(publish.Result{Path: path, Verdict: catalog.Refused, Err: fmt.Errorf("push %s: %w", path, err)})
		return false
	}
	missing := r.missing(job.Narinfo)
	r.mu.Lock()
	before := r.known[path.HashPart()]
	if len(missing) == 0 && !job.Narinfo.FilesAreSigned() {
		r.known[path.HashPart()] = there
	}
	r.mu.Unlock()
	switch {
	case before == there:
		r.report(publish.Result{Path: path, Verdict: catalog.Present, NarSize: job.Narinfo.NarSize})
		return false
	case job.Narinfo.FilesAreSigned():
		return refuse(ErrFilesAreSigned)
	case len(missing) > 0:
		r.report(refusedReferences(path, missing))
		return false
	}
	return true
}

// missing returns the references that are neither at the herder nor on their way, unless the herder is to wait for them.
func (r *run) missing(n *narinfo.Narinfo) (missing []storepath.Base) {
	if r.Wait {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ref := range n.References {
		if ref != n.StorePath.Base && r.known[ref.HashPart()] == absent {
			missing = append(missing, ref)
		}
	}
	return missing
}

func refusedReferences(path storepath.Path, missing []storepath.Base) publish.Result {
	err := &publishapi.MissingError{Path: path, Missing: missing}
	return publish.Result{Path: path, Verdict: catalog.Refused, Missing: missing, Err: err}
}

// send sends one item and reports on it. An error concerns more than this item.
func (r *run) send(ctx context.Context, s *publish.Spooled) error {
	result, err := r.sendItem(ctx, s)
	if err != nil {
		return err
	}
	if result.Err != nil {
		r.mu.Lock()
		r.known[result.Path.HashPart()] = absent
		r.mu.Unlock()
	}
	r.report(result)
	return nil
}

func (r *run) sendItem(ctx context.Context, s *publish.Spooled) (publish.Result, error) {
	path := s.Narinfo.StorePath
	result := publish.Result{Path: path, Verdict: catalog.Refused, NarSize: s.NarSize}
	if s.Err != nil {
		result.Err = fmt.Errorf("push %s: %w", path, s.Err)
		return result, nil
	}
	// Nothing is sent in vain if a reference has failed already; what fails later the herder refuses.
	if missing := r.missing(s.Narinfo); len(missing) > 0 {
		return refusedReferences(path, missing), nil
	}
	raw, files := offered(s)
	var placed []compress.Method
	for i, f := range files {
		there, sent, err := r.To.PlaceNar(ctx, path.Base, s.Forms[i].Compression, s.Forms[i].Size, s.Forms[i].Open)
		if there {
			placed = append(placed, s.Forms[i].Compression)
		} else if err == nil {
			sent, err = r.To.StageNar(ctx, f, s.Forms[i].Size, s.Forms[i].Open)
		}
		if err != nil {
			return r.failed(result, err)
		}
		if sent {
			result.Stored += s.Forms[i].Size
		}
	}
	if err := s.AwaitReferences(ctx); err != nil {
		return result, err
	}
	done, err := r.To.PutNarinfo(ctx, raw, r.Wait, placed...)
	if errors.Is(err, publishapi.ErrNoNar) {
		// It was there when we asked, and another item that has the same nar has taken it since, or the herder has lost it, or what came
		// into the bucket is not what was sent.
		for i, f := range files {
			if err := r.To.PutNar(ctx, f, s.Forms[i].Size, s.Forms[i].Open); err != nil {
				return r.failed(result, err)
			}
			result.Stored += s.Forms[i].Size
		}
		done, err = r.To.PutNarinfo(ctx, raw, r.Wait)
	}
	if err != nil {
		return r.failed(result, err)
	}
	if result.Verdict, err = verdictOf(done.Verdict); err != nil {
		return result, fmt.Errorf("push %s: %w", path, err)
	}
	return result, nil
}

// failed tells an error of one item from one of all.
func (r *run) failed(result publish.Result, err error) (publish.Result, error) {
	var missing *publishapi.MissingError
	switch {
	case errors.As(err, &missing):
		result.Missing = missing.Missing
	case errors.Is(err, publishapi.ErrDiffers):
		result.Verdict = catalog.Differs
	case errors.Is(err, publishapi.ErrRefused), errors.Is(err, publishapi.ErrNoNar):
	default:
		return result, err
	}
	result.Err = err
	return result, nil
}

// offered returns the narinfo that is put for an item, and the names under which its forms are. Signatures stay; what was dumped
// here has none, and the herder signs it.
func offered(s *publish.Spooled) (raw []byte, names []string) {
	n := *s.Narinfo
	n.NarHash, n.NarSize = s.NarHash, s.NarSize
	n.Files = nil
	for _, f := range s.Forms {
		name := publishapi.NarName(f.SHA256, f.Compression)
		names = append(names, name)
		n.Files = append(n.Files, narinfo.File{URL: "nar/" + name, Compression: f.Compression, FileHash: f.SHA256, FileSize: f.Size})
	}
	switch {
	case n.Raw != nil:
		return narinfo.WithFiles(s.Narinfo, n.Files, nil), names
	case n.IsGuix():
		return narinfo.Guix(&n), names
	}
	return narinfo.Nix(&n), names
}

func verdictOf(word string) (catalog.Verdict, error) {
	for _, v := range []catalog.Verdict{catalog.Published, catalog.Present, catalog.Waiting} {
		if v.String() == word {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: verdict %q is not known", publishapi.ErrRefused, word)
}

// Compressions reads the names of compressions that can be sent.
func Compressions(words []string) (ms []compress.Method, err error) {
	for _, s := range words {
		m, err := compress.ParseMethod(s)
		if err != nil || !m.Writable() {
			return nil, fmt.Errorf("%q: want zstd, lzip, gzip, xz or none", s)
		}
		if !slices.Contains(ms, m) {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

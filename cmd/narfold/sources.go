package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"narfold/herder/publish"
	"narfold/herder/push"
	"narfold/herder/source"
	"narfold/internal/catalog"
	"narfold/internal/compress"
)

// sourceFlags say what to take from where, and in which form: the same for import and push.
type sourceFlags struct {
	Closure     bool     `help:"Take also what the items reference, and what that references."`
	Item        []string `placeholder:"ITEM" help:"Take these items of a cache: hash parts, names or store paths. May be given several times."`
	StorePaths  string   `placeholder:"FILE" help:"A list of store paths, one a line, file or URL, .xz too: take these items of a cache."`
	Derivations bool     `help:"Take build recipes (.drv) of a store too."`
	Wait        bool     `help:"Keep items whose references are missing until these come, instead of refusing them."`
	Compression []string `placeholder:"METHOD" help:"Publish each nar in this compression: zstd, lzip, gzip, xz or none. May be given several times. Default: as it came, or zstd."`
	Level       string   `enum:"fastest,default,best," default:"" placeholder:"LEVEL" help:"How hard to compress: fastest, default or best."`
	Real        string   `placeholder:"DIR" help:"Where a store's files really are, if not in its store directory."`
	Database    string   `placeholder:"FILE" help:"A store's database, if not in its usual place."`
	Nars        string   `placeholder:"DIR" help:"Where the nars of a nar-herder's database are: a directory or a URL."`
	Scan        bool     `name:"scan-references" help:"A store has no database: find references by reading its files."`
	Workers     int      `placeholder:"N" help:"How many nars are read and compressed at once. Default: one for each processor."`
	Source      []string `arg:"" help:"What to take from."`

	methods []compress.Method // of Compression
}

// Validate is called by the parser.
func (f *sourceFlags) Validate() (err error) {
	if f.Workers < 0 {
		return usagef("--workers: want a number from 1")
	}
	if f.methods, err = push.Compressions(f.Compression); err != nil {
		return usagef("--compression: %v", err)
	}
	return nil
}

var levels = map[string]compress.Level{"fastest": compress.Fastest, "default": compress.Default, "best": compress.Best}

// open opens the sources. The caller closes them when nothing is read from them any more.
func (f *sourceFlags) open(ctx context.Context, inv *invocation, spool string, sign bool, refused func(item string, err error)) ([]source.Source, error) {
	sources, err := source.OpenAll(ctx, f.Source, source.Options{
		Items: f.Item, Closure: f.Closure, Derivations: f.Derivations, StorePaths: f.StorePaths,
		Nars: f.Nars, Real: f.Real, State: os.Getenv("NIX_STATE_DIR"), Database: f.Database, ScanReferences: f.Scan,
		Bucket: openBucket, Spool: spool, Sign: sign, Log: inv.log, Refused: refused,
	})
	if errors.Is(err, source.ErrNoNars) {
		return nil, hint(err, "--nars DIR, the folder in which the nars lie as their narinfos' URLs say (a nar-herder's --storage), or the URL of its server")
	}
	return sources, err
}

// jobs lists what s has, and tells how much it is as soon as that is known.
func (f *sourceFlags) jobs(ctx context.Context, s source.Source, p *progress) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		expected := false
		for job, err := range s.Jobs(ctx) {
			if !expected && err == nil {
				expected = true
				items, _ := s.Len()
				bytes, _ := s.NarBytes()
				p.expect(work{items: items, bytes: bytes})
			}
			job.Wait = f.Wait
			if !yield(job, err) {
				return
			}
		}
	}
}

// tally counts what became of items.
type tally struct {
	Published int64   `json:"published"`
	Present   int64   `json:"present"`
	Waiting   int64   `json:"waiting"`
	Refused   int64   `json:"refused"`
	Differs   int64   `json:"differs"`
	NarBytes  int64   `json:"nar_bytes"` // of what was published or waits
	Seconds   float64 `json:"seconds"`
	// Failures are the first hundred reasons.
	Failures []failure `json:"failures,omitempty"`

	stored int64
}

type failure struct {
	Item  string `json:"item"`
	Error string `json:"error"`
}

// tallying fills a tally: what a source leaves out is told by one goroutine, and what was published by another.
type tallying struct {
	mu sync.Mutex
	t  *tally
}

func (c *tallying) add(r publish.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.add(r)
}

func (c *tallying) refuse(item string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.refuse(item, err)
}

func (t *tally) add(r publish.Result) {
	t.stored += r.Stored
	t.Published += int64(len(r.Released))
	t.Waiting -= int64(len(r.Released))
	switch {
	case r.Err != nil && r.Verdict == catalog.Differs:
		t.Differs++
		t.fail(r.Path.String(), r.Err)
		return
	case r.Err != nil:
		t.refuse(r.Path.String(), r.Err)
		return
	case r.Verdict == catalog.Present:
		t.Present++
		return
	case r.Verdict == catalog.Waiting:
		t.Waiting++
	default:
		t.Published++
	}
	t.NarBytes += r.NarSize
}

func (t *tally) refuse(item string, err error) {
	t.Refused++
	t.fail(item, err)
}

func (t *tally) fail(item string, err error) {
	if len(t.Failures) < 100 {
		t.Failures = append(t.Failures, failure{item, err.Error()})
	}
}

// verdict is the exit code as an error, or nil if all went in.
func (t *tally) verdict() error {
	if t.Refused+t.Differs > 0 {
		return exitRefused
	}
	return nil
}

// print says for people what t counts; did is what was done with the bytes that were moved, "stored" or "sent".
func (t *tally) print(w io.Writer, did string) {
	for _, f := range t.Failures {
		fmt.Fprintf(w, "refused: %s\n", f.Error)
	}
	if n := t.Refused + t.Differs - int64(len(t.Failures)); n > 0 {
		fmt.Fprintf(w, "refused: %d more\n", n)
	}
	parts := []string{fmt.Sprintf("%d published", t.Published)}
	for _, p := range []struct {
		n    int64
		what string
	}{{t.Present, "there already"}, {t.Waiting, "waiting for references"}, {t.Refused, "refused"}, {t.Differs, "with another content than published"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	fmt.Fprintf(w, "%s; %s of nars, %s %s, in %s\n", strings.Join(parts, ", "), sizeText(t.NarBytes), sizeText(t.stored), did,
		time.Duration(t.Seconds*float64(time.Second)).Round(10*time.Millisecond))
}

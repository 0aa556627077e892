package push_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"narfold/herder/publish"
	"narfold/herder/push"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// remote is a herder in memory.
type remote struct {
	mu        sync.Mutex
	staged    map[string][]byte
	published map[storepath.HashPart]*narinfo.Narinfo
	order     []storepath.Base
	asked     []int
	puts      int
	leases    []string // what became of the promise

	// forget loses what is staged before the next narinfo, once.
	forget bool
	// refuse is said of these items.
	refuse map[storepath.Base]error
	// missing replaces the answer, if set.
	missing func(ctx context.Context, asked int) error
}

func newRemote() *remote {
	return &remote{staged: map[string][]byte{}, published: map[storepath.HashPart]*narinfo.Narinfo{}, refuse: map[storepath.Base]error{}}
}

func (r *remote) RenewLease(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases = append(r.leases, "renewed")
	return nil
}

func (r *remote) ReleaseLease(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases = append(r.leases, "released")
	return ctx.Err()
}

func (r *remote) Promise(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	r.mu.Lock()
	r.asked = append(r.asked, len(hs))
	asked := len(r.asked)
	for _, h := range hs {
		if r.published[h] == nil {
			missing = append(missing, h)
		}
	}
	r.mu.Unlock()
	if r.missing != nil {
		err = r.missing(ctx, asked)
	}
	return missing, err
}

func (r *remote) StageNar(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) (bool, error) {
	r.mu.Lock()
	_, ok := r.staged[name]
	r.mu.Unlock()
	if ok {
		return false, nil
	}
	return true, r.PutNar(ctx, name, size, open)
}

func (r *remote) PutNar(_ context.Context, name string, size int64, open func() (io.ReadCloser, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	want, err := publishapi.ParseNarName(name)
	if err != nil || digest.Of(text) != want || int64(len(text)) != size {
		return fmt.Errorf("%w: %s has %d bytes: %w", publishapi.ErrRefused, name, len(text), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.staged[name] = text
	r.puts++
	return nil
}

// PlaceNar has no place for any.
func (r *remote) PlaceNar(context.Context, storepath.Base, compress.Method, int64, func() (io.ReadCloser, error)) (placed, sent bool, err error) {
	return false, false, nil
}

func (r *remote) PutNarinfo(_ context.Context, raw []byte, wait bool, _ ...compress.Method) (publishapi.Published, error) {
	n, err := narinfo.Parse(raw)
	if err != nil {
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrRefused, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	done := publishapi.Published{Path: n.StorePath.String(), Verdict: "published"}
	if err := r.refuse[n.StorePath.Base]; err != nil {
		return done, err
	}
	if r.forget {
		r.forget, r.staged = false, map[string][]byte{}
	}
	for _, f := range n.Files {
		if _, ok := r.staged[strings.TrimPrefix(f.URL, "nar/")]; !ok {
			return done, publishapi.ErrNoNar
		}
	}
	for _, ref := range n.References {
		if ref != n.StorePath.Base && r.published[ref.HashPart()] == nil {
			if wait {
				done.Verdict = "waiting"
				return done, nil
			}
			return done, &publishapi.MissingError{Path: n.StorePath, Missing: []storepath.Base{ref}}
		}
	}
	r.published[n.StorePath.HashPart()] = n
	r.order = append(r.order, n.StorePath.Base)
	return done, nil
}

func plain(t *testing.T, contents string) []byte {
	t.Helper()
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Dump(t.Context(), &b, file); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dumped is an item of a store.
func dumped(t *testing.T, dir storepath.Dir, name string, refs ...string) publish.Job {
	t.Helper()
	text := plain(t, "contents of "+name)
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: dir, Base: catalogtest.Base(name)}}
	for _, r := range refs {
		n.References = append(n.References, catalogtest.Base(r))
	}
	return publish.Job{Narinfo: n, Sign: true, Dump: func(_ context.Context, w io.Writer) error {
		_, err := w.Write(text)
		return err
	}}
}

func all(jobs ...publish.Job) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
}

// run pushes and returns the results by name.
func run(t *testing.T, p *push.Pusher, jobs ...publish.Job) (map[storepath.Base]publish.Result, error) {
	t.Helper()
	p.Spooler.Dir = t.TempDir()
	results := map[storepath.Base]publish.Result{}
	err := p.Run(t.Context(), all(jobs...), func(r publish.Result) {
		if _, twice := results[r.Path.Base]; twice {
			t.Errorf("%s is reported twice", r.Path)
		}
		results[r.Path.Base] = r
	})
	if left, readErr := os.ReadDir(p.Spooler.Dir); readErr != nil || len(left) != 0 {
		t.Errorf("left in the spool: %v, %v", left, readErr)
	}
	return results, err
}

func verdict(t *testing.T, results map[storepath.Base]publish.Result, name string, want catalog.Verdict, err error) publish.Result {
	t.Helper()
	r, ok := results[catalogtest.Base(name)]
	if !ok || r.Verdict != want || !errors.Is(r.Err, err) || (r.Err == nil) != (err == nil) {
		t.Errorf("%s: %v, %v, reported %v; want %v, %v", name, r.Verdict, r.Err, ok, want, err)
	}
	return r
}

func TestWhatIsMissingIsPushed(t *testing.T) {
	to := newRemote()
	jobs := []publish.Job{dumped(t, storepath.Nix, "a"), dumped(t, storepath.Nix, "b", "a", "b"), dumped(t, storepath.Guix, "g")}
	results, err := run(t, &push.Pusher{To: to}, jobs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "g"} {
		if r := verdict(t, results, name, catalog.Published, nil); r.NarSize == 0 || r.Stored == 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if a, b := slices.Index(to.order, catalogtest.Base("a")), slices.Index(to.order, catalogtest.Base("b")); a > b {
		t.Errorf("published in the order %v", to.order)
	}
	n := to.published[catalogtest.Base("b").HashPart()]
	if text := plain(t, "contents of b"); n.NarHash != digest.Of(text) || n.NarSize != int64(len(text)) || len(n.Sigs) != 0 || n.Signature != "" || len(n.Files) != 1 {
		t.Errorf("narinfo:\n%s", n.Raw)
	}

	// Again: nothing is read.
	jobs[0].Dump = func(context.Context, io.Writer) error { return errors.New("read again") }
	puts := to.puts
	results, err = run(t, &push.Pusher{To: to}, jobs...)
	if err != nil || to.puts != puts {
		t.Errorf("again: %v, %d puts", err, to.puts-puts)
	}
	for _, name := range []string{"a", "b", "g"} {
		verdict(t, results, name, catalog.Present, nil)
	}
}

func TestAnItemGivenTwiceIsPushedOnce(t *testing.T) {
	to := newRemote()
	p := &push.Pusher{To: to, Spooler: publish.Spooler{Dir: t.TempDir()}}
	var said []catalog.Verdict
	a := dumped(t, storepath.Nix, "a")
	if err := p.Run(t.Context(), all(a, a), func(r publish.Result) { said = append(said, r.Verdict) }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(said)
	if want := []catalog.Verdict{catalog.Published, catalog.Present}; !slices.Equal(said, want) || to.puts != 1 {
		t.Errorf("said %v with %d puts", said, to.puts)
	}
}

func TestSignaturesOfACacheStay(t *testing.T) {
	text := plain(t, "signed")
	var packed bytes.Buffer
	w, err := compress.NewWriter(compress.Xz, &packed, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	n, err := narinfo.Parse(narinfo.Nix(&narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base("s")}, NarHash: digest.Of(text), NarSize: int64(len(text)),
		Sigs: []string{"cache-1:c2lnbmF0dXJl"}, Files: []narinfo.File{{URL: "nar/old.nar.xz", Compression: compress.Xz, FileSize: narinfo.UnknownSize}}}))
	if err != nil {
		t.Fatal(err)
	}
	job := publish.Job{Narinfo: n, Sources: []publish.Source{{Compression: compress.Xz, Keep: true, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}}}}
	to := newRemote()
	results, err := run(t, &push.Pusher{To: to, Spooler: publish.Spooler{Compressions: []compress.Method{compress.Xz, compress.Zstd}}}, job)
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, results, "s", catalog.Published, nil)
	got := to.published[n.StorePath.HashPart()]
	if got == nil || !slices.Equal(got.Sigs, n.Sigs) || len(got.Files) != 2 || got.Files[0].FileHash != digest.Of(packed.Bytes()) || got.Fingerprint() != n.Fingerprint() {
		t.Fatalf("published: %+v", got)
	}
}

func TestNothingIsSentInVain(t *testing.T) {
	to := newRemote()
	to.refuse[catalogtest.Base("bad")] = publishapi.ErrRefused
	results, err := run(t, &push.Pusher{To: to, Parallel: 1}, dumped(t, storepath.Nix, "orphan", "nowhere"), dumped(t, storepath.Nix, "child", "orphan"),
		dumped(t, storepath.Nix, "bad"), dumped(t, storepath.Nix, "worse", "bad"))
	if err != nil {
		t.Fatal(err)
	}
	if r := verdict(t, results, "orphan", catalog.Refused, publishapi.ErrReferences); !slices.Equal(r.Missing, []storepath.Base{catalogtest.Base("nowhere")}) {
		t.Errorf("missing %v", r.Missing)
	}
	verdict(t, results, "child", catalog.Refused, publishapi.ErrReferences)
	verdict(t, results, "bad", catalog.Refused, publishapi.ErrRefused)
	verdict(t, results, "worse", catalog.Refused, publishapi.ErrReferences)
	if to.puts != 1 || len(to.published) != 0 {
		t.Errorf("%d nars were sent, %d items published", to.puts, len(to.published))
	}
}

func TestTheHerderWaitsIfItIsToldTo(t *testing.T) {
	to := newRemote()
	results, err := run(t, &push.Pusher{To: to, Wait: true}, dumped(t, storepath.Nix, "early", "later"))
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, results, "early", catalog.Waiting, nil)
	if len(to.published) != 0 || to.puts != 1 {
		t.Errorf("published %v, %d puts", to.published, to.puts)
	}
}

func TestANarThatTheHerderLostIsSentAgain(t *testing.T) {
	to := newRemote()
	to.forget = true
	results, err := run(t, &push.Pusher{To: to}, dumped(t, storepath.Nix, "a"))
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, results, "a", catalog.Published, nil)
	if to.puts != 2 || len(to.staged) != 1 {
		t.Errorf("%d puts, staged %d", to.puts, len(to.staged))
	}
}

func TestOneBadItemDoesNotStopOthers(t *testing.T) {
	to := newRemote()
	to.refuse[catalogtest.Base("other")] = fmt.Errorf("put: %w", publishapi.ErrDiffers)
	unreadable := dumped(t, storepath.Nix, "unreadable")
	gone := errors.New("disk error")
	unreadable.Dump = func(context.Context, io.Writer) error { return gone }
	results, err := run(t, &push.Pusher{To: to}, unreadable, dumped(t, storepath.Nix, "other"), dumped(t, storepath.Nix, "good"))
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, results, "unreadable", catalog.Refused, gone)
	verdict(t, results, "other", catalog.Differs, publishapi.ErrDiffers)
	verdict(t, results, "good", catalog.Published, nil)
	if len(to.published) != 1 {
		t.Errorf("published %v", to.order)
	}
}

func TestWhatConcernsAllEndsThePush(t *testing.T) {
	for _, fault := range []error{publishapi.ErrDenied, publishapi.ErrUnavailable, publishapi.ErrFull} {
		to := newRemote()
		to.refuse[catalogtest.Base("a")] = fmt.Errorf("put: %w", fault)
		if _, err := run(t, &push.Pusher{To: to}, dumped(t, storepath.Nix, "a"), dumped(t, storepath.Nix, "b", "a")); !errors.Is(err, fault) {
			t.Errorf("%v ended the push with %v", fault, err)
		}
		if len(to.published) != 0 {
			t.Errorf("published %v", to.order)
		}
	}
}

func TestTheListerDoesNotOutliveAFailure(t *testing.T) {
	to := newRemote()
	to.refuse[catalogtest.Base("n0")] = publishapi.ErrDenied
	to.missing = func(ctx context.Context, asked int) error {
		if asked == 1 {
			return nil
		}
		<-ctx.Done() // the second answer never comes
		return context.Cause(ctx)
	}
	var jobs []publish.Job
	first := dumped(t, storepath.Nix, "n0")
	for i := range 1500 {
		job := first
		if i > 0 {
			n := *first.Narinfo
			n.StorePath.Base = catalogtest.Base(fmt.Sprint("n", i))
			job.Narinfo = &n
		}
		jobs = append(jobs, job)
	}
	if _, err := run(t, &push.Pusher{To: to}, jobs...); !errors.Is(err, publishapi.ErrDenied) {
		t.Errorf("ended with %v", err)
	}
	if len(to.asked) > 2 || to.asked[0] != 1000 {
		t.Errorf("asked %v", to.asked)
	}
}

func TestASignedURLCannotBePushed(t *testing.T) {
	to := newRemote()
	old := dumped(t, storepath.Guix, "old")
	raw := "StorePath: " + old.Narinfo.StorePath.String() + "\nURL: nar/gzip/x\nCompression: gzip\nNarHash: " + digest.Of(nil).String() + "\nNarSize: 1\nReferences: \nSignature: 1;h;eA==\n"
	n, err := narinfo.Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	old.Narinfo = n
	results, err := run(t, &push.Pusher{To: to}, old)
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, results, "old", catalog.Refused, push.ErrFilesAreSigned)
	if to.puts != 0 {
		t.Errorf("%d nars were sent", to.puts)
	}
}

func TestCompressionsAreChecked(t *testing.T) {
	if got, err := push.Compressions([]string{"zstd", "xz", "zstd"}); err != nil || !slices.Equal(got, []compress.Method{compress.Zstd, compress.Xz}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"bzip2", "ZSTD", ""} {
		if _, err := push.Compressions([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

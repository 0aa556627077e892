package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// farm is a publisher into a catalogue and a store of its own.
type farm struct {
	*publish.Publisher
	cat *sqlite.DB
	mem objstore.Store
}

func newFarm(t *testing.T, keys ...string) *farm {
	t.Helper()
	cat, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	ring, err := keyring.Load("farm.example", keys...)
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	return &farm{&publish.Publisher{Catalogue: cat, Objects: store, Keys: ring, Spool: filepath.Join(t.TempDir(), "spool"), Log: slog.New(slog.DiscardHandler)}, cat, store}
}

func key(t *testing.T, dir storepath.Dir) (secret, public string) {
	t.Helper()
	pair, err := keyring.Generate(dir, "farm.example")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	secret, public = filepath.Join(folder, "sec"), filepath.Join(folder, "pub")
	for name, text := range map[string][]byte{secret: pair.Secret, public: pair.Public} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return secret, public
}

func narOf(t testing.TB, contents string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Dump(t.Context(), &b, file); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func squeeze(t testing.TB, m compress.Method, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compress.NewWriter(m, &out, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// item is a job whose nar comes compressed by m.
func item(t testing.TB, dir storepath.Dir, name string, m compress.Method, refs ...string) publish.Job {
	t.Helper()
	plain := narOf(t, "contents of "+name)
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: dir, Base: catalogtest.Base(name)}, NarHash: digest.Of(plain), NarSize: int64(len(plain)),
		Files: []narinfo.File{{URL: "nar/x", Compression: m, FileSize: narinfo.UnknownSize}}}
	for _, r := range refs {
		n.References = append(n.References, catalogtest.Base(r))
	}
	return publish.Job{Narinfo: reparsed(t, narinfo.Nix(n)), Sources: []publish.Source{source(m, squeeze(t, m, plain))}}
}

func source(m compress.Method, b []byte) publish.Source {
	return publish.Source{Compression: m, Keep: true, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func reparsed(t testing.TB, raw []byte) *narinfo.Narinfo {
	t.Helper()
	n, err := narinfo.Parse(raw)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return n
}

func each(jobs ...publish.Job) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
}

func (f *farm) publish(t *testing.T, jobs ...publish.Job) map[string]publish.Result {
	t.Helper()
	got := make(map[string]publish.Result)
	if err := f.Run(t.Context(), each(jobs...), func(r publish.Result) { got[r.Path.Name()] = r }); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(jobs) {
		t.Fatalf("%d results of %d jobs: %v", len(got), len(jobs), got)
	}
	return got
}

// expand reads a published item's nar back out of the store, in every compression.
func (f *farm) expand(t *testing.T, name string) (forms []string) {
	t.Helper()
	it, err := f.cat.Item(t.Context(), catalogtest.Base(name).HashPart())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range it.Files {
		o, err := f.mem.Get(t.Context(), file.Key, objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		z, err := compress.NewReader(file.Compression, o)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := nar.Verify(z)
		if err != nil || sum.Hash != it.NarHash || sum.Size != it.NarSize {
			t.Errorf("%s of %s: %+v, %v", file.Compression, name, sum, err)
		}
		forms = append(forms, string(file.Compression))
		o.Close()
	}
	return forms
}

// unaccounted lists objects that the catalogue does not know.
func (f *farm) unaccounted(t *testing.T) (keys []objstore.Key) {
	t.Helper()
	for info, err := range f.mem.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.cat.Owner(t.Context(), info.Key); err != nil {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

func spoolIsEmpty(t *testing.T, f *farm) {
	t.Helper()
	entries, err := os.ReadDir(f.Spool)
	if err != nil || len(entries) != 0 {
		t.Errorf("left in the spool: %v, %v", entries, err)
	}
}

func TestCompressedNarsThatSuitEveryClientAreKeptAsTheyCame(t *testing.T) {
	for _, m := range []compress.Method{compress.Zstd, compress.Gzip, compress.Lzip, compress.Xz, compress.None} {
		t.Run(string(m), func(t *testing.T) {
			f := newFarm(t)
			job := item(t, storepath.Nix, "a", m)
			if r := f.publish(t, job)["a"]; r.Verdict != catalog.Published || r.Err != nil {
				t.Fatalf("%+v", r)
			}
			if forms := f.expand(t, "a"); !slices.Equal(forms, []string{string(m)}) {
				t.Errorf("forms %v", forms)
			}
			r, _ := job.Sources[0].Open(t.Context())
			want, _ := io.ReadAll(r)
			o, err := f.mem.Get(t.Context(), catalog.NarKey(m, job.Narinfo.StorePath.Base, 1), objstore.Range{})
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(o); !bytes.Equal(got, want) {
				t.Error("the bytes changed")
			}
			spoolIsEmpty(t, f)
		})
	}
}

func TestNarsThatNotEveryClientReadsAreCompressedAgain(t *testing.T) {
	plain := narOf(t, "contents of a")
	half := len(plain) / 2
	members := append(squeeze(t, compress.Gzip, plain[:half]), squeeze(t, compress.Gzip, plain[half:])...)
	skippable := append(squeeze(t, compress.Zstd, plain), 0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x')
	for name, s := range map[string]publish.Source{"gzip of two members": source(compress.Gzip, members), "zstd with something after it": source(compress.Zstd, skippable)} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t)
			job := item(t, storepath.Nix, "a", compress.Zstd)
			job.Sources = []publish.Source{s}
			if r := f.publish(t, job)["a"]; r.Verdict != catalog.Published || r.Err != nil {
				t.Fatalf("%+v", r)
			}
			if forms := f.expand(t, "a"); !slices.Equal(forms, []string{"zstd"}) {
				t.Errorf("forms %v", forms)
			}
			spoolIsEmpty(t, f)
		})
	}
}

func TestEveryWantedCompressionIsMade(t *testing.T) {
	f := newFarm(t)
	f.Compressions = []compress.Method{compress.Zstd, compress.Lzip, compress.Gzip}
	f.publish(t, item(t, storepath.Nix, "a", compress.Xz))
	if forms := f.expand(t, "a"); !slices.Equal(forms, []string{"gzip", "lzip", "xz", "zstd"}) {
		t.Errorf("forms %v", forms)
	}
}

func TestDumpsAreHashedCompressedAndSigned(t *testing.T) {
	for _, dir := range []storepath.Dir{storepath.Guix, storepath.Nix} {
		t.Run(string(dir), func(t *testing.T) {
			secret, public := key(t, dir)
			f := newFarm(t, secret)
			plain := narOf(t, strings.Repeat("a nar larger than what stays in memory ", 1<<14))
			job := publish.Job{Sign: true, Narinfo: &narinfo.Narinfo{StorePath: storepath.Path{Dir: dir, Base: catalogtest.Base("a")}},
				Dump: func(_ context.Context, w io.Writer) error { _, err := w.Write(plain); return err }}
			if r := f.publish(t, job)["a"]; r.Verdict != catalog.Published || r.Err != nil || r.NarSize != int64(len(plain)) {
				t.Fatalf("%+v", r)
			}
			f.expand(t, "a")
			it, _ := f.cat.Item(t.Context(), catalogtest.Base("a").HashPart())
			trusting, err := keyring.Load("", public)
			if err != nil {
				t.Fatal(err)
			}
			if err := trusting.Check(reparsed(t, it.Narinfo), true); err != nil {
				t.Errorf("%v\n%s", err, it.Narinfo)
			}
			spoolIsEmpty(t, f)
		})
	}
}

func TestItemsAreRefusedOneByOne(t *testing.T) {
	flipped := item(t, storepath.Nix, "flipped", compress.None)
	r, _ := flipped.Sources[0].Open(t.Context())
	b, _ := io.ReadAll(r)
	b[bytes.Index(b, []byte("contents of flipped"))] ^= 1
	flipped.Sources = []publish.Source{source(compress.None, b)}

	torn := item(t, storepath.Nix, "torn", compress.Zstd)
	r, _ = torn.Sources[0].Open(t.Context())
	b, _ = io.ReadAll(r)
	torn.Sources = []publish.Source{source(compress.Zstd, b[:len(b)-3])}

	absent := item(t, storepath.Nix, "absent", compress.Zstd)
	absent.Sources[0].Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("404") }

	empty := item(t, storepath.Nix, "empty", compress.Zstd)
	empty.Sources = nil

	f := newFarm(t)
	got := f.publish(t, item(t, storepath.Nix, "good", compress.Zstd), flipped, torn, absent, empty,
		item(t, storepath.Nix, "open", compress.Zstd, "nowhere"), item(t, storepath.Nix, "on-flipped", compress.Zstd, "flipped"), item(t, storepath.Nix, "last", compress.Zstd, "good"))
	for name, want := range map[string]error{"good": nil, "last": nil, "flipped": publish.ErrNarHash, "torn": publish.ErrSource, "absent": publish.ErrSource,
		"empty": publish.ErrNoSource, "open": publish.ErrReferences, "on-flipped": publish.ErrReferences} {
		if !errors.Is(got[name].Err, want) {
			t.Errorf("%s: %v, want %v", name, got[name].Err, want)
		}
	}
	spoolIsEmpty(t, f)
	if u := f.unaccounted(t); len(u) > 0 {
		t.Errorf("unaccounted objects: %v", u)
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	secret, public := key(t, storepath.Nix)
	signer, err := keyring.Load("", secret)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(name string) publish.Job {
		job := item(t, storepath.Nix, name, compress.Zstd)
		raw, err := signer.Seal(job.Narinfo, true)
		if err != nil {
			t.Fatal(err)
		}
		job.Narinfo = reparsed(t, raw)
		return job
	}
	forged := signed("forged")
	text := string(forged.Narinfo.Raw)
	at := strings.Index(text, "Sig: farm.example-1:") + len("Sig: farm.example-1:") + 10
	other := byte('A')
	if text[at] == other {
		other = 'B'
	}
	forged.Narinfo = reparsed(t, []byte(text[:at]+string(other)+text[at+1:]))

	f := newFarm(t, public)
	got := f.publish(t, signed("good"), forged, item(t, storepath.Nix, "unsigned", compress.Zstd))
	for name, want := range map[string]error{"good": nil, "forged": publish.ErrSignature, "unsigned": publish.ErrSignature} {
		if !errors.Is(got[name].Err, want) {
			t.Errorf("%s: %v, want %v", name, got[name].Err, want)
		}
	}
}

func TestAForgedGuixNarinfoIsRefusedWhoeverIsTrusted(t *testing.T) {
	secret, _ := key(t, storepath.Guix)
	signer, err := keyring.Load("", secret)
	if err != nil {
		t.Fatal(err)
	}
	job := item(t, storepath.Guix, "a", compress.Zstd)
	raw, err := signer.Seal(job.Narinfo, true)
	if err != nil {
		t.Fatal(err)
	}
	forged := job
	forged.Narinfo = reparsed(t, bytes.Replace(raw, []byte("NarSize: "), []byte("NarSize: 9"), 1))
	f := newFarm(t)
	if r := f.publish(t, forged)["a"]; !errors.Is(r.Err, publish.ErrSignature) {
		t.Errorf("forged: %v", r.Err)
	}
	job.Narinfo = reparsed(t, raw)
	if r := f.publish(t, job)["a"]; r.Err != nil {
		t.Errorf("whole: %v", r.Err)
	}
	it, err := f.cat.Item(t.Context(), job.Narinfo.StorePath.HashPart())
	if err != nil || !bytes.Equal(it.Narinfo, raw) {
		t.Errorf("the narinfo was not kept as it came: %v\n%s", err, it.Narinfo)
	}
}

func TestWhatIsThereIsNotReadAgain(t *testing.T) {
	f := newFarm(t)
	a := item(t, storepath.Nix, "a", compress.Zstd)
	f.publish(t, a)
	a.Sources[0].Open = func(context.Context) (io.ReadCloser, error) {
		t.Error("read again")
		return nil, errors.New("read again")
	}
	if r := f.publish(t, a)["a"]; r.Verdict != catalog.Present || r.Err != nil {
		t.Errorf("%+v", r)
	}
	// The same nar under another name.
	b := a
	n := *a.Narinfo
	n.StorePath.Base = catalogtest.Base("b")
	b.Narinfo = reparsed(t, narinfo.Nix(&n))
	if r := f.publish(t, b)["b"]; r.Verdict != catalog.Published || r.Stored != 0 {
		t.Errorf("%+v", r)
	}
	f.expand(t, "b")
}

func TestAnotherContentIsToldAndTheFirstStays(t *testing.T) {
	f := newFarm(t)
	a := item(t, storepath.Nix, "a", compress.Zstd)
	f.publish(t, a)
	b := item(t, storepath.Nix, "other", compress.Zstd)
	n := *b.Narinfo
	n.StorePath = a.Narinfo.StorePath
	b.Narinfo = reparsed(t, narinfo.Nix(&n))
	r := f.publish(t, b)["a"]
	if r.Verdict != catalog.Differs || !errors.Is(r.Err, publish.ErrDiffers) {
		t.Errorf("%+v", r)
	}
	it, _ := f.cat.Item(t.Context(), a.Narinfo.StorePath.HashPart())
	if it.NarHash != a.Narinfo.NarHash {
		t.Error("the first did not stay")
	}
	if u := f.unaccounted(t); len(u) > 0 {
		t.Errorf("unaccounted objects: %v", u)
	}
}

func TestAnInterruptedRunIsTakenUpWhereItWasLeft(t *testing.T) {
	// The object of an earlier run lies under the key: with these bytes it is taken over, with others it stays and the next key is used.
	for name, lying := range map[string]func(zstd []byte) []byte{
		"the same bytes":  func(z []byte) []byte { return z },
		"torn bytes":      func(z []byte) []byte { return z[:len(z)/2] },
		"other bytes":     func(z []byte) []byte { return bytes.Repeat([]byte("x"), len(z)) },
		"an empty object": func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t)
			a := item(t, storepath.Nix, "a", compress.Zstd)
			keys, err := f.cat.Reserve(t.Context(), []catalog.Want{{Base: a.Narinfo.StorePath.Base, Compression: compress.Zstd}})
			if err != nil {
				t.Fatal(err)
			}
			r, _ := a.Sources[0].Open(t.Context())
			z, _ := io.ReadAll(r)
			if _, err := f.mem.Put(t.Context(), keys[0], objstore.Bytes(lying(z)), objstore.IfAbsent); err != nil {
				t.Fatal(err)
			}
			if r := f.publish(t, a)["a"]; r.Verdict != catalog.Published || r.Err != nil {
				t.Fatalf("%+v", r)
			}
			f.expand(t, "a")
			it, _ := f.cat.Item(t.Context(), a.Narinfo.StorePath.HashPart())
			if same := name == "the same bytes"; same != (it.Files[0].Key == keys[0]) {
				t.Errorf("published under %s, the earlier run's key is %s", it.Files[0].Key, keys[0])
			}
			if u := f.unaccounted(t); len(u) > 0 {
				t.Errorf("unaccounted objects: %v", u)
			}
		})
	}
}

func TestManyItemsInAnyNumberOfBatchesAreClosedAtEveryMoment(t *testing.T) {
	f := newFarm(t)
	var jobs []publish.Job
	for i := range 700 {
		var refs []string
		if i > 0 {
			refs = append(refs, fmt.Sprintf("item-%d", i-1))
		}
		if i > 3 {
			refs = append(refs, fmt.Sprintf("item-%d", i/2))
		}
		jobs = append(jobs, item(t, storepath.Nix, fmt.Sprintf("item-%d", i), compress.Zstd, refs...))
	}
	for name, r := range f.publish(t, jobs...) {
		if r.Verdict != catalog.Published || r.Err != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	spoolIsEmpty(t, f)
}

func TestAStopLeavesNothingHalfDone(t *testing.T) {
	f := newFarm(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	var jobs []publish.Job
	for i := range 400 {
		jobs = append(jobs, item(t, storepath.Nix, fmt.Sprintf("item-%d", i), compress.Zstd))
	}
	stop := jobs[200]
	jobs[200].Sources = []publish.Source{{Compression: compress.Zstd, Keep: true, Open: func(context.Context) (io.ReadCloser, error) {
		cancel(errors.New("the operator pressed control-C"))
		return stop.Sources[0].Open(ctx)
	}}}
	reported := 0
	err := f.Run(ctx, each(jobs...), func(r publish.Result) { reported++ })
	if err == nil || !strings.Contains(err.Error(), "control-C") {
		t.Fatalf("error is %v", err)
	}
	counts, err := f.cat.Counts(t.Context())
	if err != nil || counts.Items != int64(reported) {
		t.Errorf("%d items are published and %d were reported, %v", counts.Items, reported, err)
	}
	spoolIsEmpty(t, f)
	jobs[200] = stop
	f.publish(t, jobs...)
	if counts, _ := f.cat.Counts(t.Context()); counts.Items != 400 {
		t.Errorf("%d items after the second run", counts.Items)
	}
	if u := f.unaccounted(t); len(u) > 0 {
		t.Errorf("unaccounted objects: %v", u)
	}
}

func TestASpoolThatCannotBeUsedStopsTheRun(t *testing.T) {
	f := newFarm(t)
	f.Spool = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f.Spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Run(t.Context(), each(item(t, storepath.Nix, "a", compress.Zstd)), func(publish.Result) {}); err == nil || !strings.Contains(err.Error(), "make spool") {
		t.Errorf("error is %v", err)
	}
}

func TestReferencesPutsReferencesFirst(t *testing.T) {
	var items []*narinfo.Narinfo
	for i := range 50 {
		n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base(fmt.Sprintf("item-%d", i))}}
		for _, j := range []int{i, i + 1, i * 2} {
			if j < 50 {
				n.References = append(n.References, catalogtest.Base(fmt.Sprintf("item-%d", j)))
			}
		}
		items = append(items, n)
	}
	seen := make(map[storepath.Base]bool)
	for _, n := range publish.References(items) {
		for _, r := range n.References {
			if r != n.StorePath.Base && !seen[r] {
				t.Errorf("%s comes before its reference %s", n.StorePath.Name(), r.Name())
			}
		}
		seen[n.StorePath.Base] = true
	}
	if len(seen) != len(items) {
		t.Errorf("%d of %d items", len(seen), len(items))
	}
}

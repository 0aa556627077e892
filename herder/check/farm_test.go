package check_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"narfold/herder/check"
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
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// farm is a deployment with a publisher.
type farm struct {
	cat       *sqlite.DB
	store     objstore.Store
	publisher *publish.Publisher
	lock      string
}

// eachStore runs a test on a farm with each kind of store.
func eachStore(t *testing.T, f func(t *testing.T, f *farm)) {
	t.Run("mem", func(t *testing.T) { f(t, newFarm(t, mem.New())) })
	t.Run("dir", func(t *testing.T) {
		store, err := dir.Open(filepath.Join(t.TempDir(), "objects"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		f(t, newFarm(t, store))
	})
}

func newFarm(t testing.TB, store objstore.Store) *farm {
	t.Helper()
	state := t.TempDir()
	cat, err := sqlite.Open(t.Context(), filepath.Join(state, "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	ring, err := keyring.Load("farm.example")
	if err != nil {
		t.Fatal(err)
	}
	return &farm{cat, store, &publish.Publisher{Catalogue: cat, Objects: store, Keys: ring, Spool: filepath.Join(state, "spool"), Workers: 2,
		Log: slog.New(slog.DiscardHandler)}, filepath.Join(state, "check.lock")}
}

// config checks the farm, deeply, and trusts that nothing is on its way.
func (f *farm) config() check.Config {
	return check.Config{Catalogue: f.cat, Objects: f.store, Deleter: f.store, LockFile: f.lock, Sample: 1}
}

func run(t *testing.T, cfg check.Config) check.Report {
	t.Helper()
	r, err := check.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func base(name string) storepath.Base { return catalogtest.Base(name) }

func path(name string) string { return "/nix/store/" + string(base(name)) }

func key(name string) objstore.Key { return catalog.NarKey(compress.Zstd, base(name), 1) }

func narOf(t testing.TB, contents string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	if err := w.File("", int64(len(contents)), false); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, contents); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// item is a job; items with the same contents share a nar.
func item(t testing.TB, name, contents string, refs ...string) publish.Job {
	t.Helper()
	plain := narOf(t, contents)
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: base(name)}, NarHash: digest.Of(plain), NarSize: int64(len(plain)),
		Files: []narinfo.File{{URL: "nar/x", Compression: compress.Zstd, FileSize: narinfo.UnknownSize}}}
	for _, r := range refs {
		n.References = append(n.References, base(r))
	}
	parsed, err := narinfo.Parse(narinfo.Nix(n))
	if err != nil {
		t.Fatal(err)
	}
	squeezed := zstd(t, plain)
	return publish.Job{Narinfo: parsed, Sources: []publish.Source{{Compression: compress.Zstd, Keep: true,
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(squeezed)), nil }}}}
}

func zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compress.NewWriter(compress.Zstd, &out, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// publish publishes jobs and fails if one is not published or waiting.
func (f *farm) publish(t testing.TB, jobs ...publish.Job) {
	t.Helper()
	err := f.publisher.Run(t.Context(), func(yield func(publish.Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}, func(r publish.Result) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// some publishes a, b which references a, and c which references both.
func (f *farm) some(t testing.TB) {
	t.Helper()
	f.publish(t, item(t, "a", "contents of a", "a"), item(t, "b", strings.Repeat("contents of b ", 10_000), "a"), item(t, "c", "contents of c", "a", "b"))
}

func (f *farm) put(t testing.TB, k objstore.Key, b []byte) {
	t.Helper()
	if _, err := f.store.Put(t.Context(), k, objstore.Bytes(b), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func (f *farm) get(t testing.TB, k objstore.Key) []byte {
	t.Helper()
	o, err := f.store.Get(t.Context(), k, objstore.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *farm) delete(t testing.TB, k objstore.Key) {
	t.Helper()
	if err := f.store.Delete(t.Context(), k); err != nil {
		t.Fatal(err)
	}
}

// reserve hands out keys for items that are never published.
func (f *farm) reserve(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := f.cat.Reserve(t.Context(), []catalog.Want{{Base: base(n), Compression: compress.Zstd}}); err != nil {
			t.Fatal(err)
		}
	}
}

// keys lists the store.
func (f *farm) keys(t testing.TB) (keys []objstore.Key) {
	t.Helper()
	for info, err := range f.store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// told writes findings as "kind key-or-item: detail | items <- referrers", with store paths cut to their names.
func told(r check.Report) (all []string) {
	short := func(paths []string) string {
		var names []string
		for _, p := range paths {
			names = append(names, storepath.Base(filepath.Base(p)).Name())
		}
		return strings.Join(names, " ")
	}
	for _, f := range r.Findings {
		name := string(f.Key)
		if _, b, g, err := catalog.ParseNarKey(f.Key); err == nil {
			name = fmt.Sprintf("%s;%d", b.Name(), g)
		}
		s := fmt.Sprintf("%s %s: %s", f.Kind, name, f.Detail)
		if len(f.Items) > 0 {
			s += " | " + short(f.Items)
		}
		if f.Referrers > 0 {
			s += fmt.Sprintf(" <- %d: %s", f.Referrers, short(f.ReferrersFirst))
		}
		all = append(all, s)
	}
	return all
}

func wantTold(t *testing.T, r check.Report, want ...string) {
	t.Helper()
	got := told(r)
	if len(got) != len(want) {
		t.Fatalf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("found %s\nwant  %s", got[i], want[i])
		}
	}
}

// staleLister hides objects from the listing, as one that passed before they were put.
type staleLister struct {
	objstore.Store
	hidden func(objstore.Key) bool
}

func (s staleLister) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for i, err := range s.Store.List(ctx, prefix) {
			if err == nil && s.hidden(i.Key) {
				continue
			}
			if !yield(i, err) {
				return
			}
		}
	}
}

// readingStore changes what is read.
type readingStore struct {
	objstore.Store
	get func(objstore.Key, objstore.Object) (objstore.Object, error)
}

func (s readingStore) Get(ctx context.Context, k objstore.Key, r objstore.Range) (objstore.Object, error) {
	o, err := s.Store.Get(ctx, k, r)
	if err != nil {
		return o, err
	}
	return s.get(k, o)
}

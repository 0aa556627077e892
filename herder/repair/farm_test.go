package repair_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"testing"

	"narfold/herder/check"
	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/repair"
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
	testing.TB
	cat   *sqlite.DB
	store objstore.Store
	state string
}

// eachStore runs a test on a farm with each kind of store.
func eachStore(t *testing.T, f func(f *farm)) {
	t.Run("mem", func(t *testing.T) { f(newFarm(t, mem.New())) })
	t.Run("dir", func(t *testing.T) {
		store, err := dir.Open(filepath.Join(t.TempDir(), "objects"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		f(newFarm(t, store))
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
	return &farm{t, cat, store, state}
}

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

func squeezed(t testing.TB, m compress.Method, level compress.Level, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compress.NewWriter(m, &out, level)
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

// item is a job without a nar; items with the same contents share one.
func (f *farm) item(name, contents string) publish.Job {
	f.Helper()
	plain := narOf(f, contents)
	n, err := narinfo.Parse(narinfo.Nix(&narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base(name)}, NarHash: digest.Of(plain), NarSize: int64(len(plain)),
		Files: []narinfo.File{{URL: "nar/x", Compression: compress.Zstd, FileSize: narinfo.UnknownSize}}}))
	if err != nil {
		f.Fatal(err)
	}
	return publish.Job{Narinfo: n}
}

// with adds a form in which the nar of a job can be had.
func with(j publish.Job, m compress.Method, b []byte) publish.Job {
	j.Sources = append(j.Sources, publish.Source{Compression: m, Keep: true, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
	return j
}

func list(jobs ...publish.Job) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
}

func (f *farm) publish(jobs ...publish.Job) {
	f.Helper()
	ring, err := keyring.Load("farm.example")
	if err != nil {
		f.Fatal(err)
	}
	p := &publish.Publisher{Catalogue: f.cat, Objects: f.store, Keys: ring, Spool: filepath.Join(f.state, "spool"), Workers: 2, Log: slog.New(slog.DiscardHandler)}
	err = p.Run(f.Context(), list(jobs...), func(r publish.Result) {
		if r.Err != nil {
			f.Error(r.Err)
		}
	})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *farm) get(k objstore.Key) []byte {
	f.Helper()
	o, err := f.store.Get(f.Context(), k, objstore.Range{})
	if err != nil {
		f.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// spoil puts bytes under a key, whatever lies there.
func (f *farm) spoil(k objstore.Key, b []byte) {
	f.Helper()
	if _, err := f.store.Put(f.Context(), k, objstore.Bytes(b), objstore.Condition{}); err != nil {
		f.Fatal(err)
	}
}

func (f *farm) remove(k objstore.Key) {
	f.Helper()
	if err := f.store.Delete(f.Context(), k); err != nil {
		f.Fatal(err)
	}
}

// check checks deeply.
func (f *farm) check(change func(*check.Config)) check.Report {
	f.Helper()
	cfg := check.Config{Catalogue: f.cat, Objects: f.store, Deleter: f.store, LockFile: filepath.Join(f.state, "check.lock"), Sample: 1}
	if change != nil {
		change(&cfg)
	}
	r, err := check.Run(f.Context(), cfg)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

// sound fails if a deep check finds damage, or anything that nothing accounts for.
func (f *farm) sound() {
	f.Helper()
	for _, found := range f.check(nil).Findings {
		f.Errorf("%s %s: %s", found.Kind, found.Key, found.Detail)
	}
}

// found returns a repairer that knows of what a deep check finds.
func (f *farm) found() *repair.Repairer {
	f.Helper()
	r := repair.New(repair.Config{Catalogue: f.cat, Objects: f.store, Spool: filepath.Join(f.state, "spool"), Workers: 2})
	for _, found := range f.check(nil).Findings {
		if ok, err := r.Found(f.Context(), found); !ok || err != nil {
			f.Fatalf("%+v: %v, %v", found, ok, err)
		}
	}
	return r
}

// mends repairs from jobs and returns the only mending.
func (f *farm) mends(r *repair.Repairer, want repair.Result, jobs ...publish.Job) *repair.Mending {
	f.Helper()
	if err := r.From(f.Context(), "there", list(jobs...)); err != nil {
		f.Fatal(err)
	}
	all := r.Mendings()
	if len(all) != 1 || all[0].Result != want {
		f.Fatalf("mended %d, want one that is %s: %+v", len(all), want, all[0])
	}
	if left := r.Left(); (left == 0) != (want != repair.Damaged && want != repair.Mendable) {
		f.Errorf("%d are left", left)
	}
	return all[0]
}

var errBroken = errors.New("the line is broken")

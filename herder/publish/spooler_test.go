package publish_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"narfold/herder/publish"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// list yields jobs, and then err if there is one.
func list(err error, jobs ...publish.Job) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
		if err != nil {
			yield(publish.Job{}, err)
		}
	}
}

func newSpooler(t *testing.T) *publish.Spooler {
	t.Helper()
	return &publish.Spooler{Dir: t.TempDir(), Options: compress.Options{Level: compress.Fastest}}
}

// empty fails unless nothing was left in the spool.
func empty(t *testing.T, s *publish.Spooler) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left in the spool: %v, %v", entries, err)
	}
}

func TestASpoolerHandsOutWhatWasVerified(t *testing.T) {
	s := newSpooler(t)
	s.Compressions = []compress.Method{compress.Zstd, compress.Xz}
	whole, bad := item(t, storepath.Nix, "whole", compress.Xz), item(t, storepath.Nix, "bad", compress.Xz)
	other := item(t, storepath.Nix, "other", compress.Xz)
	bad.Sources = other.Sources
	err := s.Run(t.Context(), list(nil, whole, bad), 1, func(ctx context.Context, got *publish.Spooled) error {
		if got.Narinfo == bad.Narinfo {
			if !errors.Is(got.Err, publish.ErrNarHash) || len(got.Forms) != 0 {
				t.Errorf("a nar of another item: %v, %d forms", got.Err, len(got.Forms))
			}
			return nil
		}
		var methods []compress.Method
		for _, f := range got.Forms {
			methods = append(methods, f.Compression)
			r, err := f.Open()
			if err != nil {
				return err
			}
			packed, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil {
				return err
			}
			if int64(len(packed)) != f.Size || digest.Of(packed) != f.SHA256 {
				t.Errorf("%s has %d bytes with hash %s, said are %d and %s", f.Compression, len(packed), digest.Of(packed), f.Size, f.SHA256)
			}
			z, err := compress.NewReader(f.Compression, bytes.NewReader(packed))
			if err != nil {
				return err
			}
			plain, err := io.ReadAll(z)
			if err != nil || digest.Of(plain) != got.NarHash || int64(len(plain)) != got.NarSize || got.NarHash != whole.Narinfo.NarHash {
				t.Errorf("%s expands to %d bytes, %v", f.Compression, len(plain), err)
			}
		}
		if want := []compress.Method{compress.Xz, compress.Zstd}; got.Err != nil || !slices.Equal(methods, want) {
			t.Errorf("forms %v, want %v: %v", methods, want, got.Err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	empty(t, s)
}

func TestReferencesAreTakenFirst(t *testing.T) {
	s := newSpooler(t)
	jobs := []publish.Job{item(t, storepath.Nix, "a", compress.Zstd), item(t, storepath.Nix, "b", compress.Zstd, "a", "b"),
		item(t, storepath.Nix, "c", compress.Zstd), item(t, storepath.Nix, "d", compress.Zstd, "b", "c", "elsewhere")}
	var (
		mu    sync.Mutex
		taken []storepath.Base
		begun = make(chan struct{})
		count atomic.Int32
	)
	err := s.Run(t.Context(), list(nil, jobs...), len(jobs), func(ctx context.Context, got *publish.Spooled) error {
		// All are under way before the first is done.
		if count.Add(1) == int32(len(jobs)) {
			close(begun)
		}
		<-begun
		if err := got.AwaitReferences(ctx); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, ref := range got.Narinfo.References {
			known := slices.ContainsFunc(jobs, func(j publish.Job) bool { return j.Narinfo.StorePath.Base == ref })
			if ref != got.Narinfo.StorePath.Base && known && !slices.Contains(taken, ref) {
				t.Errorf("%s is taken before %s", got.Narinfo.StorePath, ref)
			}
		}
		taken = append(taken, got.Narinfo.StorePath.Base)
		return nil
	})
	if err != nil || len(taken) != len(jobs) {
		t.Errorf("taken %v: %v", taken, err)
	}
	empty(t, s)
}

func TestASpoolerLeavesNothingBehindWhenItFails(t *testing.T) {
	var jobs []publish.Job
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		// Large enough not to stay in memory.
		job := item(t, storepath.Nix, name, compress.None)
		job.Sources, job.Narinfo.NarHash = nil, digest.SHA256{}
		job.Dump = func(_ context.Context, w io.Writer) error {
			noise := make([]byte, 400<<10)
			rand.Read(noise)
			_, err := w.Write(noise)
			return err
		}
		jobs = append(jobs, job)
	}
	enough := errors.New("enough")
	t.Run("take fails", func(t *testing.T) {
		s := newSpooler(t)
		if err := s.Run(t.Context(), list(nil, jobs...), 2, func(context.Context, *publish.Spooled) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
		empty(t, s)
	})
	t.Run("list fails", func(t *testing.T) {
		s := newSpooler(t)
		if err := s.Run(t.Context(), list(enough, jobs...), 2, func(context.Context, *publish.Spooled) error { return nil }); !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
		empty(t, s)
	})
	t.Run("context ends", func(t *testing.T) {
		s := newSpooler(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		err := s.Run(ctx, list(nil, jobs...), 2, func(ctx context.Context, _ *publish.Spooled) error {
			cancel(enough)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
		empty(t, s)
	})
}

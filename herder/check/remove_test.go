package check_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narfold/herder/check"
	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
)

func TestAbandonedUploadsAreRemovedAndNothingElse(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		f.some(t)
		late := item(t, "late", "late", "dep")
		late.Wait = true
		f.publish(t, late)
		f.reserve(t, "upload", "bare")
		f.put(t, key("upload"), []byte("half a nar"))
		f.put(t, key("stray"), []byte("whose is this"))
		kept := []objstore.Key{key("a"), key("b"), key("c"), key("late"), key("stray")}
		slices.Sort(kept)

		cfg := f.config()
		cfg.RemoveAbandoned, cfg.OlderThan = true, time.Hour
		if r := run(t, cfg); r.RemovedUploads != 0 || r.Uploads != 3 || len(f.keys(t)) != 6 {
			t.Errorf("young uploads: %+v", r)
		}
		cfg.OlderThan = 0
		r := run(t, cfg)
		if r.RemovedUploads != 2 || r.Uploads != 1 || r.UploadsAwaited != 1 || r.Damage() != 0 {
			t.Errorf("%+v", r)
		}
		if got := f.keys(t); !slices.Equal(got, kept) {
			t.Errorf("left %v, want %v", got, kept)
		}
		if _, err := f.cat.Owner(t.Context(), key("upload")); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("the catalogue still knows the upload: %v", err)
		}
	})
}

// failingDeleter fails once.
type failingDeleter struct {
	objstore.Deleter
	failed bool
}

func (d *failingDeleter) Delete(ctx context.Context, k objstore.Key) error {
	if !d.failed {
		d.failed = true
		return objstore.ErrUnavailable
	}
	return d.Deleter.Delete(ctx, k)
}

func TestARemovalThatBrokeOffLeavesTheKeyKnownAndIsTakenUpAgain(t *testing.T) {
	f := newFarm(t, mem.New())
	f.reserve(t, "upload")
	f.put(t, key("upload"), []byte("half a nar"))
	cfg := f.config()
	cfg.RemoveAbandoned = true
	cfg.Deleter = &failingDeleter{Deleter: f.store}
	if _, err := check.Run(t.Context(), cfg); !errors.Is(err, objstore.ErrUnavailable) {
		t.Fatalf("error is %v", err)
	}
	if state, err := f.cat.Owner(t.Context(), key("upload")); err != nil || state != catalog.KeyUpload {
		t.Errorf("the key is %v, %v", state, err)
	}
	// An import meanwhile is given another key, since this one may lose its object at any moment.
	keys, err := f.cat.Reserve(t.Context(), []catalog.Want{{Base: base("upload"), Compression: compress.Zstd}})
	if err != nil || keys[0] == key("upload") {
		t.Errorf("reserved %v, %v", keys, err)
	}
	cfg.OlderThan = time.Hour // it is cleaned up whatever its age: that was decided
	if r := run(t, cfg); r.RemovedUploads != 1 || len(f.keys(t)) != 0 {
		t.Errorf("%+v, left %v", r, f.keys(t))
	}
}

func TestUnknownObjectsAreRemovedIfThatIsAsked(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		f.some(t)
		known := f.keys(t)
		later := catalog.NarKey(compress.Zstd, base("a"), 7)
		log := catalog.LogKey(base("x.drv"))
		for _, k := range []objstore.Key{key("stray"), later, "index.html", log} {
			f.put(t, k, []byte("whose is this"))
		}
		cfg := f.config()
		cfg.RemoveUnknown, cfg.OlderThan = true, time.Hour
		if r := run(t, cfg); r.RemovedUnknown != 0 || r.Found[check.Recent] != 4 {
			t.Errorf("young objects: %+v", r)
		}
		cfg.OlderThan = 0
		r := run(t, cfg)
		if r.RemovedUnknown != 3 || r.Found[check.Unaccounted] != 1 || r.KeptUnknown != "" {
			t.Errorf("%+v", r)
		}
		wantTold(t, r, "unaccounted log/") // a log could be on its way without a key that was handed out
		if got, want := f.keys(t), append([]objstore.Key{log}, known...); !slices.Equal(got, want) {
			t.Errorf("left %v, want %v", got, want)
		}
		if r := run(t, f.config()); r.Uploads != 0 {
			t.Errorf("%d keys were left reserved", r.Uploads)
		}
	})
}

func TestUnknownObjectsStayWhereSomethingIsMissing(t *testing.T) {
	f := newFarm(t, mem.New())
	f.put(t, key("stray"), []byte("whose is this"))
	cfg := f.config()
	cfg.RemoveUnknown = true
	if r := run(t, cfg); r.KeptUnknown == "" || r.RemovedUnknown != 0 || len(f.keys(t)) != 1 {
		t.Errorf("with an empty catalogue: %+v", r)
	}
	f.some(t)
	f.delete(t, key("a"))
	if r := run(t, cfg); r.KeptUnknown == "" || r.RemovedUnknown != 0 || r.Found[check.Unaccounted] != 1 || len(f.keys(t)) != 3 {
		t.Errorf("with damage: %+v", r)
	}
}

// forgetful does not know a key when it is asked the first two times, as if it was published just after.
type forgetful struct {
	check.Catalogue
	publish func()
	of      objstore.Key
	asked   int
}

func (c *forgetful) Owner(ctx context.Context, k objstore.Key) (catalog.KeyState, error) {
	state, err := c.Catalogue.Owner(ctx, k)
	if k == c.of {
		if c.asked++; c.asked == 2 {
			c.publish()
		}
	}
	return state, err
}

func TestAnObjectThatIsPublishedJustBeforeItsRemovalStays(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	job := item(t, "d", "contents of d")
	body, err := job.Sources[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	f.put(t, key("d"), zstd(t, narOf(t, "contents of d")))
	cat := &forgetful{Catalogue: f.cat, publish: func() { f.publish(t, job) }, of: key("d")}
	cfg := f.config()
	cfg.Catalogue, cfg.RemoveUnknown = cat, true
	if r := run(t, cfg); cat.asked != 2 || r.RemovedUnknown != 0 {
		t.Fatalf("asked %d times, removed %d", cat.asked, r.RemovedUnknown)
	}
	r := run(t, f.config())
	if wantTold(t, r); r.Items != 4 || r.Expanded != 4 {
		t.Errorf("%+v", r)
	}
}

func TestOfTwoChecksOneRemoves(t *testing.T) {
	f := newFarm(t, mem.New())
	other, err := os.Create(f.lock)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cfg := f.config()
	run(t, cfg) // one that only looks is not held up
	cfg.RemoveAbandoned = true
	if _, err := check.Run(t.Context(), cfg); !errors.Is(err, check.ErrRemoving) {
		t.Errorf("error is %v", err)
	}
	other.Close()
	run(t, cfg)
	cfg.LockFile = ""
	if _, err := check.Run(t.Context(), cfg); err == nil {
		t.Error("removed without a lock")
	}
}

// Publishers and a check that removes everything it may, with no regard for age, go on at once. Whatever the order of their steps,
// what is published stays whole.
func TestRemovalBesidePublication(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		const rounds, items = 6, 12
		f.publish(t, item(t, "root", "root"))
		var publishers sync.WaitGroup
		for p := range 2 {
			publishers.Go(func() {
				for r := range rounds {
					var jobs []publish.Job
					for i := range items {
						name := fmt.Sprintf("item-%d-%d", r, i) // the same of both publishers
						if i%3 == p {
							name = fmt.Sprintf("own-%d-%d-%d", p, r, i)
						}
						jobs = append(jobs, item(t, name, name, "root"))
					}
					f.publish(t, jobs...)
				}
			})
		}
		done := make(chan struct{})
		go func() { defer close(done); publishers.Wait() }()
		removed, checks := int64(0), 0
		for ended := false; !ended; {
			select {
			case <-done:
				ended = true
			default:
			}
			cfg := f.config()
			cfg.Sample, cfg.RemoveAbandoned, cfg.RemoveUnknown = 0, true, true
			r := run(t, cfg)
			if r.Damage() > 0 {
				t.Fatalf("damage: %v", told(r))
			}
			removed += r.RemovedUploads + r.RemovedUnknown
			checks++
		}
		r := run(t, f.config())
		if wantTold(t, r); r.Expanded != r.Files || r.Uploads != 0 {
			t.Errorf("%+v", r)
		}
		t.Logf("%d items published, %d uploads and objects removed in %d checks", r.Items, removed, checks)
	})
}

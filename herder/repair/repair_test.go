package repair_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/herder/check"
	"narfold/herder/publish"
	"narfold/herder/repair"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// contents are such that levels of compression make different bytes of them.
var contents = strings.Repeat("a nar that every level of compression makes something else of, which differs now and then. ", 4000) +
	strings.Repeat("which differs now and then", 300)

func key(name string, m compress.Method, generation int) objstore.Key {
	return catalog.NarKey(m, catalogtest.Base(name), generation)
}

var zstd1 = key("a", compress.Zstd, 1)

func TestThePublishedBytesComeBackUnderTheirKey(t *testing.T) {
	for name, damage := range map[string]func(f *farm){
		"gone":    func(f *farm) { f.remove(zstd1) },
		"cut":     func(f *farm) { b := f.get(zstd1); f.spoil(zstd1, b[:len(b)-1]) },
		"flipped": func(f *farm) { b := f.get(zstd1); b[len(b)/2] ^= 1; f.spoil(zstd1, b) },
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(f *farm) {
				good := squeezed(f, compress.Zstd, compress.Fastest, narOf(f, contents))
				job := with(f.item("a", contents), compress.Zstd, good)
				f.publish(job, with(f.item("b", "sound"), compress.Gzip, squeezed(f, compress.Gzip, compress.Fastest, narOf(f, "sound"))))
				damage(f)
				r := f.found()
				begun := time.Now().Add(-time.Millisecond)
				m := f.mends(r, repair.Restored, job)
				if m.Key != zstd1 || m.NewKey != "" || m.Source != "there" || !bytes.Equal(f.get(zstd1), good) {
					t.Errorf("%+v", m)
				}
				it, err := f.cat.Item(t.Context(), catalogtest.Base("a").HashPart())
				if err != nil || it.Files[0].Verified.Before(begun) {
					t.Errorf("verified %v, %v", it.Files[0].Verified, err)
				}
				f.sound()
			})
		})
	}
}

func TestThePublishedBytesAreMadeAgain(t *testing.T) {
	eachStore(t, func(f *farm) {
		plain := narOf(f, contents)
		job := f.item("a", contents)
		job.Sources = []publish.Source{{Compression: compress.Xz, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(squeezed(t, compress.Xz, compress.Fastest, plain))), nil
		}}}
		f.publish(job)
		good := f.get(zstd1)
		f.remove(zstd1)
		// The source has zstd too, and other bytes of it.
		m := f.mends(f.found(), repair.Restored, with(f.item("a", contents), compress.Zstd, squeezed(f, compress.Zstd, compress.Best, plain)))
		if !bytes.Equal(f.get(zstd1), good) || m.NewKey != "" {
			t.Errorf("%+v", m)
		}
		f.sound()
		f.remove(zstd1)
		dumped := f.item("a", contents)
		dumped.Dump = func(_ context.Context, w io.Writer) error { _, err := w.Write(plain); return err }
		f.mends(f.found(), repair.Restored, dumped)
		f.sound()
	})
}

// lostBytes publishes an item whose bytes nobody can make again, spoils them, and returns a job that has the nar otherwise.
func (f *farm) lostBytes() publish.Job {
	f.Helper()
	plain := narOf(f, contents)
	// Two frames of zstd: what no encoder makes of one nar.
	f.publish(with(f.item("a", contents), compress.Zstd, append(squeezed(f, compress.Zstd, compress.Fastest, plain[:9000]), squeezed(f, compress.Zstd, compress.Fastest, plain[9000:])...)))
	f.spoil(zstd1, []byte("not what it was"))
	return with(f.item("a", contents), compress.Gzip, squeezed(f, compress.Gzip, compress.Fastest, plain))
}

func TestOtherBytesGetAKeyOfTheNextGeneration(t *testing.T) {
	eachStore(t, func(f *farm) {
		job := f.lostBytes()
		m := f.mends(f.found(), repair.Replaced, job)
		if m.NewKey != key("a", compress.Zstd, 2) || string(f.get(zstd1)) != "not what it was" {
			t.Errorf("%+v; under the old key lies %q", m, f.get(zstd1))
		}
		it, err := f.cat.Item(t.Context(), catalogtest.Base("a").HashPart())
		if err != nil || len(it.Files) != 1 || it.Files[0].Key != m.NewKey || it.Files[0].SHA256 != digest.Of(f.get(m.NewKey)) {
			t.Errorf("%+v, %v", it.Files, err)
		}
		f.sound()
		if r := f.check(func(c *check.Config) { c.RemoveAbandoned = true }); r.RemovedUploads != 1 || r.Objects != 1 {
			t.Errorf("removed %d uploads, and %d objects are left", r.RemovedUploads, r.Objects)
		}
		f.sound()
	})
}

func TestAKeyThatHoldsOtherBytesIsPassedOverAndOneThatHoldsTheseIsTaken(t *testing.T) {
	f := newFarm(t, mem.New())
	job := f.lostBytes()
	f.spoil(key("a", compress.Zstd, 2), []byte("of somebody else"))
	own := squeezed(t, compress.Zstd, compress.Default, narOf(t, contents))
	f.spoil(key("a", compress.Zstd, 3), own)
	r := repair.New(repair.Config{Catalogue: f.cat, Objects: f.store, Spool: t.TempDir()})
	if err := r.Examine(t.Context(), catalogtest.Base("a").HashPart()); err != nil {
		t.Fatal(err)
	}
	m := f.mends(r, repair.Replaced, job)
	if m.NewKey != key("a", compress.Zstd, 3) || string(f.get(key("a", compress.Zstd, 2))) != "of somebody else" {
		t.Errorf("%+v", m)
	}
}

func TestWhatHasTheNarByAnotherNameMendsItToo(t *testing.T) {
	f := newFarm(t, mem.New())
	good := squeezed(t, compress.Zstd, compress.Fastest, narOf(t, contents))
	f.publish(with(f.item("a", contents), compress.Zstd, good))
	f.publish(with(f.item("b", contents), compress.Zstd, good))
	f.remove(zstd1)
	r := f.found()
	if wanted := r.Wanted(); len(wanted) != 2 {
		t.Errorf("wanted %v", wanted)
	}
	f.mends(r, repair.Restored, with(f.item("b", contents), compress.Zstd, good))
	f.sound()
}

func TestASourceThatWillNotDoChangesNothing(t *testing.T) {
	f := newFarm(t, mem.New())
	good := squeezed(t, compress.Zstd, compress.Fastest, narOf(t, contents))
	f.publish(with(f.item("a", contents), compress.Zstd, good))
	f.remove(zstd1)
	forged := with(f.item("a", contents), compress.Zstd, squeezed(t, compress.Zstd, compress.Fastest, narOf(t, "something else")))
	torn := with(f.item("a", contents), compress.Zstd, good[:len(good)/2])
	broken := f.item("a", contents)
	broken.Sources = []publish.Source{{Compression: compress.Zstd, Keep: true, Open: func(context.Context) (io.ReadCloser, error) { return nil, errBroken }}}
	r := f.found()
	m := f.mends(r, repair.Damaged, forged, torn, broken, with(f.item("a", "rebuilt otherwise"), compress.Zstd, good), with(f.item("c", contents), compress.Zstd, good))
	why := strings.Join(m.Why, "\n")
	for _, want := range []string{"nar differs from its narinfo", "cannot be read from its source", errBroken.Error(), "it has another nar of "} {
		if !strings.Contains(why, want) {
			t.Errorf("%q is not in\n%s", want, why)
		}
	}
	if _, err := f.store.Stat(t.Context(), zstd1); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("there is an object: %v", err)
	}
	var list *repair.SourceError
	err := r.From(t.Context(), "elsewhere", func(yield func(publish.Job, error) bool) { yield(publish.Job{}, errBroken) })
	if !errors.As(err, &list) || !errors.Is(err, errBroken) {
		t.Errorf("error is %v", err)
	}
	f.mends(r, repair.Restored, with(f.item("a", contents), compress.Zstd, good))
}

func TestWhatIsSoundIsNotTouched(t *testing.T) {
	f := newFarm(t, mem.New())
	good := squeezed(t, compress.Zstd, compress.Fastest, narOf(t, contents))
	job := with(f.item("a", contents), compress.Zstd, good)
	f.publish(job)
	f.remove(zstd1)
	same, otherwise := f.found(), f.found()
	f.spoil(zstd1, good) // an operator was faster
	before, err := f.store.Stat(t.Context(), zstd1)
	if err != nil {
		t.Fatal(err)
	}
	f.mends(same, repair.Whole, job)
	f.mends(otherwise, repair.Whole, with(f.item("a", contents), compress.Gzip, squeezed(t, compress.Gzip, compress.Fastest, narOf(t, contents))))
	if after, err := f.store.Stat(t.Context(), zstd1); err != nil || after.ETag != before.ETag {
		t.Errorf("it was put again: %v", err)
	}
	f.sound()
}

func TestADryRunTellsAndChangesNothing(t *testing.T) {
	f := newFarm(t, mem.New())
	good := squeezed(t, compress.Zstd, compress.Fastest, narOf(t, contents))
	job := with(f.item("a", contents), compress.Zstd, good)
	f.publish(job)
	f.remove(zstd1)
	r := f.found()
	r.DryRun = true
	f.mends(r, repair.Mendable, job)
	if _, err := f.store.Stat(t.Context(), zstd1); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("there is an object: %v", err)
	}
}

// TestRepairsAtOnce lets several repair the same damage, of one file whose bytes come back and one whose do not.
func TestRepairsAtOnce(t *testing.T) {
	eachStore(t, func(f *farm) {
		other := f.lostBytes()
		good := squeezed(f, compress.Zstd, compress.Fastest, narOf(f, "b"))
		same := with(f.item("b", "b"), compress.Zstd, good)
		f.publish(same)
		f.remove(key("b", compress.Zstd, 1))
		var repairers [4]*repair.Repairer
		for i := range repairers {
			repairers[i] = f.found()
		}
		var wg sync.WaitGroup
		for _, r := range repairers {
			wg.Go(func() {
				if err := r.From(t.Context(), "there", list(other, same)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		results := make(map[repair.Result]int)
		for _, r := range repairers {
			for _, m := range r.Mendings() {
				results[m.Result]++
			}
		}
		if results[repair.Replaced] != 1 || results[repair.Restored] < 1 || results[repair.Damaged] != 0 {
			t.Errorf("results: %v", results)
		}
		f.sound()
	})
}

// TestWhatASignatureCoversIsNotChanged plants an item as Guix wrote them until 2022, whose signature covers URL and FileSize.
func TestWhatASignatureCoversIsNotChanged(t *testing.T) {
	f := newFarm(t, mem.New())
	plain := narOf(t, contents)
	good := squeezed(t, compress.Zstd, compress.Fastest, plain)
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base("a")}, NarHash: digest.Of(plain), NarSize: int64(len(plain)),
		Files: []narinfo.File{{URL: narinfo.NarURL(compress.Zstd, catalogtest.Base("a")), Compression: compress.Zstd, FileSize: int64(len(good))}}}
	p := catalog.Publication{By: "test"}
	p.Path, p.NarHash, p.NarSize = n.StorePath, n.NarHash, n.NarSize
	p.Narinfo = append(narinfo.Guix(n), "Signature: 1;guix.example;c2lnbmF0dXJl\n"...)
	p.Files = []catalog.File{{Compression: compress.Zstd, Key: zstd1, Size: int64(len(good)), SHA256: digest.Of(good)}}
	if parsed, err := narinfo.Parse(p.Narinfo); err != nil || !parsed.FilesAreSigned() {
		t.Fatal("the narinfo is not what this is about", err)
	}
	catalogtest.Reserve(t, f.cat, p)
	if _, err := f.cat.Publish(t.Context(), []catalog.Publication{p}); err != nil {
		t.Fatal(err)
	}
	r := f.found()
	m := f.mends(r, repair.Damaged, with(f.item("a", contents), compress.Gzip, squeezed(t, compress.Gzip, compress.Fastest, plain)))
	if len(m.Why) != 1 || !strings.Contains(m.Why[0], "the signature of /nix/store/") {
		t.Errorf("%+v", m)
	}
	f.mends(r, repair.Restored, with(f.item("a", contents), compress.Zstd, good))
	f.sound()
}

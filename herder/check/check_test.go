package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"narfold/herder/check"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

func TestWhatIsSoundIsFoundSoundAndNotedAsVerified(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		f.some(t)
		before := time.Now().Add(-time.Millisecond)
		cfg := f.config()
		var progress int64
		cfg.Workers = 1
		cfg.Expanded = func(n int64) { progress += n }
		r := run(t, cfg)
		wantTold(t, r)
		if r.Items != 3 || r.Files != 3 || r.Objects != 3 || r.Expanded != 3 || r.FileBytes != r.ObjectBytes || r.ExpandedBytes != r.FileBytes || progress != r.FileBytes {
			t.Errorf("%+v, progress %d", r, progress)
		}
		for file, err := range f.cat.Keys(t.Context()) {
			if err != nil || file.Verified.Before(before) {
				t.Errorf("%s verified at %v, %v", file.Key, file.Verified, err)
			}
		}
	})
}

// The object as it is, and what is done to it.
var damages = map[string]struct {
	damage func(t *testing.T, f *farm)
	deep   bool // it shows only when the object is read
	want   string
}{
	"an object is gone": {func(t *testing.T, f *farm) { f.delete(t, key("a")) }, false,
		"missing a;1: the object is not in the store | a <- 2: b c"},
	"an object is cut": {func(t *testing.T, f *farm) { b := f.get(t, key("b")); f.put(t, key("b"), b[:len(b)-1]) }, false,
		"size b;1: the object has"},
	"an object is empty": {func(t *testing.T, f *farm) { f.put(t, key("c"), nil) }, false,
		"size c;1: the object has 0 bytes, and "},
	"a byte is flipped": {func(t *testing.T, f *farm) { b := f.get(t, key("b")); b[len(b)/2] ^= 1; f.put(t, key("b"), b) }, true,
		"corrupt b;1: its bytes have changed: they hash to sha256:"},
	"the first byte is flipped": {func(t *testing.T, f *farm) { b := f.get(t, key("a")); b[0] ^= 1; f.put(t, key("a"), b) }, true,
		"corrupt a;1: its bytes have changed: they hash to sha256:"},
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(t *testing.T, f *farm) {
				f.some(t)
				d.damage(t, f)
				r := run(t, f.config())
				wantTold(t, r, d.want)
				found := r.Findings[0]
				if r.Damage() != 1 || found.Size == 0 || found.SHA256.IsZero() || len(found.Items) != 1 || r.Expanded != 2 {
					t.Errorf("%d damaged, %d expanded: %+v", r.Damage(), r.Expanded, found)
				}
				shallow := f.config()
				shallow.Sample = 0
				if r := run(t, shallow); (r.Damage() == 0) != d.deep {
					t.Errorf("without reading: %v", told(r))
				}
			})
		})
	}
}

// planted publishes bytes that nobody has checked, as a faulty publisher would.
func (f *farm) planted(t *testing.T, name string, object []byte, plain []byte) {
	t.Helper()
	p := catalog.Publication{By: "test"}
	p.Path, p.NarHash, p.NarSize = storepath.Path{Dir: storepath.Nix, Base: base(name)}, digest.Of(plain), int64(len(plain))
	p.Narinfo = narinfo.Nix(&narinfo.Narinfo{StorePath: p.Path, NarHash: p.NarHash, NarSize: p.NarSize, Files: []narinfo.File{{URL: "nar/x", Compression: compress.Zstd, FileSize: narinfo.UnknownSize}}})
	p.Files = []catalog.File{{Compression: compress.Zstd, Key: key(name), Size: int64(len(object)), SHA256: digest.Of(object), Verified: time.Now()}}
	f.reserve(t, name)
	f.put(t, key(name), object)
	if _, err := f.cat.Publish(t.Context(), []catalog.Publication{p}); err != nil {
		t.Fatal(err)
	}
}

func TestObjectsThatWereNeverRightAreToldFromThoseThatChanged(t *testing.T) {
	f := newFarm(t, mem.New())
	f.planted(t, "garbage", []byte("this is not zstd"), narOf(t, "x"))
	f.planted(t, "other", zstd(t, narOf(t, "other")), narOf(t, "x y"))
	cfg := f.config()
	cfg.Workers = 1
	wantTold(t, run(t, cfg),
		"corrupt garbage;1: its bytes are those that were published, but do not expand to a nar: ",
		"corrupt other;1: its bytes are those that were published, but expand to another nar: ")
}

func TestDamageOfANarThatItemsShareNamesThemAll(t *testing.T) {
	f := newFarm(t, mem.New())
	f.publish(t, item(t, "one", "same"), item(t, "two", "same"), item(t, "user", "u", "one", "two"))
	r := run(t, f.config())
	if wantTold(t, r); r.Files != 2 || r.Expanded != 2 {
		t.Fatalf("%d files of 3 items, %d expanded", r.Files, r.Expanded)
	}
	for k := range map[string]bool{"one": true, "two": true} {
		if _, err := f.store.Stat(t.Context(), key(k)); err == nil {
			b := f.get(t, key(k))
			b[len(b)-1] ^= 1
			f.put(t, key(k), b)
		}
	}
	r = run(t, f.config())
	if got := told(r); r.Damage() != 1 || !strings.HasSuffix(got[0], "| one two <- 2: user user") {
		t.Errorf("found %v", got)
	}
}

// openCatalogue says that an item is not published.
type openCatalogue struct {
	check.Catalogue
	without storepath.HashPart
}

func (c openCatalogue) Missing(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	for _, h := range hs {
		if h == c.without {
			missing = append(missing, h)
		}
	}
	return missing, nil
}

func (c openCatalogue) Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error] {
	return func(yield func(catalog.Item, error) bool) {
		for it, err := range c.Catalogue.Items(ctx, after) {
			if it.Path.HashPart() != c.without && !yield(it, err) {
				return
			}
		}
	}
}

func TestAnOpenClosureIsDamage(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	cfg := f.config()
	cfg.Catalogue = openCatalogue{f.cat, base("b").HashPart()}
	r := run(t, cfg)
	wantTold(t, r, "open : 1 of its references are not published | c")
	if refs := r.Findings[0].References; r.Damage() != 1 || len(refs) != 1 || refs[0] != base("b") {
		t.Errorf("%d damaged, references %v", r.Damage(), refs)
	}
}

func TestEveryObjectIsAccountedFor(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		f.some(t)
		f.reserve(t, "upload", "bare") // one with and one without an object
		f.put(t, key("upload"), []byte("half a nar"))
		if err := f.cat.AddLog(t.Context(), base("x.drv"), catalog.LogKey(base("x.drv"))); err != nil {
			t.Fatal(err)
		}
		f.put(t, catalog.LogKey(base("x.drv")), []byte("log"))
		f.put(t, key("stray"), []byte("whose is this"))
		f.put(t, "index.html", []byte("hello"))
		cfg := f.config()
		r := run(t, cfg)
		wantTold(t, r, "unaccounted index.html: the catalogue does not know", "unaccounted stray;1: the catalogue does not know")
		if r.Objects != 7 || r.Files != 3 || r.Logs != 1 || r.Uploads != 2 || r.UploadObjects != 1 || r.UploadBytes != 10 || r.Damage() != 0 {
			t.Errorf("%+v", r)
		}
		cfg.OlderThan = time.Hour
		wantTold(t, run(t, cfg), "recent index.html: ", "recent stray;1: ")
		if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), `"unaccounted":2`) || strings.Contains(string(b), "sha256") {
			t.Errorf("%s, %v", b, err)
		}
	})
}

func TestWaitingItemsAreToldAndTheirObjectsAreNeeded(t *testing.T) {
	f := newFarm(t, mem.New())
	late := item(t, "late", "late", "dep")
	late.Wait = true
	f.publish(t, late)
	r := run(t, f.config())
	wantTold(t, r)
	if r.Waiting != 1 || r.WaitingItems[0].Item != path("late") || r.WaitingItems[0].Missing[0] != base("dep").HashPart() || r.Uploads != 1 || r.UploadsAwaited != 1 {
		t.Errorf("%+v", r)
	}
	f.delete(t, key("late"))
	wantTold(t, run(t, f.config()), "missing late;1: the object is not in the store, and "+string(base("late"))+", which waits")
}

func TestDifferencesAreTold(t *testing.T) {
	f := newFarm(t, mem.New())
	f.publish(t, item(t, "a", "one"))
	two := item(t, "a", "two")
	two.By = "second farm"
	if r, err := f.publisher.One(t.Context(), two); err != nil || r.Verdict != catalog.Differs {
		t.Fatal(r, err)
	}
	r := run(t, f.config())
	if r.Differs != 1 || r.Differences[0].Item != path("a") || r.Differences[0].Published != digest.Of(narOf(t, "one")) || r.Differences[0].Other != digest.Of(narOf(t, "two")) {
		t.Errorf("%+v", r.Differences)
	}
}

func TestWhatOneSideMissedIsAskedAboutAgain(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	cfg := f.config()
	cfg.Objects = staleLister{f.store, func(k objstore.Key) bool { return k == key("b") }}
	wantTold(t, run(t, cfg)) // an object that was put after the listing had passed
	cfg = f.config()
	cfg.Catalogue = staleKeys{f.cat, key("c")}
	r := run(t, cfg) // an item that was published after the walk had passed
	if wantTold(t, r); r.Files != 3 {
		t.Errorf("%d files", r.Files)
	}
}

// staleKeys hides a file, as a walk that passed before it was published.
type staleKeys struct {
	check.Catalogue
	hidden objstore.Key
}

func (c staleKeys) Keys(ctx context.Context) iter.Seq2[catalog.File, error] {
	return func(yield func(catalog.File, error) bool) {
		for file, err := range c.Catalogue.Keys(ctx) {
			if file.Key != c.hidden && !yield(file, err) {
				return
			}
		}
	}
}

func TestAListingOutOfOrderEndsTheCheck(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	cfg := f.config()
	cfg.Objects = backwards{f.store}
	r, err := check.Run(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "out of order") || len(r.Findings) != 0 || r.Incomplete != err.Error() {
		t.Errorf("%v, found %v", err, told(r))
	}
}

type backwards struct{ objstore.Store }

func (b backwards) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for range 2 {
			for i, err := range b.Store.List(ctx, prefix) {
				if !yield(i, err) {
					return
				}
			}
		}
	}
}

func TestAReadThatWasGarbledOnceIsNoDamage(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	cfg := f.config()
	cfg.Workers = 1
	reads := 0
	cfg.Objects = readingStore{f.store, func(k objstore.Key, o objstore.Object) (objstore.Object, error) {
		if reads++; reads == 1 {
			o.ReadCloser = io.NopCloser(bytes.NewReader(make([]byte, o.Info.Size)))
		}
		return o, nil
	}}
	if r := run(t, cfg); reads != 4 || r.Expanded != 3 || len(r.Findings) != 0 {
		t.Errorf("%d reads, found %v", reads, told(r))
	}
}

func TestAnObjectThatCannotBeReadIsNoDamage(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	cfg := f.config()
	cfg.Objects = readingStore{f.store, func(k objstore.Key, o objstore.Object) (objstore.Object, error) {
		if k == key("b") {
			o.ReadCloser = io.NopCloser(io.MultiReader(io.LimitReader(o, 10), failing{}))
		}
		return o, nil
	}}
	r := run(t, cfg)
	wantTold(t, r, "unreadable b;1: read b: object store unavailable | b <- 1: c")
	if r.Damage() != 0 || r.Expanded != 2 {
		t.Errorf("%d damaged, %d expanded", r.Damage(), r.Expanded)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, fmt.Errorf("read b: %w", objstore.ErrUnavailable) }

func TestAStoreThatIsGoneEndsTheCheck(t *testing.T) {
	f := newFarm(t, mem.New())
	for i := range 30 {
		f.publish(t, item(t, fmt.Sprint("item-", i), fmt.Sprint(i)))
	}
	cfg := f.config()
	read := 0
	cfg.Workers = 1
	cfg.Objects = readingStore{f.store, func(k objstore.Key, o objstore.Object) (objstore.Object, error) {
		if read++; read > 5 {
			return objstore.Object{}, failing{}.err()
		}
		return o, nil
	}}
	r, err := check.Run(t.Context(), cfg)
	if !errors.Is(err, objstore.ErrUnavailable) || r.Damage() != 0 || r.Expanded != 5 {
		t.Errorf("%v, %d damaged, %d expanded", err, r.Damage(), r.Expanded)
	}
	verified := 0
	for file, err := range f.cat.Keys(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(file.Verified) < time.Minute {
			verified++
		}
	}
	if verified < 5 {
		t.Errorf("%d files are noted as verified", verified)
	}
}

func (failing) err() error { _, err := failing{}.Read(nil); return err }

func TestASampleIsAPartOfTheFiles(t *testing.T) {
	f := newFarm(t, mem.New())
	for i := range 200 {
		name := fmt.Sprint("item-", i)
		f.planted(t, name, zstd(t, narOf(t, name)), narOf(t, name))
	}
	cfg := f.config()
	cfg.Sample = 0.25
	// 200 files with chance 1/4: outside these bounds once in more than a million runs (the binomial distribution).
	if r := run(t, cfg); r.Expanded < 20 || r.Expanded > 82 {
		t.Errorf("%d of 200 files were expanded", r.Expanded)
	}
}

func TestDetailIsBoundedAndNumbersAreNot(t *testing.T) {
	f := newFarm(t, mem.New())
	for i := range 30 {
		f.put(t, objstore.Key(fmt.Sprint("stray-", i)), nil)
	}
	cfg := f.config()
	cfg.Findings = 10
	if r := run(t, cfg); len(r.Findings) != 10 || r.Found[check.Unaccounted] != 30 {
		t.Errorf("%d told of %d", len(r.Findings), r.Found[check.Unaccounted])
	}
}

func TestACheckThatIsStoppedSaysWhy(t *testing.T) {
	f := newFarm(t, mem.New())
	f.some(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cfg := f.config()
	cfg.Workers = 1
	cfg.Expanded = func(int64) { cancel(errors.New("the operator pressed control-C")) }
	r, err := check.Run(ctx, cfg)
	if err == nil || !strings.Contains(err.Error(), "control-C") || r.Expanded != 1 || r.Damage() != 0 {
		t.Errorf("%v, %d expanded, found %v", err, r.Expanded, told(r))
	}
}

package rebuild_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narfold/herder/feedserver"
	"narfold/herder/rebuild"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/nixkey"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// herder is a catalogue with a feed whose copies are in a store.
type herder struct {
	t     *testing.T
	cat   *sqlite.DB
	key   *nixkey.Secret
	store *mem.Store
}

func newHerder(t *testing.T) *herder {
	t.Helper()
	key, err := nixkey.Generate("farm.example-feed-1", rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	return &herder{t, opened(t, filepath.Join(t.TempDir(), "catalogue.db")), key, mem.New()}
}

func opened(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func (h *herder) publish(ps ...catalog.Publication) {
	h.t.Helper()
	catalogtest.Reserve(h.t, h.cat, ps...)
	if _, err := h.cat.Publish(h.t.Context(), ps); err != nil {
		h.t.Fatal(err)
	}
}

// tell runs the server of the feed until its copies say all that there is to say.
func (h *herder) tell(c feedserver.Catalogue) {
	h.t.Helper()
	s, err := feedserver.New(c, h.store, h.key, rand.NewChaCha8([32]byte{2}), slog.New(slog.NewTextHandler(h.t.Output(), nil)))
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	cancel() // it makes the last copy all the same
	if err := s.Run(ctx); err != nil {
		h.t.Fatal(err)
	}
}

func (h *herder) rebuild() (*sqlite.DB, rebuild.Report, error) {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "rebuilt.db")
	r, err := rebuild.Run(h.t.Context(), h.store, h.key.Public(), path, func(int64, int64) {})
	if err != nil {
		return nil, r, err
	}
	return opened(h.t, path), r, nil
}

// items are all items as a reader sees them, but for what a feed does not tell.
func items(t *testing.T, c catalog.Reader) (all []string) {
	t.Helper()
	for it, err := range c.Items(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		it.Sequence = 0
		for i := range it.Files {
			it.Files[i].Verified = time.Time{}
		}
		all = append(all, fmt.Sprintf("%+v", it))
	}
	return all
}

// some publishes more than two segments, with a nar in two compressions, one replaced, and items in a chain.
func (h *herder) some() {
	h.t.Helper()
	a := catalogtest.Item("a")
	h.publish(a)
	a.Files = append(a.Files, catalogtest.File("a", compress.Lzip))
	h.publish(a)
	var ps []catalog.Publication
	for i := range 2100 {
		var refs []string
		if i > 0 {
			refs = []string{fmt.Sprint("item-", i-1), "a"}
		}
		ps = append(ps, catalogtest.Item(fmt.Sprint("item-", i), refs...))
	}
	h.publish(ps...)
	want := catalog.Want{Base: ps[7].Path.Base, Compression: compress.Zstd}
	keys, err := h.cat.Reserve(h.t.Context(), []catalog.Want{want})
	if err != nil {
		h.t.Fatal(err)
	}
	f := ps[7].Files[0]
	old := f.Key
	f.Key, f.Size, f.SHA256 = keys[0], 12345, digest.Of([]byte("another"))
	if err := h.cat.Replace(h.t.Context(), old, f); err != nil {
		h.t.Fatal(err)
	}
}

func TestWhatIsRebuiltIsWhatWasThere(t *testing.T) {
	h := newHerder(t)
	h.some()
	log := catalog.LogKey(catalogtest.Base("x.drv"))
	if _, err := h.store.Put(t.Context(), log, objstore.Bytes([]byte("log")), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	h.tell(h.cat)
	again, r, err := h.rebuild()
	if err != nil {
		t.Fatal(err)
	}
	if r.Items != 2101 || r.Records != 2103 || r.Logs != 1 {
		t.Errorf("%+v", r)
	}
	was, is := items(t, h.cat), items(t, again)
	if len(was) != len(is) {
		t.Fatalf("%d items of %d", len(is), len(was))
	}
	for i := range was {
		if was[i] != is[i] {
			t.Fatalf("item %d:\nwas %s\n is %s", i, was[i], is[i])
		}
	}
	if k, err := again.Log(t.Context(), catalogtest.Base("x.drv")); k != log || err != nil {
		t.Errorf("log: %s, %v", k, err)
	}
	// The feed is the same, and what is published now continues it.
	first, err := h.cat.FeedOrigin(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.FeedOrigin(t.Context(), "another"); second != first || err != nil {
		t.Errorf("feed %q, want %q: %v", second, first, err)
	}
	wasLast, wasTail, _ := h.cat.FeedTail(t.Context())
	isLast, isTail, err := again.FeedTail(t.Context())
	if fmt.Sprint(wasLast) != fmt.Sprint(isLast) || fmt.Sprint(wasTail) != fmt.Sprint(isTail) || err != nil || isLast.Number != 2 {
		t.Errorf("its end: %+v and %d lines, want %+v and %d: %v", isLast, len(isTail), wasLast, len(wasTail), err)
	}
	h.cat = again
	h.publish(catalogtest.Item("more", "a", "item-2099"))
	h.tell(h.cat)
	third, r, err := h.rebuild()
	if err != nil || r.Records != 2104 || len(items(t, third)) != 2102 {
		t.Errorf("rebuilt once more: %+v, %v", r, err)
	}
}

func TestWhatWasWithdrawnIsNotRebuilt(t *testing.T) {
	h := newHerder(t)
	h.publish(catalogtest.Item("a"), catalogtest.Item("b", "a"), catalogtest.Item("c", "a"), catalogtest.Item("d"), catalogtest.Item("e", "d"))
	withdraw := func(names ...string) (sequences []int64) {
		t.Helper()
		var hs []storepath.HashPart
		for _, n := range names {
			hs = append(hs, catalogtest.Base(n).HashPart())
		}
		out, err := h.cat.Withdraw(t.Context(), catalog.Withdrawal{Items: hs})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			sequences = append(sequences, o.Sequence)
		}
		return sequences
	}
	withdraw("a", "b", "c")
	if _, err := h.cat.Restore(t.Context(), []storepath.HashPart{catalogtest.Base("a").HashPart(), catalogtest.Base("b").HashPart()}); err != nil {
		t.Fatal(err)
	}
	gone := withdraw("d", "e")
	if _, err := h.cat.BeginDelete(t.Context(), gone, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	d := catalogtest.Item("d")
	keys, err := h.cat.Reserve(t.Context(), []catalog.Want{{Base: d.Path.Base, Compression: compress.Zstd}})
	if err != nil {
		t.Fatal(err)
	}
	d.Files[0].Key = keys[0] // another life has other objects
	if _, err := h.cat.Publish(t.Context(), []catalog.Publication{d}); err != nil {
		t.Fatal(err)
	}
	h.tell(h.cat)
	again, r, err := h.rebuild()
	if err != nil || r.Items != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	was, is := items(t, h.cat), items(t, again)
	if fmt.Sprint(was) != fmt.Sprint(is) {
		t.Errorf("was %s\n is %s", was, is)
	}
}

func TestEveryChangeOfTheCopiesIsFound(t *testing.T) {
	h := newHerder(t)
	h.some()
	h.tell(h.cat)
	for _, k := range []objstore.Key{feedserver.CopiedHead, feedserver.CopiedTail, feedserver.SegmentKey(1), feedserver.SegmentKey(2)} {
		whole := h.read(k)
		put := func(b []byte) {
			t.Helper()
			if _, err := h.store.Put(t.Context(), k, objstore.Bytes(b), objstore.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		r := rand.New(rand.NewPCG(3, uint64(len(k))))
		for range 6 {
			changed := bytes.Clone(whole)
			at := r.IntN(len(changed))
			changed[at] ^= 1 << r.IntN(8)
			put(changed)
			if _, _, err := h.rebuild(); err == nil {
				t.Errorf("byte %d of %s is changed, and it is rebuilt", at, k)
			}
		}
		put(whole[:len(whole)/2])
		if _, _, err := h.rebuild(); err == nil {
			t.Errorf("half of %s is enough", k)
		}
		if err := h.store.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.rebuild(); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("without %s: %v", k, err)
		}
		put(whole)
	}
	if _, _, err := h.rebuild(); err != nil {
		t.Error(err)
	}
}

func (h *herder) read(k objstore.Key) []byte {
	h.t.Helper()
	o, err := h.store.Get(h.t.Context(), k, objstore.Range{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// The head is written last. Whatever lies before it when a herder is killed in between is enough for the head of before, or for that of
// the last segment, which is put before the segment.
func TestCopiesThatWereInterruptedAreRebuiltUpToTheirHead(t *testing.T) {
	h := newHerder(t)
	h.publish(catalogtest.Item("a"))
	h.tell(h.cat)
	head := h.read(feedserver.CopiedHead)
	h.some()
	h.tell(h.cat)
	if _, err := h.store.Put(t.Context(), feedserver.CopiedHead, objstore.Bytes(head), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	gone := func(keys ...objstore.Key) {
		t.Helper()
		for _, k := range keys {
			if err := h.store.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(what string, records int64, found, segment, lines int) *sqlite.DB {
		t.Helper()
		again, r, err := h.rebuild()
		if err != nil || r.Records != records || len(items(t, again)) != found {
			t.Fatalf("%s: %+v, %v", what, r, err)
		}
		if last, tail, err := again.FeedTail(t.Context()); last.Number != int64(segment) || len(tail) != lines || err != nil {
			t.Errorf("%s: its feed has %d segments and %d lines, %v", what, last.Number, len(tail), err)
		}
		return again
	}
	again := check("killed before the head was copied", 2000, 1999, 2, 0)
	h2 := *h
	h2.cat = again
	h2.publish(catalogtest.Item("more", "a"))
	h2.tell(again)
	check("gone on from there", 2001, 2000, 2, 1)

	if _, err := h.store.Put(t.Context(), feedserver.CopiedHead, objstore.Bytes(head), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	gone(feedserver.SegmentKey(2))
	check("killed before the second segment was put", 1000, 999, 1, 0)
	sealed := h.read(feedserver.SealKey(1))
	sealed[len(sealed)/2] ^= 1
	if _, err := h.store.Put(t.Context(), feedserver.SealKey(1), objstore.Bytes(sealed), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.rebuild(); err == nil {
		t.Error("a head that was changed is believed")
	}
	gone(feedserver.SealKey(1), feedserver.SealKey(2), feedserver.CopiedHead)
	if _, _, err := h.rebuild(); !errors.Is(err, rebuild.ErrNoFeed) {
		t.Errorf("without any head: %v", err)
	}
}

func TestACatalogueThatWentBackDoesNotOverwriteTheFeed(t *testing.T) {
	h := newHerder(t)
	h.some()
	h.tell(h.cat)
	segment := h.read(feedserver.SegmentKey(2))
	tail := h.read(feedserver.CopiedTail)
	// As after a restore of an old backup: the same feed by name, with other records from some point on.
	origin, err := h.cat.FeedOrigin(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	back := newHerder(t)
	back.store = h.store
	if _, err := back.cat.FeedOrigin(t.Context(), origin); err != nil {
		t.Fatal(err)
	}
	var ps []catalog.Publication
	for i := range 2*feed.SegmentRecords + 5 {
		ps = append(ps, catalogtest.Item(fmt.Sprint("other-", i)))
	}
	back.publish(ps...)
	back.tell(back.cat)
	if !bytes.Equal(h.read(feedserver.SegmentKey(2)), segment) || !bytes.Equal(h.read(feedserver.CopiedTail), tail) {
		t.Error("the copies of the other feed are overwritten")
	}
	if !strings.Contains(string(h.read(feedserver.CopiedHead)), origin) {
		t.Error("the head is of another feed")
	}
}

package feedserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/feed"
	"narfold/internal/nixkey"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/objstore/objstoretest"
)

// shop is a catalogue with some items and a store, whose feed a test moves on step by step.
type shop struct {
	*testing.T
	cat   *sqlite.DB
	store *mem.Store
	key   *nixkey.Secret
	path  string // of the catalogue
}

func newShop(t *testing.T, items int) *shop {
	t.Helper()
	key, err := nixkey.Generate("farm.example-feed-1", rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "catalogue.db")
	c, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &shop{t, c, mem.New(), key, path}
	s.publish("item", items)
	return s
}

func (s *shop) publish(prefix string, n int) {
	s.Helper()
	b := &bench{t: s.T, catalogue: s.cat}
	b.many(prefix, n)
}

// herder is one that knows nothing yet, as after a crash.
func (s *shop) herder(c Catalogue, store Store) *Server {
	s.Helper()
	h, err := New(c, store, s.key, rand.NewChaCha8([32]byte{2}), slog.New(slog.DiscardHandler))
	if err != nil {
		s.Fatal(err)
	}
	return h
}

// round is what Run does over and over.
func round(ctx context.Context, h *Server, seen *int64) error {
	h.copies.since = h.copies.since.Add(-copyEvery)
	return errors.Join(h.follow(ctx, seen), h.copy(ctx, h.copies.since.Add(2*copyEvery)))
}

// whole checks that the feed is sealed as far as it can be and that what the store has is the feed.
func (s *shop) whole(what string, records int64) {
	s.Helper()
	whole(s.T, s.cat, s.store, s.key, what, records)
}

func whole(t *testing.T, cat catalog.Feed, store Store, key *nixkey.Secret, what string, records int64) {
	t.Helper()
	last, tail, err := cat.FeedTail(t.Context())
	if err != nil || last.Last+int64(len(tail)) != records || len(tail) >= feed.SegmentRecords {
		t.Fatalf("%s: %d segments and %d lines: %v", what, last.Number, len(tail), err)
	}
	origin, err := cat.FeedOrigin(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	at := feed.Begin(origin)
	for f, err := range cat.FeedSegments(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		text, err := ReadSegment(t.Context(), store, f)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		st, _, err := feed.ParseStretch(text)
		if err == nil {
			at, err = at.Follow(origin, st)
		}
		if err != nil || at != (feed.Point{Sequence: f.Last, Chain: f.Chain}) {
			t.Fatalf("%s: segment %d: %v", what, f.Number, err)
		}
		sealed, err := readSmall(t.Context(), store, SealKey(f.Number))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if h, err := feed.ParseHead(sealed, key.Public()); err != nil || h.Point != at || h.Origin != origin {
			t.Fatalf("%s: head of segment %d: %+v, %v", what, f.Number, h, err)
		}
	}
	if last, err := lastNumber(t.Context(), store, segmentPrefix); err != nil || last != records/feed.SegmentRecords {
		t.Fatalf("%s: the last segment in the store is %d, %v", what, last, err)
	}
}

// again returns shops whose catalogues are copies of one.
func again(t *testing.T, items int) func() *shop {
	t.Helper()
	first := newShop(t, items)
	path := filepath.Join(t.TempDir(), "first.db")
	if _, err := sqlite.Backup(t.Context(), first.path, path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func() *shop {
		t.Helper()
		path := filepath.Join(t.TempDir(), "catalogue.db")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &shop{t, c, mem.New(), first.key, path}
	}
}

// Each call to the object store in turn fails, and has been carried out or has not, and then the herder goes on or is started anew.
func TestAFaultOfTheStoreAtAnyPointOfSealingIsHarmless(t *testing.T) {
	shop := again(t, 1010)
	for _, outcome := range []objstoretest.Outcome{objstoretest.NotDone, objstoretest.Done, objstoretest.BreaksLate} {
		for _, crash := range []bool{false, true} {
			for n, hit := 0, true; hit; n++ {
				s := shop()
				hit = false
				store := objstoretest.Faulty(s.store, func(c objstoretest.Call) objstoretest.Fault {
					if c.N != n {
						return objstoretest.Fault{}
					}
					hit = true
					return objstoretest.Fault{Outcome: outcome, After: 100}
				})
				h, seen := s.herder(s.cat, store), int64(-1)
				err := round(t.Context(), h, &seen)
				for tries := 0; err != nil && tries < 2; tries++ {
					if !errors.Is(err, objstoretest.ErrInjected) {
						t.Fatalf("after call %d had failed: %v", n, err)
					}
					if crash {
						h, seen = s.herder(s.cat, store), -1
					}
					err = round(t.Context(), h, &seen)
				}
				if err != nil {
					t.Fatalf("long after call %d had failed: %v", n, err)
				}
				s.whole(fmt.Sprintf("outcome %d of call %d, crash %v", outcome, n, crash), 1010)
			}
		}
	}
}

// failing is a catalogue that fails once, before or after it did what it was told.
type failing struct {
	*sqlite.DB
	done bool
	left int
}

var errInjected = errors.New("injected")

func (f *failing) fail(do func() error) error {
	if f.left--; f.left != 0 {
		return do()
	}
	if f.done {
		if err := do(); err != nil {
			return err
		}
	}
	return errInjected
}

func (f *failing) AppendFeed(ctx context.Context, lines []catalog.FeedLine) error {
	return f.fail(func() error { return f.DB.AppendFeed(ctx, lines) })
}

func (f *failing) SealFeed(ctx context.Context, segments ...catalog.FeedSegment) error {
	return f.fail(func() error { return f.DB.SealFeed(ctx, segments...) })
}

func TestAFaultOfTheCatalogueAtAnyPointOfSealingIsHarmless(t *testing.T) {
	shop := again(t, 2050)
	for _, done := range []bool{false, true} {
		for n := 1; n <= 2; n++ {
			for _, crash := range []bool{false, true} {
				s := shop()
				c := &failing{s.cat, done, n}
				h, seen := s.herder(c, s.store), int64(-1)
				if err := round(t.Context(), h, &seen); !errors.Is(err, errInjected) {
					t.Errorf("call %d, done %v: %v", n, done, err)
				}
				if crash {
					h, seen = s.herder(c, s.store), -1
				}
				if err := round(t.Context(), h, &seen); err != nil {
					t.Fatalf("call %d, done %v: %v", n, done, err)
				}
				s.whole(fmt.Sprintf("call %d, done %v, crash %v", n, done, crash), 2050)
			}
		}
	}
}

// Two herders of one catalogue and one store, whose calls fail at random, are started anew at random.
func TestTwoHerdersThatFailAtRandomTellOneFeed(t *testing.T) {
	s := newShop(t, 10)
	r := rand.New(rand.NewPCG(5, 6))
	store := objstoretest.Faulty(s.store, objstoretest.Seeded(9, 6))
	herders, seen := [2]*Server{s.herder(s.cat, store), s.herder(s.cat, store)}, [2]int64{-1, -1}
	records := int64(10)
	for i := range 30 {
		n := 1 + r.IntN(400)
		s.publish(fmt.Sprint("batch-", i), n)
		records += int64(n)
		errs := make(chan error, 2)
		for w := range herders {
			if r.IntN(4) == 0 {
				herders[w], seen[w] = s.herder(s.cat, store), -1
			}
			go func() { errs <- round(t.Context(), herders[w], &seen[w]) }()
		}
		for range herders {
			if err := <-errs; err != nil && !errors.Is(err, objstoretest.ErrInjected) {
				t.Fatal(err)
			}
		}
	}
	last := int64(-1)
	if err := round(t.Context(), s.herder(s.cat, s.store), &last); err != nil {
		t.Fatal(err)
	}
	s.whole("in the end", records)
}

func TestTheFeedGoesOnForAWhileWithoutTheStore(t *testing.T) {
	s := newShop(t, 2500)
	down := true
	store := objstoretest.Faulty(s.store, func(c objstoretest.Call) objstoretest.Fault {
		if down {
			return objstoretest.Fault{Outcome: objstoretest.NotDone}
		}
		return objstoretest.Fault{}
	})
	h, seen := s.herder(s.cat, store), int64(-1)
	for _, records := range []int64{2500, 2700} {
		if err := round(t.Context(), h, &seen); !errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
		if end := h.place().end().Sequence; end != records {
			t.Errorf("the feed ends at %d of %d", end, records)
		}
		if records == 2500 {
			s.publish("more", 200)
		}
	}
	down = false
	if err := round(t.Context(), h, &seen); err != nil {
		t.Fatal(err)
	}
	s.whole("when the store is back", 2700)
}

func TestWhatTheStoreReturnsIsVerifiedBeforeItIsServed(t *testing.T) {
	b := newBench(t)
	b.many("x", 1000)
	b.until(1000)
	whole := b.get("/feed/segments/1")
	put := func(text string) {
		t.Helper()
		if _, err := b.store.Put(t.Context(), SegmentKey(1), objstore.Bytes([]byte(text)), objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	for what, text := range map[string]string{"a flipped bit": "\x6f" + whole[1:], "an end that is missing": whole[:len(whole)-1], "more than there was": whole + "\n", "nothing": ""} {
		put(text)
		for _, path := range []string{"/feed/segments/1", "/feed?since=0", "/feed?since=10"} {
			if code, body := b.ask(path); code != http.StatusInternalServerError {
				t.Errorf("%s: %s is answered %d %.100q", what, path, code, body)
			}
		}
	}
	if err := b.store.Delete(t.Context(), SegmentKey(1)); err != nil {
		t.Fatal(err)
	}
	if code, _ := b.ask("/feed/segments/1"); code != http.StatusInternalServerError {
		t.Errorf("a lost segment is answered %d: it is not a segment that is not whole yet", code)
	}
	put(whole)
	if b.get("/feed/segments/1") != whole {
		t.Error("it is another")
	}
}

func TestALostSegmentIsMadeAgainIfItsItemsHaveNotChanged(t *testing.T) {
	s := newShop(t, 2050)
	seen := int64(-1)
	if err := round(t.Context(), s.herder(s.cat, s.store), &seen); err != nil {
		t.Fatal(err)
	}
	for f, err := range s.cat.FeedSegments(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		was, err := ReadSegment(t.Context(), s.store, f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Remake(t.Context(), s.cat, f)
		if err != nil || string(text) != string(was) {
			t.Errorf("segment %d: %v", f.Number, err)
		}
		if err := s.store.Delete(t.Context(), SegmentKey(f.Number)); err != nil {
			t.Fatal(err)
		}
		if err := Mend(t.Context(), s.store, f, append([]byte("x"), text[1:]...)); !errors.Is(err, ErrSegment) {
			t.Errorf("mended with another text: %v", err)
		}
		if err := Mend(t.Context(), s.store, f, text); err != nil {
			t.Error(err)
		}
	}
	s.whole("mended", 2050)
	a := catalogtest.Item("item-3")
	a.Files = append(a.Files, catalogtest.File("item-3", compress.Lzip))
	catalogtest.Reserve(t, s.cat, a)
	if _, err := s.cat.Publish(t.Context(), []catalog.Publication{a}); err != nil {
		t.Fatal(err)
	}
	f, err := s.cat.FeedSegment(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remake(t.Context(), s.cat, f); !errors.Is(err, ErrSegment) {
		t.Errorf("made of items that have changed: %v", err)
	}
}

// older is a catalogue that has segments as earlier versions have kept them.
type older struct {
	*sqlite.DB
	segments []catalog.FeedSegment
	packed   [][]byte
}

func (o *older) FeedPacked(context.Context) (catalog.FeedSegment, []byte, error) {
	if len(o.packed) == 0 {
		return catalog.FeedSegment{}, nil, catalog.ErrNotFound
	}
	return o.segments[0], o.packed[0], nil
}

func (o *older) FeedUnpacked(_ context.Context, number int64) error {
	if o.segments[0].Number != number {
		return fmt.Errorf("segment %d is dropped before %d", number, o.segments[0].Number)
	}
	o.segments, o.packed = o.segments[1:], o.packed[1:]
	return nil
}

func TestSegmentsOfAnEarlierVersionAreMovedToTheStore(t *testing.T) {
	const records = 5050
	s := newShop(t, records)
	seen := int64(-1)
	if err := round(t.Context(), s.herder(s.cat, s.store), &seen); err != nil {
		t.Fatal(err)
	}
	o := &older{DB: s.cat}
	texts := make(map[int64][]byte)
	for f, err := range s.cat.FeedSegments(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		text, err := ReadSegment(t.Context(), s.store, f)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		z, err := compress.NewWriter(compress.Zstd, &b, compress.Default)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		o.segments, o.packed = append(o.segments, f), append(o.packed, []byte(b.String()))
		texts[f.Number] = text
	}
	// Of some there is a copy already, as herders made them, and of one there is another feed's.
	copied := mem.New()
	for _, n := range []int64{1, 3} {
		if _, err := copied.Put(t.Context(), SegmentKey(n), objstore.Bytes(texts[n]), objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := copied.Put(t.Context(), SegmentKey(5), objstore.Bytes(texts[4]), objstore.IfAbsent); err != nil {
		t.Fatal(err)
	}
	s.store = copied
	calls := 0
	store := objstoretest.Faulty(s.store, func(c objstoretest.Call) objstoretest.Fault {
		if c.Method == "Put" {
			if calls++; calls%3 == 2 {
				return objstoretest.Fault{Outcome: objstoretest.NotDone + objstoretest.Outcome(calls%2)}
			}
		}
		return objstoretest.Fault{}
	})
	var err error
	for range 20 { // as if the herder was started again and again
		last := int64(-1)
		h := s.herder(o, store)
		if err = round(t.Context(), h, &last); err == nil || len(o.packed) == 1 && strings.Contains(err.Error(), errOther.Error()) {
			break
		}
		if h.place().loaded {
			t.Error("the feed is served before its segments are there")
		}
	}
	if len(o.packed) != 1 || err == nil || !strings.Contains(err.Error(), "feed/segments/5") {
		t.Fatalf("%d segments are left: %v", len(o.packed), err)
	}
	if err := s.store.Delete(t.Context(), SegmentKey(5)); err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	if err := round(t.Context(), s.herder(o, s.store), &last); err != nil || len(o.packed) != 0 {
		t.Fatalf("%d segments are left: %v", len(o.packed), err)
	}
	s.whole("moved", records)
}

package feedserver

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/feed"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/objstore/objstoretest"
)

// snap makes a snapshot of all that there is.
func (s *shop) snap(h *Server, seen *int64) feed.Snapshot {
	s.Helper()
	if err := round(s.Context(), h, seen); err != nil {
		s.Fatal(err)
	}
	was := h.snapshots.last
	for range 10 {
		h.snapshots.after = time.Time{}
		// Some hours later each time, by the clock of this test.
		if err := h.snapshot(s.Context(), time.Now().Add(24*time.Hour)); err != nil {
			s.Fatal(err)
		}
		h.snapshots.workers.Wait()
		if h.snapshots.last != was && h.snapshots.working == nil {
			return h.snapshots.last
		}
	}
	s.Fatal("no snapshot is made")
	return feed.Snapshot{}
}

func (s *shop) keeping(keep time.Duration) *Server {
	h := s.herder(s.cat, s.store)
	h.KeepSnapshots(Snapshots{Every: time.Hour, Keep: keep, Spool: s.TempDir(), Deleter: s.store})
	return h
}

// names are the names of the files of snapshots in the store.
func (s *shop) names() (names []string) {
	s.Helper()
	for info, err := range s.store.List(s.Context(), string(snapshotPrefix)) {
		if err != nil {
			s.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(string(info.Key), string(snapshotPrefix)))
	}
	return names
}

// copied writes the feed of the store to a folder, with its key beside it.
func (s *shop) copied() (key, root string) {
	s.Helper()
	root = s.TempDir()
	for info, err := range s.store.List(s.Context(), catalog.FeedPrefix) {
		if err != nil {
			s.Fatal(err)
		}
		o, err := s.store.Get(s.Context(), info.Key, objstore.Range{})
		if err != nil {
			s.Fatal(err)
		}
		text, err := io.ReadAll(o)
		if err != nil {
			s.Fatal(err)
		}
		name := filepath.Join(root, filepath.FromSlash(string(info.Key)))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			s.Fatal(err)
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			s.Fatal(err)
		}
	}
	return filepath.Join(root, "feed", "key.pub"), root
}

// script runs one of the scripts that were written from docs/feed.md alone.
func script(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	for _, program := range []string{"python3", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: install the Debian package %s", err, program)
		}
	}
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"-B", "../../internal/feed/testdata/" + name}, args...)...).CombinedOutput()
	return string(out), err
}

func TestAStrangerBeginsWithTheSnapshotAndComesToTheSameItems(t *testing.T) {
	s := newShop(t, 2050)
	a := catalogtest.Item("item-7")
	a.Files = append(a.Files, catalogtest.File("item-7", compress.Lzip))
	catalogtest.Reserve(t, s.cat, a)
	if _, err := s.cat.Publish(t.Context(), []catalog.Publication{a}); err != nil {
		t.Fatal(err)
	}
	l := life{&bench{t: t, catalogue: s.cat}}
	l.withdraw("item-1", "item-2", "item-3")
	l.restore("item-2")
	h, seen := s.keeping(time.Hour), int64(-1)
	snapshot := s.snap(h, &seen)
	if snapshot.Sequence != 2000 || snapshot.Until != 2055 || snapshot.Items != 2048 {
		t.Errorf("%+v", snapshot)
	}
	l.withdraw("item-4", "item-2049")
	s.publish("more", 1000)
	if err := round(t.Context(), h, &seen); err != nil {
		t.Fatal(err)
	}
	key, root := s.copied()
	for _, from := range []string{"--url", "--snapshot"} {
		out, err := script(t, "verify.py", from, key, root)
		if want := fmt.Sprintf("verified 3057 records of %s up to 3057: 3046 items\n", snapshot.Origin); err != nil || out != want {
			t.Errorf("%s: %v\n got %q\nwant %q", from, err, out, want)
		}
	}
	// With nothing of the feed before it.
	for _, n := range []string{"segments/1", "segments/2", "heads"} {
		if err := os.RemoveAll(filepath.Join(root, "feed", n)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := script(t, "verify.py", "--snapshot", key, root); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	out, err := script(t, "snapflips.py", key, root, "12")
	if err != nil || !strings.HasPrefix(out, "tried ") {
		t.Errorf("%v: not found:\n%s", err, out)
	}
	t.Log(out)
}

func TestALaterSnapshotHasThePartsThatHaveNotChanged(t *testing.T) {
	s := newShop(t, 5100)
	h, seen := s.keeping(time.Hour), int64(-1)
	first := s.snap(h, &seen)
	before := s.names()
	s.publish("more", 1)
	second := s.snap(h, &seen)
	if len(before) != 3 || len(s.names()) != 5 || second.Items != first.Items+1 {
		t.Errorf("two parts and an index were %q, and are %q", before, s.names())
	}
	// One that is lost is made anew.
	parts, err := h.index(t.Context(), second)
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts: %v", len(parts), err)
	}
	if err := s.store.Delete(t.Context(), partKey(parts[0].SHA256)); err != nil {
		t.Fatal(err)
	}
	s.publish("still-more", 1)
	s.snap(h, &seen)
	if _, err := s.store.Stat(t.Context(), partKey(parts[0].SHA256)); err != nil {
		t.Error(err)
	}
	// Nothing has changed: another herder makes none.
	names := s.names()
	again, none := s.keeping(time.Hour), int64(-1)
	if err := round(t.Context(), again, &none); err != nil {
		t.Fatal(err)
	}
	if err := again.snapshot(t.Context(), time.Now().Add(48*time.Hour)); err != nil || again.snapshots.working != nil {
		t.Errorf("it makes one: %v", err)
	}
	if fmt.Sprint(s.names()) != fmt.Sprint(names) {
		t.Error("it has")
	}
}

func TestFilesOfOldSnapshotsAreRemovedAndNoneThatIsWanted(t *testing.T) {
	s := newShop(t, 5100)
	h, seen := s.keeping(0), int64(-1)
	for i := range 3 {
		s.publish(fmt.Sprint("more-", i), 10)
		shown := s.snap(h, &seen)
		if n := s.names(); len(n) != 3 {
			t.Errorf("two parts and an index are %q", n)
		}
		parts, err := h.index(t.Context(), shown)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if _, err := readNamed(t.Context(), s.store, partKey(p.SHA256)); err != nil {
				t.Error(err)
			}
		}
	}
	// While they are to be kept, they are: until the last that was shown was replaced for long enough.
	h.snapshots.Keep = time.Hour
	old := h.snapshots.last
	s.publish("again", 10)
	shown := s.snap(h, &seen)
	for _, at := range []struct {
		after time.Duration
		files int
	}{{0, 5}, {50 * time.Minute, 5}, {70 * time.Minute, 3}} {
		if err := h.sweep(t.Context(), shown, time.Now().Add(at.after)); err != nil || len(s.names()) != at.files {
			t.Errorf("after %v: %d files: %v", at.after, len(s.names()), err)
		}
	}
	if _, err := s.store.Stat(t.Context(), indexKey(old.Index)); err == nil {
		t.Error("the old index is still there")
	}
}

func TestSnapshotsComeWhenTheyAreDue(t *testing.T) {
	now := time.Now()
	at := func(end int64) place { return place{sealed: feed.Point{Sequence: end}} }
	o := &snapshots{Snapshots: Snapshots{Every: 24 * time.Hour, Records: 1000}}
	if !o.due(at(1), now) || o.due(at(0), now) {
		t.Error("the first is due when there is something")
	}
	o.last = feed.Snapshot{Until: 5000, Time: now}
	for _, c := range []struct {
		end   int64
		after time.Duration
		want  bool
	}{{5000, 100 * time.Hour, false}, {5001, 24 * time.Hour, true}, {5001, 23 * time.Hour, false}, {6000, 3 * time.Hour, true}, {6000, 2 * time.Hour, false}, {5999, 4 * time.Hour, false}} {
		if got := o.due(at(c.end), now.Add(c.after)); got != c.want {
			t.Errorf("at %d after %v: %v", c.end, c.after, got)
		}
	}
}

func TestAFaultWhileASnapshotIsMadeLeavesTheOneBefore(t *testing.T) {
	for _, outcome := range []objstoretest.Outcome{objstoretest.NotDone, objstoretest.Done} {
		for n, hit := 0, true; hit; n++ {
			s := newShop(t, 20)
			h, seen := s.keeping(time.Hour), int64(-1)
			first := s.snap(h, &seen)
			s.publish("more", 20)
			if err := round(t.Context(), h, &seen); err != nil {
				t.Fatal(err)
			}
			hit = false
			calls := 0
			h.store = objstoretest.Faulty(s.store, func(c objstoretest.Call) objstoretest.Fault {
				if calls++; calls-1 != n {
					return objstoretest.Fault{}
				}
				hit = true
				return objstoretest.Fault{Outcome: outcome}
			})
			for range 4 {
				h.snapshots.after = time.Time{}
				h.snapshot(t.Context(), time.Now().Add(24*time.Hour)) // its error is what this test makes
				h.snapshots.workers.Wait()
			}
			shown, err := s.herder(s.cat, s.store).peek(t.Context(), h)
			if err != nil || shown.Until != 20 && shown.Until != 40 {
				t.Fatalf("call %d: %+v after %+v: %v", n, shown, first, err)
			}
			parts, err := s.herder(s.cat, s.store).index(t.Context(), shown)
			if err != nil || len(parts) != 1 {
				t.Fatalf("call %d: %d parts: %v", n, len(parts), err)
			}
			if _, err := readNamed(t.Context(), s.store, partKey(parts[0].SHA256)); err != nil {
				t.Errorf("call %d: %v", n, err)
			}
			h.endSnapshots()
			if left, err := filepath.Glob(filepath.Join(h.snapshots.Spool, "*")); err != nil || len(left) > 0 {
				t.Errorf("call %d: left behind: %v", n, left)
			}
		}
	}
}

// peek reads what is shown, as one who knows as much of the feed as another.
func (s *Server) peek(ctx context.Context, other *Server) (feed.Snapshot, error) {
	s.origin, s.sealed, s.tail = other.origin, other.sealed, other.tail
	return s.shown(ctx)
}

// restless is a catalogue where something happens while its items are listed.
type restless struct {
	*sqlite.DB
	happens func(nth int)
}

func (r *restless) Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error] {
	return func(yield func(catalog.Item, error) bool) {
		n := 0
		for it, err := range r.DB.Items(ctx, after) {
			if r.happens(n); !yield(it, err) {
				return
			}
			n++
		}
	}
}

// A list is made while things come and go. With the records from before it was begun to after it was done it is exact.
func TestASnapshotOfWhatChangesMeanwhileIsMadeExactByTheRecords(t *testing.T) {
	s := newShop(t, 2500)
	l := life{&bench{t: t, catalogue: s.cat}}
	r := rand.New(rand.NewPCG(3, 4))
	live := r.Perm(2500)
	batches := 0
	c := &restless{s.cat, func(nth int) {
		if nth%50 != 25 {
			return
		}
		for range 5 {
			gone := live[0]
			live = live[1:]
			l.withdraw(fmt.Sprint("item-", gone))
			if r.IntN(2) == 0 {
				l.restore(fmt.Sprint("item-", gone))
				live = append(live, gone)
			}
		}
		s.publish(fmt.Sprint("batch-", batches), 7)
		batches++
	}}
	h, err := New(c, s.store, s.key, rand.NewChaCha8([32]byte{2}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.KeepSnapshots(Snapshots{Every: time.Hour, Keep: time.Hour, Spool: t.TempDir(), Deleter: s.store})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	for {
		if _, err := s.store.Stat(t.Context(), snapshotHead); err == nil {
			break
		}
		select {
		case <-ended:
			t.Fatal("it has ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	key, root := s.copied()
	whole, err := script(t, "verify.py", "--url", key, root)
	if err != nil {
		t.Fatalf("%v: %s", err, whole)
	}
	short, err := script(t, "verify.py", "--snapshot", key, root)
	if err != nil || short != whole || !strings.Contains(whole, fmt.Sprintf(": %d items\n", len(live)+7*batches)) {
		t.Errorf("%v\n snapshot %s feed     %s of %d items", err, short, whole, len(live)+7*batches)
	}
}

// serveOnly asks a server that does nothing else.
func (b *bench) serveOnly(path string) (int, string) {
	b.t.Helper()
	mux := http.NewServeMux()
	b.server.Register(mux)
	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

func TestFilesOfSnapshotsAreServedIfTheyAreWhatTheirNamesSay(t *testing.T) {
	b := newBench(t)
	b.stop()
	if code, _ := b.serveOnly("/feed/snapshot"); code != http.StatusNotFound {
		t.Errorf("without a snapshot: %d", code)
	}
	b.many("x", 10)
	s := &shop{T: t, cat: b.catalogue, store: b.store.(*mem.Store), key: b.key}
	h, seen := s.keeping(time.Hour), int64(-1)
	shown := s.snap(h, &seen)
	b.server = h
	code, body := b.serveOnly("/feed/snapshot")
	if got, err := feed.ParseSnapshot([]byte(body), b.key.Public()); code != http.StatusOK || got != shown || err != nil {
		t.Errorf("%d %+v: %v", code, got, err)
	}
	parts, err := h.index(t.Context(), shown)
	if err != nil {
		t.Fatal(err)
	}
	part := "/" + string(partKey(parts[0].SHA256))
	for path, want := range map[string]int{
		"/" + string(indexKey(shown.Index)): http.StatusOK,
		part:                                http.StatusOK,
		"/feed/snapshots/x.zst":             http.StatusBadRequest,
		strings.Replace(part, ".zst", ".index", 1): http.StatusNotFound,
	} {
		if code, body := b.serveOnly(path); code != want {
			t.Errorf("%s: %d %.100q, want %d", path, code, body, want)
		}
	}
	if _, err := s.store.Put(t.Context(), partKey(parts[0].SHA256), objstore.Bytes([]byte("x")), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	if code, _ := b.serveOnly(part); code != http.StatusInternalServerError {
		t.Errorf("a damaged part is answered %d", code)
	}
}

package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// queue answers every job alike, and keeps what it was handed.
type queue struct {
	mu     sync.Mutex
	jobs   []publish.Job
	bytes  []string // of the sources, read while they were open
	result publish.Result
	err    error
}

func (q *queue) Submit(ctx context.Context, job publish.Job) (publish.Result, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = append(q.jobs, job)
	for _, s := range job.Sources {
		r, err := s.Open(ctx)
		if err != nil {
			return publish.Result{}, err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return publish.Result{}, err
		}
		q.bytes = append(q.bytes, string(s.Compression)+" "+string(text))
	}
	r := q.result
	r.Path = job.Narinfo.StorePath
	return r, q.err
}

// records is the catalogue of uploads.
type records struct {
	tokens map[catalog.TokenHash]catalog.Token
	logs   map[storepath.Base]objstore.Key
	err    error
}

func (r *records) Token(_ context.Context, h catalog.TokenHash) (catalog.Token, error) {
	t, ok := r.tokens[h]
	if !ok && r.err == nil {
		return t, catalog.ErrNotFound
	}
	return t, r.err
}

func (r *records) Missing(_ context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
	return hs, r.err
}

// Reserve hands out the first key of each.
func (r *records) Reserve(_ context.Context, wants []catalog.Want) (keys []objstore.Key, err error) {
	for _, w := range wants {
		keys = append(keys, catalog.NarKey(w.Compression, w.Base, 1))
	}
	return keys, r.err
}

func (r *records) AddLog(_ context.Context, of storepath.Base, k objstore.Key) error {
	if r.err == nil {
		r.logs[of] = k
	}
	return r.err
}

func newUploads(t *testing.T) (*Uploads, *queue, *records, objstore.Store) {
	t.Helper()
	q, r, store := &queue{result: publish.Result{Verdict: catalog.Published}}, &records{tokens: map[catalog.TokenHash]catalog.Token{}, logs: map[storepath.Base]objstore.Key{}}, mem.New()
	return &Uploads{Dir: t.TempDir(), Catalogue: r, Objects: store, Queue: q, Log: slog.New(slog.DiscardHandler), Keep: time.Hour}, q, r, store
}

func (u *Uploads) stage(t *testing.T, text string, m compress.Method) string {
	t.Helper()
	sum := digest.Of([]byte(text))
	name := publishapi.NarName(sum, m)
	if err := u.StageNar(t.Context(), name, sum, strings.NewReader(text), int64(len(text))); err != nil {
		t.Fatal(err)
	}
	return name
}

func files(t *testing.T, u *Uploads) []string {
	t.Helper()
	entries, err := os.ReadDir(u.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func naming(files ...narinfo.File) *narinfo.Narinfo {
	return &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: catalogtest.Base("a")}, Files: files}
}

func TestEveryStagedFormIsHandedOn(t *testing.T) {
	u, q, _, _ := newUploads(t)
	zstd, xz := u.stage(t, "as zstd", compress.Zstd), u.stage(t, "as xz", compress.Xz)
	n := naming(narinfo.File{URL: "nar/" + zstd, Compression: compress.Zstd}, narinfo.File{URL: "nar/" + xz, Compression: compress.Xz})
	done, err := u.Publish(t.Context(), n, "ci", true)
	if err != nil || done != (publishapi.Published{Path: n.StorePath.String(), Verdict: "published"}) {
		t.Errorf("%+v, %v", done, err)
	}
	if want := []string{"zstd as zstd", "xz as xz"}; !slices.Equal(q.bytes, want) {
		t.Errorf("handed on %q, want %q", q.bytes, want)
	}
	if job := q.jobs[0]; !job.Sign || !job.Wait || job.By != "ci" || job.Narinfo != n {
		t.Errorf("job %+v", job)
	}
	if names := files(t, u); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func TestWhatBecameOfAnItemIsSaidInTheContractsWords(t *testing.T) {
	for name, c := range map[string]struct {
		item, all error
		want      error
	}{
		"references":  {item: publish.ErrReferences, want: publishapi.ErrReferences},
		"differs":     {item: publish.ErrDiffers, want: publishapi.ErrDiffers},
		"no nar":      {item: publish.ErrNoSource, want: publishapi.ErrNoNar},
		"nar hash":    {item: publish.ErrNarHash, want: publishapi.ErrRefused},
		"signature":   {item: publish.ErrSignature, want: publishapi.ErrRefused},
		"stopped":     {all: publish.ErrStopped, want: publishapi.ErrUnavailable},
		"store away":  {all: objstore.ErrUnavailable, want: publishapi.ErrUnavailable},
		"store full":  {all: objstore.ErrFull, want: publishapi.ErrFull},
		"no room":     {all: catalog.ErrFull, want: publishapi.ErrFull},
		"client gone": {all: context.Canceled, want: publishapi.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			u, q, _, _ := newUploads(t)
			staged := u.stage(t, "nar", compress.None)
			q.err = c.all
			if c.item != nil {
				q.result.Err = fmt.Errorf("publish it: %w", c.item)
			}
			if _, err := u.Publish(t.Context(), naming(narinfo.File{URL: "nar/" + staged, Compression: compress.None}), "ci", false); !errors.Is(err, c.want) {
				t.Errorf("said %v, want %v", err, c.want)
			}
			if names := files(t, u); !slices.Equal(names, []string{staged}) {
				t.Errorf("staged are %v, want %s for another try", names, staged)
			}
		})
	}
}

func TestANarinfoNamesWhatCanBeStaged(t *testing.T) {
	u, q, _, _ := newUploads(t)
	for _, f := range []narinfo.File{{URL: "nar/../../etc/passwd", Compression: compress.None}, {URL: "nar/zstd/x", Compression: compress.Zstd},
		{URL: "nar/" + publishapi.NarName(digest.Of(nil), compress.None), Compression: "lzma9"}} {
		if _, err := u.Publish(t.Context(), naming(f), "ci", false); !errors.Is(err, publishapi.ErrRefused) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if len(q.jobs) != 0 {
		t.Errorf("%d jobs were handed on", len(q.jobs))
	}
}

func TestTokensAreHeldToTheirScopeAndTime(t *testing.T) {
	u, _, r, _ := newUploads(t)
	add := func(text string, change func(*catalog.Token)) {
		tok := catalog.Token{Name: text, Scopes: []catalog.Scope{catalog.ScopePublish}}
		change(&tok)
		r.tokens[catalog.HashToken(text)] = tok
	}
	add("good", func(*catalog.Token) {})
	add("admin", func(tok *catalog.Token) { tok.Scopes = []catalog.Scope{catalog.ScopeAdmin} })
	add("reader", func(tok *catalog.Token) { tok.Scopes = []catalog.Scope{catalog.ScopeRead} })
	add("old", func(tok *catalog.Token) { tok.Expires = time.Now().Add(-time.Second) })
	add("old reader", func(tok *catalog.Token) {
		tok.Scopes, tok.Expires = []catalog.Scope{catalog.ScopeRead}, time.Now().Add(-time.Second)
	})
	add("ended", func(tok *catalog.Token) { tok.Revoked = time.Now() })
	for text, want := range map[string]error{"good": nil, "admin": nil, "": publishapi.ErrDenied, "strange": publishapi.ErrDenied,
		"reader": publishapi.ErrScope, "old": publishapi.ErrDenied, "old reader": publishapi.ErrDenied, "ended": publishapi.ErrDenied} {
		by, err := u.Authorize(t.Context(), text)
		if !errors.Is(err, want) || want == nil && by != text || want == publishapi.ErrDenied && errors.Is(err, publishapi.ErrScope) {
			t.Errorf("token %q: %q, %v", text, by, err)
		}
	}
	r.err = errors.New("catalogue is broken")
	if _, err := u.Authorize(t.Context(), "good"); err == nil || errors.Is(err, publishapi.ErrDenied) {
		t.Errorf("when nobody knows: %v", err)
	}
}

func TestRoomIsKeptForAllThatWasAnnounced(t *testing.T) {
	u, _, _, _ := newUploads(t)
	first, err := u.admit(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Write(make([]byte, 1000)); n != 1000 || err != nil || u.entrance.announced != 1<<20-1000 {
		t.Errorf("after 1000 bytes %d are announced: %v", u.entrance.announced, err)
	}
	u.Reserve = 1 << 60
	if _, err := u.admit(1); !errors.Is(err, publishapi.ErrFull) {
		t.Errorf("into the reserve: %v", err)
	}
	u.Reserve = 0
	u.entrance.announced += 1 << 60
	if _, err := u.admit(1); !errors.Is(err, publishapi.ErrFull) {
		t.Errorf("what others have announced is not counted: %v", err)
	}
	u.entrance.announced -= 1 << 60
	if _, err := u.admit(1<<63 - 1); !errors.Is(err, publishapi.ErrFull) {
		t.Errorf("more than there is: %v", err)
	}
	first.leave()
	if left := u.entrance.announced; left != 0 || u.entrance.open != 0 {
		t.Errorf("%d bytes are announced by nobody", left)
	}
}

func TestAFewAreLetInWhileRoomIsScarce(t *testing.T) {
	u, _, _, _ := newUploads(t)
	var s unix.Statfs_t
	if err := unix.Statfs(u.Dir, &s); err != nil {
		t.Fatal(err)
	}
	// Other things happen on this file system too: a third of it is far from both ends.
	u.Reserve = int64(s.Bavail) * s.Bsize / 3 * 2
	var in []*arrival
	for range few {
		a, err := u.admit(1)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, a)
	}
	_, err := u.admit(1)
	var later *publishapi.LaterError
	if !errors.Is(err, publishapi.ErrBusy) || !errors.As(err, &later) || later.After < time.Second || later.After > 5*time.Second {
		t.Errorf("one more than a few: %v, %+v", err, later)
	}
	in[0].leave()
	a, err := u.admit(1)
	if err != nil {
		t.Errorf("when one has left: %v", err)
	}
	a.leave()
	// Whoever would use up the reserve is told so, however many there are.
	if _, err := u.admit(u.Reserve); !errors.Is(err, publishapi.ErrFull) || !errors.As(err, &later) || later.After < time.Minute {
		t.Errorf("as much as is kept: %v, %+v", err, later)
	}
	u.Reserve = 0
	if _, err := u.admit(1); err != nil {
		t.Errorf("without a reserve: %v", err)
	}
	if v, refused, err := u.Room(); err != nil || v.Free <= 0 || refused != (Refused{Busy: 1, Full: 1}) {
		t.Errorf("room %+v, refused %+v, %v", v, refused, err)
	}
}

func TestAFullDiskIsToldWithWhenToComeAgain(t *testing.T) {
	u, q, _, _ := newUploads(t)
	u.Reserve = 1 << 60
	q.err = fmt.Errorf("write to spool: %w", unix.ENOSPC)
	_, err := u.Publish(t.Context(), naming(), "ci", false)
	var later *publishapi.LaterError
	if !errors.Is(err, publishapi.ErrFull) || !errors.As(err, &later) || later.After < time.Minute {
		t.Errorf("said %v, %+v", err, later)
	}
}

func TestWhatBreaksOffIsNotKept(t *testing.T) {
	u, _, _, _ := newUploads(t)
	sum := digest.Of([]byte("whole"))
	name := publishapi.NarName(sum, compress.None)
	for text, want := range map[string]error{"who": publishapi.ErrRefused, "whole and more": publishapi.ErrRefused, "wrong": publishapi.ErrRefused} {
		if err := u.StageNar(t.Context(), name, sum, strings.NewReader(text), 5); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	cut := errors.New("connection cut")
	if err := u.StageNar(t.Context(), name, sum, io.MultiReader(strings.NewReader("who"), failing{cut}), 5); !errors.Is(err, publishapi.ErrIncomplete) || !errors.Is(err, publishapi.ErrUnavailable) || !errors.Is(err, cut) {
		t.Errorf("cut: %v", err)
	}
	if names := files(t, u); len(names) != 0 || u.entrance.announced != 0 {
		t.Errorf("left: %v, announced %d", names, u.entrance.announced)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestTheFirstLogStays(t *testing.T) {
	u, _, r, store := newUploads(t)
	of := catalogtest.Base("x.drv")
	for _, text := range []string{"first", "second"} {
		if err := u.StageLog(t.Context(), of, strings.NewReader(text), int64(len(text))); err != nil {
			t.Fatal(err)
		}
	}
	o, err := store.Get(t.Context(), r.logs[of], objstore.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if text, err := io.ReadAll(o); err != nil || string(text) != "first" {
		t.Errorf("kept %q, %v", text, err)
	}
	if err := u.StageLog(t.Context(), of, strings.NewReader(""), maxLog+1); !errors.Is(err, publishapi.ErrRefused) {
		t.Errorf("too large: %v", err)
	}
	if err := u.StageLog(t.Context(), of, strings.NewReader("x"), 2); !errors.Is(err, publishapi.ErrRefused) {
		t.Errorf("too short: %v", err)
	}
	r.err = catalog.ErrFull
	other := catalogtest.Base("y.drv")
	if err := u.StageLog(t.Context(), other, strings.NewReader("x"), 1); !errors.Is(err, publishapi.ErrFull) {
		t.Errorf("no room: %v", err)
	}
	if _, err := store.Get(t.Context(), catalog.LogKey(other), objstore.Range{}); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("a log that is not recorded is stored: %v", err)
	}
	if names := files(t, u); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	u, _, _, _ := newUploads(t)
	old, young := u.stage(t, "old", compress.None), u.stage(t, "young", compress.None)
	put := func(name string) string {
		if err := os.WriteFile(filepath.Join(u.Dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	killed, begun := put(incoming+"killed"), put(incoming+"begun")
	now := time.Now()
	age := func(name string, d time.Duration) {
		if err := os.Chtimes(filepath.Join(u.Dir, name), now.Add(-d), now.Add(-d)); err != nil {
			t.Fatal(err)
		}
	}
	age(old, u.Keep+time.Minute)
	age(young, u.Keep-time.Minute)
	age(killed, 2*lockGrace)
	age(begun, lockGrace/2)

	// One upload is under way, and has been silent for long.
	r, w := io.Pipe()
	staged := make(chan error)
	sum := digest.Of([]byte("slow"))
	slow := publishapi.NarName(sum, compress.None)
	go func() { staged <- u.StageNar(context.WithoutCancel(t.Context()), slow, sum, r, 4) }()
	if _, err := w.Write([]byte("sl")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("o")); err != nil { // the first piece has been written when the second is taken
		t.Fatal(err)
	}
	for _, name := range files(t, u) {
		if strings.HasPrefix(name, incoming) && name != killed && name != begun {
			age(name, 10*u.Keep)
		}
	}
	if err := u.sweep(now); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("w")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-staged; err != nil {
		t.Errorf("the slow upload: %v", err)
	}
	want := []string{begun, young, slow}
	if got := files(t, u); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("after the sweep there are %v, want %v", got, want)
	}
}

package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"narfold/herder/source"
	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/pace"
	"narfold/internal/storepath"
)

func TestWhatAnUpstreamListsIsTakenWithAllThatItReferences(t *testing.T) {
	u := newUpstream(t)
	libc := u.item("libc", "the library", nil)
	tool := u.item("tool", "a tool", nil, libc)
	app := u.item("app", "an application", nil, tool, libc)
	u.item("unlisted", "nobody asks for it", nil)
	u.list(app)
	f := follow(t, u, nil)
	if sum := f.once(); sum.Wanted != 1 || sum.Published != 3 || sum.Refused != 0 || sum.NarBytes == 0 {
		t.Errorf("%+v", sum)
	}
	f.has(libc, tool, app)
	for _, b := range []storepath.Base{libc, tool, app} {
		it, err := f.cat.Item(t.Context(), b.HashPart())
		if err != nil || !bytes.Equal(it.Narinfo, u.bodies[infoPath(b)]) {
			t.Errorf("%s is not signed as it was: %s, %v", b, it.Narinfo, err)
		}
	}
	// A round that finds nothing new asks for no narinfo, and one that finds something for that alone.
	u.times(infoPath(libc))
	more := u.item("more", "another application", nil, libc)
	u.list(app, more)
	if sum := f.once(); sum.Wanted != 1 || sum.Published != 1 {
		t.Errorf("%+v", sum)
	}
	if u.times(infoPath(libc)) != 0 || u.times("/nar/libc") != 1 {
		t.Error("what is here was asked for again")
	}
}

func TestWhatIsNamedIsTaken(t *testing.T) {
	u := newUpstream(t)
	a, b := u.item("a", "first", nil), u.item("b", "second", nil)
	u.item("c", "third", nil)
	list := filepath.Join(t.TempDir(), "manifest")
	if err := os.WriteFile(list, []byte(`(manifest (version 4) (packages (("b" "1" "out" "/nix/store/`+string(b)+`"))))`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, u, func(p *Parts) { p.Items, p.List = []string{string(a)}, list })
	f.once()
	f.has(a, b)
}

// Each of these is an upstream that lies about one item, or is broken there. The item is refused with the reason, nothing of it is kept,
// and the others are taken.
func TestALyingUpstreamHarmsNothingElse(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for b := make([]byte, 64<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		lie  func(u *upstream, bad storepath.Base)
		says string
	}{
		"signed by nobody": {func(u *upstream, bad storepath.Base) {
			n := u.parsed(bad)
			n.Sigs = nil
			u.set(infoPath(bad), narinfo.Nix(n))
		}, "none is by a trusted key"},
		"signed by somebody else": {func(u *upstream, bad storepath.Base) {
			n := u.parsed(bad)
			n.Sigs = []string{u.other.Sign(n.Fingerprint())}
			u.set(infoPath(bad), narinfo.Nix(n))
		}, "none is by a trusted key"},
		"changed after it was signed": {func(u *upstream, bad storepath.Base) {
			n := u.parsed(bad)
			n.NarSize++
			u.set(infoPath(bad), narinfo.Nix(n))
		}, "signature is not acceptable"},
		"the narinfo of another item": {func(u *upstream, bad storepath.Base) {
			u.set(infoPath(bad), u.bodies[infoPath(u.item("another", "signed and good", nil))])
		}, "is of another store item"},
		"no narinfo":               {func(u *upstream, bad storepath.Base) { u.set(infoPath(bad), []byte("hello\n")) }, "want lines of"},
		"a narinfo without an end": {func(u *upstream, bad storepath.Base) { u.act(infoPath(bad), endless) }, "more than"},
		"a circle of redirections": {func(u *upstream, bad storepath.Base) {
			u.act(infoPath(bad), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
		}, "redirected more than 10 times"},
		"a circle of redirections of the nar": {func(u *upstream, bad storepath.Base) {
			u.act("/nar/bad", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
		}, "redirected more than 10 times"},
		"nothing": {func(u *upstream, bad storepath.Base) {
			u.act(infoPath(bad), func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
		}, "not in the source"},
		"no nar":         {func(u *upstream, bad storepath.Base) { u.act("/nar/bad", http.NotFound) }, "not in the source"},
		"a torn nar":     {func(u *upstream, bad storepath.Base) { u.set("/nar/bad", narOf(u, "bad contents")[:100]) }, "nar cannot be read"},
		"another nar":    {func(u *upstream, bad storepath.Base) { u.set("/nar/bad", narOf(u, "baD contents")) }, "nar differs from its narinfo"},
		"a nar and more": {func(u *upstream, bad storepath.Base) { u.set("/nar/bad", append(narOf(u, "bad contents"), 0)) }, "nar cannot be read"},
		"an endless nar": {func(u *upstream, bad storepath.Base) { u.act("/nar/bad", endless) }, "nar cannot be read"},
		"a nar elsewhere": {func(u *upstream, bad storepath.Base) {
			u.resign(bad, func(n *narinfo.Narinfo) { n.Files[0].URL = "file:///etc/passwd" })
		}, "not a URL"},
		"an unknown method": {func(u *upstream, bad storepath.Base) {
			u.resign(bad, func(n *narinfo.Narinfo) { n.Files[0].Compression = compress.Method("rot13") })
		}, "no usable nar"},
		"a reference that is nowhere": {func(u *upstream, bad storepath.Base) {
			u.resign(bad, func(n *narinfo.Narinfo) {
				n.References = []storepath.Base{storepath.Base(strings.Repeat("7", 32) + "-nowhere")}
			})
		}, "-nowhere is not here"},
		"a circle of references": {func(u *upstream, bad storepath.Base) {
			back := u.item("back", "references bad", nil, bad)
			u.resign(bad, func(n *narinfo.Narinfo) { n.References = []storepath.Base{back} })
		}, "cannot be had"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			libc := u.item("libc", "the library", nil)
			bad := u.item("bad", "bad contents", nil, libc)
			above := u.item("above", "references bad", nil, bad)
			good := u.item("good", "does not", nil, libc)
			u.list(above, good, bad)
			c.lie(u, bad)
			f := follow(t, u, nil)
			sum := f.once()
			sum.says(t, bad, c.says)
			sum.says(t, above, "") // one of two reasons, by who was faster
			f.has(libc, good)
			if sum.Published != 2 {
				t.Errorf("%+v", sum)
			}
			counts, err := f.cat.Counts(t.Context())
			if err != nil || counts.Waiting != 0 {
				t.Errorf("kept: %+v, %v", counts, err)
			}
			// It is mended, and taken in the next round.
			u.act(infoPath(bad), nil)
			u.act("/nar/bad", nil)
			u.item("bad", "bad contents", nil, libc)
			f.once()
			f.has(libc, good, bad, above)
		})
	}
}

func (u *upstream) parsed(b storepath.Base) *narinfo.Narinfo {
	u.Helper()
	n, err := narinfo.Parse(u.bodies[infoPath(b)])
	if err != nil {
		u.Fatal(err)
	}
	return n
}

// resign changes a narinfo and signs it as the upstream does.
func (u *upstream) resign(b storepath.Base, change func(*narinfo.Narinfo)) {
	u.Helper()
	n := u.parsed(b)
	change(n)
	n.Sigs = []string{u.key.Sign(n.Fingerprint())}
	u.set(infoPath(b), narinfo.Nix(n))
}

// Somebody without the key can name any number of items, one behind the other: he gets to name one.
func TestForgedReferencesAreNotFollowed(t *testing.T) {
	u := newUpstream(t)
	next := u.item("end", "the end", nil)
	for i := range 50 {
		b := u.item(fmt.Sprint("link-", i), "forged", nil, next)
		n := u.parsed(b)
		n.Sigs = []string{u.other.Sign(n.Fingerprint())}
		u.set(infoPath(b), narinfo.Nix(n))
		next = b
	}
	u.list(next)
	f := follow(t, u, nil)
	sum := f.once()
	sum.says(t, next, "none is by a trusted key")
	u.mu.Lock()
	defer u.mu.Unlock()
	narinfos := 0
	for path := range u.asked {
		if strings.HasSuffix(path, ".narinfo") {
			narinfos++
		}
	}
	if narinfos != 1 || sum.Refused != 1 {
		t.Errorf("%d narinfos were asked for: %+v", narinfos, sum)
	}
}

func TestANarForWhichReferencesAreMissingIsNotDownloaded(t *testing.T) {
	u := newUpstream(t)
	a := u.item("a", "on nothing", nil, storepath.Base(strings.Repeat("7", 32)+"-nowhere"))
	b := u.item("b", "on a", nil, a)
	u.list(b)
	f := follow(t, u, nil)
	sum := f.once()
	sum.says(t, a, "-nowhere is not here, and the upstream does not have it")
	sum.says(t, b, "-a was not taken")
	if u.times("/nar/a")+u.times("/nar/b") != 0 {
		t.Error("a nar was downloaded in vain")
	}
}

// What many items reference, and cannot be had, is tried once in a round, and not once with each portion of them.
func TestWhatFailedIsNotTriedAgainInTheSameRound(t *testing.T) {
	u := newUpstream(t)
	bad := u.item("bad", "x", nil)
	u.set("/nar/bad", []byte("torn"))
	var above []storepath.Base
	for i := range 10 {
		above = append(above, u.item(fmt.Sprint("above-", i), fmt.Sprint(i), nil, bad))
	}
	good := u.item("good", "y", nil)
	u.list(append(above, good)...)
	f := follow(t, u, nil)
	f.portion = 2
	sum := f.once()
	if n := u.times("/nar/bad"); n != 1 || sum.Refused != 11 || sum.Published != 1 {
		t.Errorf("the nar was asked for %d times: %+v", n, sum)
	}
	f.has(good)
}

func TestAnUpstreamThatGoesAwayEndsTheRoundAndTheNextGoesOn(t *testing.T) {
	u := newUpstream(t)
	var all []storepath.Base
	for i := range 60 {
		all = append(all, u.item(fmt.Sprint("item-", i), fmt.Sprint("contents ", i), nil))
	}
	u.list(all...)
	ctx, cancel := context.WithCancelCause(t.Context())
	f := follow(t, u, nil)
	interrupted := errors.New("the machine stops")
	u.act("/nar/item-30", func(http.ResponseWriter, *http.Request) { cancel(interrupted) })
	sum, err := f.Once(ctx)
	if !errors.Is(err, interrupted) {
		t.Errorf("%v, %+v", err, sum)
	}
	u.act("/nar/item-30", nil)
	missing, err := f.cat.Missing(t.Context(), hashParts(all))
	if err != nil {
		t.Fatal(err)
	}
	if again := f.once(); again.Wanted != int64(len(missing)) || again.Published != int64(len(missing)) {
		t.Errorf("%d were missing: %+v", len(missing), again)
	}
	f.has(all...)

	u.Server.Close()
	if sum, err := f.Once(t.Context()); !errors.Is(err, source.ErrUnavailable) || sum.Published != 0 {
		t.Errorf("an upstream that is away: %v, %+v", err, sum)
	}
	f.has(all...)
	if s := f.Stats(); s.Rounds != 1 || s.Failed != 2 || s.Published != 60 || s.Running {
		t.Errorf("%+v", s)
	}
}

func hashParts(bs []storepath.Base) (hs []storepath.HashPart) {
	for _, b := range bs {
		hs = append(hs, b.HashPart())
	}
	return hs
}

func TestKeysAreDemanded(t *testing.T) {
	if _, err := New(Parts{Upstream: Upstream{URL: "http://cache.example"}}); !errors.Is(err, ErrKeys) {
		t.Errorf("without keys: %v", err)
	}
}

func TestTwoDoNotFollowAtOnce(t *testing.T) {
	u := newUpstream(t)
	u.list()
	a := u.item("a", "x", nil)
	u.list(a)
	f := follow(t, u, nil)
	unlock, err := f.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Once(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("while another follows: %v", err)
	}
	unlock()
	f.once()
	f.has(a)
}

func TestWhatFailsIsLeftAloneForLongerAndLonger(t *testing.T) {
	f := &Follower{Parts: Parts{Upstream: Upstream{Every: time.Minute}}, later: map[storepath.HashPart]failing{}}
	h := storepath.HashPart(strings.Repeat("1", 32))
	now := time.Unix(1_800_000_000, 0)
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		f.postpone(Summary{broken: []storepath.HashPart{h}}, now)
		if got := f.later[h].until.Sub(now); got != want {
			t.Errorf("after %d failures it waits %v, want %v", i+1, got, want)
		}
	}
	for range 40 {
		f.postpone(Summary{broken: []storepath.HashPart{h}}, now)
	}
	if got := f.later[h].until.Sub(now); got != longestWait {
		t.Errorf("in the end it waits %v", got)
	}
	f.postpone(Summary{}, now.Add(4*longestWait))
	if len(f.later) != 0 {
		t.Error("what nobody names any more is remembered")
	}
}

func TestRunLeavesAloneWhatFailed(t *testing.T) {
	u := newUpstream(t)
	bad := u.item("bad", "x", nil)
	u.set("/nar/bad", []byte("no nar"))
	above := u.item("above", "y", nil, bad)
	u.list(above)
	f := follow(t, u, nil)
	sum := f.once()
	f.postpone(sum, time.Now())
	u.times("/nar/bad")
	sum, err := f.round(t.Context(), f.ready)
	if err != nil || sum.Postponed != 1 || sum.Refused != 1 || u.times("/nar/bad") != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	sum.says(t, above, "-bad was not taken")
}

func TestAPaceIsKept(t *testing.T) {
	const size = 5 * stride / 2
	synctest.Test(t, func(t *testing.T) {
		open := atPace(pace.New(stride), func(context.Context) (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, size)), nil })
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		r, err := open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != size || err != nil || time.Since(begun) != 5*time.Second/2 {
			t.Errorf("%d bytes took %v, %v", n, time.Since(begun), err)
		}
		if r, err = open(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestMetricsTellOfEachUpstream(t *testing.T) {
	u := newUpstream(t)
	u.list(u.item("a", "x", nil))
	f := follow(t, u, nil)
	f.once()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Metrics{f.Follower})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			if m.Label[len(m.Label)-1].GetValue() != u.URL {
				t.Errorf("%s is not of %s: %v", family.GetName(), u.URL, m)
			}
			found[family.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if found["narfold_upstream_published_total"] != 1 || found["narfold_upstream_rounds_total"] != 1 || found["narfold_upstream_running"] != 0 || found["narfold_upstream_age_seconds"] <= 0 {
		t.Errorf("%v", found)
	}
}

package follow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"narfold/herder/source"
	"narfold/internal/feed"
	"narfold/internal/storepath"
)

func TestAFeedIsFollowedFromWhereItWas(t *testing.T) {
	u := newUpstream(t)
	libc := u.item("libc", "the library", nil)
	app := u.item("app", "an application", nil, libc)
	gone := u.item("gone", "withdrawn", nil)
	u.announce(feed.Publish, libc, app, gone)
	u.announce(feed.Withdraw, gone)
	f := follow(t, u, byFeed(u))
	if sum := f.once(); sum.Sequence != 4 || sum.Published != 2 {
		t.Errorf("%+v", sum)
	}
	f.has(libc, app)

	tool := u.item("tool", "a tool", nil, libc)
	u.announce(feed.Publish, tool)
	u.times("/feed")
	// A process that starts anew begins where the last one was.
	again, err := New(f.Parts)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := again.Once(t.Context()); err != nil || sum.Sequence != 5 || sum.Published != 1 || sum.Wanted != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	if n := u.times("/feed"); n != 1 {
		t.Errorf("%d stretches were asked for, want one", n)
	}
	f.has(libc, app, tool)
}

func TestWhatAFeedNamesAndCannotBeHadIsOwed(t *testing.T) {
	u := newUpstream(t)
	bad := u.item("bad", "x", nil)
	good := u.item("good", "y", nil)
	u.announce(feed.Publish, bad, good)
	u.set("/nar/bad", []byte("torn"))
	f := follow(t, u, byFeed(u))
	sum := f.once()
	sum.says(t, bad, "nar cannot be read")
	f.has(good)
	p, err := readPlace(f.Place)
	if err != nil || p.point.Sequence != 2 || !slices.Equal(p.owed, []storepath.HashPart{bad.HashPart()}) {
		t.Errorf("place %+v, %v", p, err)
	}
	// Its time comes without a new record.
	u.set("/nar/bad", narOf(t, "x"))
	if sum := f.once(); sum.Published != 1 {
		t.Errorf("%+v", sum)
	}
	f.has(bad, good)
	if p, err := readPlace(f.Place); err != nil || len(p.owed) != 0 {
		t.Errorf("place %+v, %v", p, err)
	}
}

// What the head does not vouch for is not taken yet.
func TestRecordsBeyondTheHeadWait(t *testing.T) {
	u := newUpstream(t)
	a, b := u.item("a", "x", nil), u.item("b", "y", nil)
	u.announce(feed.Publish, a)
	head := u.bodies["/feed/head"]
	u.announce(feed.Publish, b)
	later := u.bodies["/feed/head"]
	u.set("/feed/head", head)
	f := follow(t, u, byFeed(u))
	if sum := f.once(); sum.Sequence != 1 {
		t.Errorf("%+v", sum)
	}
	f.has(a)
	u.set("/feed/head", later)
	f.once()
	f.has(a, b)
}

func TestAFeedThatContradictsItselfIsNotFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(u *upstream, more storepath.Base)
		says string
	}{
		"rolled back": {func(u *upstream, _ storepath.Base) { u.lines = u.lines[:1]; u.publishFeed() }, "rolled back: record 2 was its last, and now 1 is"},
		"forked": {func(u *upstream, more storepath.Base) {
			u.lines = u.lines[:1]
			u.announce(feed.Publish, more)
			u.announce(feed.Publish, more)
		}, "chain of the change feed is broken"},
		"forked at the same record": {func(u *upstream, more storepath.Base) { u.lines = u.lines[:1]; u.announce(feed.Publish, more) }, "it was forked"},
		"another feed":              {func(u *upstream, _ storepath.Base) { u.origin = strings.Repeat("0b", 16); u.publishFeed() }, "another feed"},
		"signed by another key": {func(u *upstream, more storepath.Base) {
			u.feedKey = u.other
			u.announce(feed.Publish, more)
		}, "read head"},
		"a record that is changed": {func(u *upstream, more storepath.Base) {
			u.announce(feed.Publish, more)
			text := string(u.bodies["/feed?since=2"])
			u.set("/feed?since=2", []byte(strings.Replace(text, `"time":"2027`, `"time":"2026`, 1)))
		}, "chain"},
		"a stretch that is cut off": {func(u *upstream, more storepath.Base) {
			u.announce(feed.Publish, more)
			text := u.bodies["/feed?since=2"]
			u.set("/feed?since=2", text[:len(text)-80])
		}, "cut off"},
		"records that are held back": {func(u *upstream, more storepath.Base) {
			u.announce(feed.Publish, more)
			s := &feed.Stretch{Origin: u.origin, Before: feed.Begin(u.origin).Next(u.lines[0]).Next(u.lines[1])}
			u.set("/feed?since=2", s.Text())
		}, "its head says 3 records, and there are 2"},
		"none any more": {func(u *upstream, _ storepath.Base) { u.act("/feed/head", http.NotFound) }, "has no change feed"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			a, b := u.item("a", "x", nil), u.item("b", "y", nil)
			more := u.item("more", "z", nil)
			u.announce(feed.Publish, a, b)
			f := follow(t, u, byFeed(u))
			f.once()
			before, err := os.ReadFile(f.Place)
			if err != nil {
				t.Fatal(err)
			}
			c.lie(u, more)
			if sum, err := f.Once(t.Context()); !errors.Is(err, ErrFeed) && !errors.Is(err, source.ErrNotFound) || !strings.Contains(err.Error(), c.says) || sum.Published != 0 {
				t.Errorf("%+v: %v; want %q", sum, err, c.says)
			}
			f.has(a, b)
			if after, err := os.ReadFile(f.Place); err != nil || string(after) != string(before) {
				t.Errorf("the place is now %s, %v", after, err)
			}
		})
	}
}

func TestAPlaceIsReadAsItWasWritten(t *testing.T) {
	want := place{origin: strings.Repeat("0a", 16), point: feed.Begin(strings.Repeat("0a", 16)), owed: []storepath.HashPart{storepath.HashPart(strings.Repeat("1", 32))}}
	name := t.TempDir() + "/" + PlaceName("https://cache.example:8080/a b")
	if err := want.write(name); err != nil {
		t.Fatal(err)
	}
	got, err := readPlace(name)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if err := os.WriteFile(name, []byte(`{"origin":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPlace(name); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged place: %v", err)
	}
	if PlaceName("http://a/b") == PlaceName("http://a_b") || PlaceName("http://a") == PlaceName("https://a") {
		t.Error("two upstreams have one place")
	}
}

func FuzzParsePlace(f *testing.F) {
	f.Add([]byte(`{"origin":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","sequence":3,"chain":"` + strings.Repeat("00", 32) + `","owed":["` + strings.Repeat("1", 32) + `"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePlace(text)
		if err != nil {
			return
		}
		name := t.TempDir() + "/place"
		if err := p.write(name); err != nil {
			t.Fatal(err)
		}
		if again, err := readPlace(name); err != nil || fmt.Sprint(again) != fmt.Sprint(p) {
			t.Errorf("%v is read as %v, %v", p, again, err)
		}
	})
}

// Run goes on by itself, and ends when it is told to.
func TestRunTakesWhatIsNew(t *testing.T) {
	u := newUpstream(t)
	a := u.item("a", "x", nil)
	u.announce(feed.Publish, a)
	f := follow(t, u, func(p *Parts) { byFeed(u)(p); p.Every = 20 * time.Millisecond })
	running, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(running) }()
	waitFor(t, "the first item", func() bool { return f.Stats().Published == 1 && f.Stats().Rounds >= 1 })
	b := u.item("b", "y", nil, a)
	u.announce(feed.Publish, b)
	waitFor(t, "the second item", func() bool { return f.Stats().Published == 2 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.has(a, b)
}

// waitFor waits until what is expected is so: a follower works by itself, over a network that no test's clock governs.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

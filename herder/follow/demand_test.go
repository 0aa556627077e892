package follow

import (
	"context"
	"strings"
	"testing"
	"time"

	"narfold/internal/storepath"
)

func onDemand(p *Parts) { p.OnDemand = true }

// runs has a follower run until the test ends.
func (f *follower) runs(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatUsersAskForIsBroughtWithItsClosure(t *testing.T) {
	u := newUpstream(t)
	libc := u.item("libc", "the library", nil)
	app := u.item("app", "an application", nil, libc)
	u.item("other", "nobody asks for it", nil)
	absent := storepath.HashPart(strings.Repeat("9", 32))
	f := follow(t, u, onDemand)
	f.runs(t)
	f.Want(absent)
	f.Want(app.HashPart())
	waitFor(t, "the item", func() bool { return f.Stats().Published == 2 })
	f.has(libc, app)
	if n := u.times("/store-paths"); n != 0 {
		t.Error("the upstream was asked for its list")
	}
	// Asked for again and again, it is asked for once.
	for range 100 {
		f.Want(absent)
		f.Want(app.HashPart())
	}
	tool := u.item("tool", "a tool", nil, libc)
	f.Want(tool.HashPart())
	waitFor(t, "another item", func() bool { return f.Stats().Published == 3 })
	f.has(libc, app, tool)
	if n := u.times("/" + string(absent) + ".narinfo"); n != 1 {
		t.Errorf("what the upstream does not have was asked for %d times", n)
	}
}

func TestWhoWaitsIsToldWhenItIsDecided(t *testing.T) {
	u := newUpstream(t)
	a := u.item("a", "x", nil)
	absent := storepath.HashPart(strings.Repeat("9", 32))
	f := follow(t, u, onDemand)
	if c := f.Want(a.HashPart()); c != nil {
		t.Error("while nobody attends to it there is something to wait for")
	}
	f.runs(t)
	waitFor(t, "the item", func() bool { return f.Stats().Published == 1 })
	var c <-chan struct{}
	waitFor(t, "somebody to attend to it", func() bool {
		c = f.Want(absent)
		if c == nil {
			f.demand.settle(f.demand.take())
			f.demand.mu.Lock()
			delete(f.demand.asked, absent)
			f.demand.mu.Unlock()
		}
		return c != nil
	})
	<-c
	if c := f.Want(absent); c != nil {
		t.Error("what the upstream does not have is waited for")
	}
	if missing, err := f.cat.Missing(t.Context(), []storepath.HashPart{absent, a.HashPart()}); err != nil || len(missing) != 1 || missing[0] != absent {
		t.Errorf("missing %v, %v", missing, err)
	}
}

func TestOnlyWhoIsToBringWhatUsersAskForDoes(t *testing.T) {
	u := newUpstream(t)
	a := u.item("a", "x", nil)
	f := follow(t, u, nil)
	f.Want(a.HashPart())
	if waiting := f.demand.take(); len(waiting) != 0 {
		t.Errorf("%v wait", waiting)
	}
}

func TestDemandIsBounded(t *testing.T) {
	d := newDemand()
	now := time.Unix(1_800_000_000, 0)
	var h [20]byte
	for i := range 3 * maxAsked {
		h[0], h[1], h[2] = byte(i), byte(i>>8), byte(i>>16)
		d.add(storepath.HashPartOf(h), now)
		if i%7 == 0 && len(d.waiting) == maxWaiting {
			got := d.take()
			if len(got) != maxWaiting {
				t.Fatalf("%d waited", len(got))
			}
			d.settle(got)
		}
	}
	if len(d.asked) > maxAsked || len(d.waiting) > maxWaiting {
		t.Errorf("%d asked, %d waiting", len(d.asked), len(d.waiting))
	}
	d = newDemand()
	one := storepath.HashPartOf(h)
	d.add(one, now)
	d.add(one, now.Add(askAgain-1))
	got := d.take()
	if len(got) != 1 {
		t.Errorf("asked for twice, it waits %d times", len(got))
	}
	d.settle(got)
	d.add(one, now.Add(askAgain-1))
	if got := d.take(); len(got) != 0 {
		t.Errorf("asked for again before its time: %v", got)
	}
	d.add(one, now.Add(askAgain))
	if got := d.take(); len(got) != 1 {
		t.Errorf("its time comes again: %d", len(got))
	}
}

package catalogtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

func testLease(t *testing.T, fresh fresh, again again) {
	ask := func(c living, l catalog.Lease, names ...string) (catalog.Lease, []storepath.HashPart) {
		c.T.Helper()
		got, missing, err := c.Lease(c.T.Context(), l, parts(names...))
		if err != nil {
			c.Fatal(err)
		}
		return got, missing
	}
	hour := func() time.Time { return time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond) }

	t.Run("what an uploader was told is there stays, with its closure, until he is done", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("top", "low"), Item("other"))
		want := catalog.Lease{Holder: "farm", Expires: hour()}
		l, missing := ask(c, want, "top", "absent")
		equal(t, "missing", missing, parts("absent"))
		if want.ID, want.Items = l.ID, 1; l != want || l.ID == 0 {
			t.Errorf("the lease is %+v, want %+v", l, want)
		}
		c = again(c)
		equal(t, "leases", collect(t, c.Leases(t.Context())), []catalog.Lease{l})
		equal(t, "while it lasts", c.withdraw("low", "top", "other"), []string{"referenced", "leased", "withdrawn"})
		if l, _ = ask(c, l, "low", "top"); l.Items != 2 {
			t.Errorf("of more items: %+v", l)
		}
		equal(t, "while it lasts", c.withdraw("low", "top"), []string{"leased", "leased"})
		if err := c.ReleaseLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		equal(t, "when it is released", c.withdraw("low", "top"), []string{"withdrawn", "withdrawn"})
		if ls := collect(t, c.Leases(t.Context())); len(ls) != 0 {
			t.Errorf("leases: %+v", ls)
		}
	})

	t.Run("of two leases the longer one counts", func(t *testing.T) {
		c := fresh(t, Item("a"))
		one, _ := ask(c, catalog.Lease{Holder: "one", Expires: hour()}, "a")
		ask(c, catalog.Lease{Holder: "two", Expires: hour()}, "a")
		if err := c.ReleaseLease(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		equal(t, "verdict", c.withdraw("a"), []string{"leased"})
	})

	t.Run("a lease expires, and cannot be renewed when it is over", func(t *testing.T) {
		c := fresh(t, Item("a"))
		l, _ := ask(c, catalog.Lease{Holder: "farm", Expires: hour()}, "a")
		other := l
		other.Holder = "somebody"
		if err := c.RenewLease(t.Context(), other); !errors.Is(err, catalog.ErrLeaseOver) {
			t.Errorf("renewed by another: %v", err)
		}
		if err := c.ReleaseLease(t.Context(), other); err != nil {
			t.Error(err)
		}
		l.Expires = l.Expires.Add(time.Hour)
		if err := c.RenewLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		equal(t, "leases", collect(t, c.Leases(t.Context())), []catalog.Lease{l})
		l.Expires = time.Now().Add(-time.Second)
		if err := c.RenewLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		l.Expires = hour()
		if err := c.RenewLease(t.Context(), l); !errors.Is(err, catalog.ErrLeaseOver) {
			t.Errorf("renewed when it was over: %v", err)
		}
		if _, _, err := c.Lease(t.Context(), l, parts("a")); !errors.Is(err, catalog.ErrLeaseOver) {
			t.Errorf("extended when it was over: %v", err)
		}
		if ls := collect(t, c.Leases(t.Context())); len(ls) != 0 {
			t.Errorf("leases: %+v", ls)
		}
		equal(t, "verdict", c.withdraw("a"), []string{"withdrawn"})
	})

	t.Run("what was withdrawn comes back for who asks, and what is deleting is missing", func(t *testing.T) {
		c := fresh(t, Item("low"), Item("top", "low"), Item("gone"))
		c.withdraw("low", "top", "gone")
		c.beginDelete("gone")
		_, missing := ask(c, catalog.Lease{Holder: "farm", Expires: hour()}, "top", "gone")
		equal(t, "missing", missing, parts("gone"))
		equal(t, "items", names(t, c), []string{"low", "top"})
		equal(t, "verdicts", c.withdraw("low", "top"), []string{"referenced", "leased"})
	})

	t.Run("a cancelled call leases and withdraws nothing", func(t *testing.T) {
		c := fresh(t, Item("a"))
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the operator went home"))
		if _, _, err := c.Lease(ctx, catalog.Lease{Holder: "farm", Expires: hour()}, parts("a")); err == nil {
			t.Error("leased")
		}
		if _, err := c.Withdraw(ctx, catalog.Withdrawal{Items: parts("a")}); err == nil {
			t.Error("withdrawn")
		}
		equal(t, "items", names(t, c), []string{"a"})
		equal(t, "verdict", c.withdraw("a"), []string{"withdrawn"})
	})
}

func testMoment(t *testing.T, fresh fresh, again again) {
	t.Run("a decision does not withdraw what was asked for, published or brought back since", func(t *testing.T) {
		c := fresh(t, Item("quiet"), Item("published"), Item("leased"), Item("low"), Item("top", "low"), Item("back"))
		since, err := c.Moment(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c = again(c)
		publish(t, c, Item("published"), Item("newer", "low"))
		l, _, err := c.Lease(t.Context(), catalog.Lease{Holder: "farm", Expires: soon()}, parts("leased"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ReleaseLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		c.withdraw("back")
		c.restore("back")
		decide := func(since catalog.Moment, names ...string) (all []string) {
			t.Helper()
			out, err := c.Withdraw(t.Context(), catalog.Withdrawal{Items: parts(names...), Since: since})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range out {
				all = append(all, o.Verdict.String())
			}
			return all
		}
		equal(t, "verdicts", decide(since, "quiet", "published", "leased", "low", "top", "back", "newer"),
			[]string{"withdrawn", "wanted", "wanted", "referenced", "withdrawn", "wanted", "wanted"})
		if since, err = c.Moment(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "decided anew", decide(since, "published", "leased", "low", "back", "newer"), []string{"withdrawn", "withdrawn", "withdrawn", "withdrawn", "withdrawn"})
	})

	t.Run("a decision falls when roots change", func(t *testing.T) {
		c := fresh(t, Item("a"))
		since, err := c.Moment(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.RootsChanged(t.Context()); err != nil {
			t.Fatal(err)
		}
		w := catalog.Withdrawal{Items: parts("a"), Since: since}
		if _, err := c.Withdraw(t.Context(), w); !errors.Is(err, catalog.ErrMoved) {
			t.Errorf("error is %v", err)
		}
		equal(t, "items", names(t, c), []string{"a"})
		if w.Since, err = c.Moment(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out, err := c.Withdraw(t.Context(), w); err != nil || out[0].Verdict != catalog.Withdrawn {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

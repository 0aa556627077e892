package publishapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"narfold/internal/catalog/catalogtest"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// leases are the promises of a backend: how many items each covers, by ID.
type leases struct {
	last    int64
	covered map[int64]int
	renewed int
	none    bool // it promises nothing
}

func (b *backend) Promise(ctx context.Context, by string, lease int64, hs []storepath.HashPart) (publishapi.Lease, []storepath.HashPart, error) {
	missing, err := b.Missing(ctx, hs)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leases.none {
		return publishapi.Lease{}, missing, err
	}
	if lease == 0 {
		b.leases.last++
		lease = b.leases.last
		if b.leases.covered == nil {
			b.leases.covered = map[int64]int{}
		}
		b.leases.covered[lease] = 0
	}
	if _, ok := b.leases.covered[lease]; !ok || by != "ci" {
		return publishapi.Lease{}, nil, fmt.Errorf("%w: number %d", publishapi.ErrLeaseOver, lease)
	}
	b.leases.covered[lease] += len(hs)
	return publishapi.Lease{ID: lease, Expires: time.Now().Add(time.Hour)}, missing, err
}

func (b *backend) RenewLease(_ context.Context, _ string, lease int64) (publishapi.Lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.leases.covered[lease]; !ok {
		return publishapi.Lease{}, publishapi.ErrLeaseOver
	}
	b.leases.renewed++
	return publishapi.Lease{ID: lease, Expires: time.Now().Add(time.Hour)}, nil
}

func (b *backend) ReleaseLease(_ context.Context, _ string, lease int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.leases.covered[lease]; !ok {
		return publishapi.ErrLeaseOver
	}
	delete(b.leases.covered, lease)
	return nil
}

func someItems(n int) (hs []storepath.HashPart) {
	for i := range n {
		hs = append(hs, catalogtest.Base(fmt.Sprint("n", i)).HashPart())
	}
	return hs
}

func TestOnePromiseCoversAllThatWasAsked(t *testing.T) {
	b := newBackend()
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	hs := someItems(publishapi.MaxMissing + 5)
	b.have[hs[3]] = true
	for _, ask := range [][]storepath.HashPart{hs, hs[:2]} {
		if _, err := c.Promise(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
	}
	if missing, err := c.Promise(t.Context(), hs[:5]); err != nil || len(missing) != 4 {
		t.Errorf("missing %v, %v", missing, err)
	}
	if n := b.leases.covered[1]; n != len(hs)+2+5 || len(b.leases.covered) != 1 {
		t.Errorf("promises cover %v", b.leases.covered)
	}
	if err := c.RenewLease(t.Context()); err != nil || b.leases.renewed != 1 {
		t.Errorf("renewed %d times: %v", b.leases.renewed, err)
	}
	if err := errors.Join(c.ReleaseLease(t.Context()), c.ReleaseLease(t.Context()), c.RenewLease(t.Context())); err != nil || len(b.leases.covered) != 0 {
		t.Errorf("released: %v, %v", b.leases.covered, err)
	}
}

func TestAPromiseThatIsOverIsMadeAnew(t *testing.T) {
	b := newBackend()
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	promise := func() {
		t.Helper()
		if missing, err := c.Promise(t.Context(), someItems(3)); err != nil || len(missing) != 3 {
			t.Fatalf("missing %v, %v", missing, err)
		}
	}
	expire := func() { clear(b.leases.covered) }
	promise()
	expire()
	promise()
	if b.leases.covered[2] != 3 {
		t.Errorf("promises cover %v", b.leases.covered)
	}
	expire()
	if err := c.RenewLease(t.Context()); !errors.Is(err, publishapi.ErrLeaseOver) {
		t.Errorf("renew what is over: %v", err)
	}
	promise()
	expire()
	if err := c.ReleaseLease(t.Context()); err != nil {
		t.Errorf("release what is over: %v", err)
	}
	if b.leases.last != 3 {
		t.Errorf("%d promises were made", b.leases.last)
	}
}

func TestAHerderMayPromiseNothing(t *testing.T) {
	b := newBackend()
	b.leases.none = true
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	missing, err := c.Promise(t.Context(), someItems(3))
	if err != nil || len(missing) != 3 {
		t.Fatalf("missing %v, %v", missing, err)
	}
	if err := errors.Join(c.RenewLease(t.Context()), c.ReleaseLease(t.Context())); err != nil || b.leases.renewed != 0 {
		t.Error(err)
	}
}

func TestALeaseIsNamedByItsNumber(t *testing.T) {
	url := serve(t, newBackend(), nil).URL
	for path, want := range map[string]int{"/api/v1/lease/x": 400, "/api/v1/lease/-1": 400, "/api/v1/lease/0": 400, "/api/v1/lease/7": 409} {
		for _, method := range []string{http.MethodPost, http.MethodDelete} {
			for token, code := range map[string]int{"good": want, "mirror": 403, "": 401} {
				req, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != code {
					t.Errorf("%s %s with token %q: %d, want %d", method, path, token, resp.StatusCode, code)
				}
			}
		}
	}
}

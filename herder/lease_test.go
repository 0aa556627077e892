package herder_test

import (
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

func TestWhatAPublisherWasToldIsThereStaysUntilHeIsDone(t *testing.T) {
	f := newFarm(t, options{})
	below := item{dir: storepath.Guix, name: "below"}
	above := item{dir: storepath.Guix, name: "above", refs: []string{"below"}}
	f.publish([]compress.Method{compress.Zstd}, below, above)
	token := catalog.NewTokenText()
	must(t, f.d.Catalogue.AddToken(t.Context(), catalog.Token{Name: "builder", Scopes: []catalog.Scope{catalog.ScopePublish}, Created: time.Now()}, catalog.HashToken(token)))
	builder := &publishapi.Client{URL: f.url, Token: token}
	both := []storepath.HashPart{below.path().HashPart(), above.path().HashPart()}
	withdraw := func() (verdicts [2]catalog.WithdrawVerdict) {
		t.Helper()
		out, err := f.d.Catalogue.Withdraw(t.Context(), catalog.Withdrawal{Items: both, By: "gc", Plan: "all"})
		must(t, err)
		return [2]catalog.WithdrawVerdict{out[0].Verdict, out[1].Verdict}
	}
	missing, err := builder.Promise(t.Context(), both[1:])
	must(t, err)
	if len(missing) != 0 {
		t.Fatalf("missing %v", missing)
	}
	must(t, builder.RenewLease(t.Context()))
	if v := withdraw(); v != [2]catalog.WithdrawVerdict{catalog.Referenced, catalog.Leased} {
		t.Errorf("while it is promised: %v", v)
	}
	must(t, builder.ReleaseLease(t.Context()))
	if v := withdraw(); v != [2]catalog.WithdrawVerdict{catalog.Withdrawn, catalog.Withdrawn} {
		t.Errorf("afterwards: %v", v)
	}
	if a := f.get("GET", "/"+string(both[1])+".narinfo"); a.status != 404 {
		t.Errorf("withdrawn: %d", a.status)
	}
	// Whoever asks for it with a promise needs it again.
	missing, err = builder.Promise(t.Context(), both[1:])
	must(t, err)
	if a := f.get("GET", "/"+string(both[1])+".narinfo"); a.status != 200 || len(missing) != 0 {
		t.Errorf("asked for: %d, missing %v", a.status, missing)
	}
}

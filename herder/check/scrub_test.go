package check_test

import (
	"testing"
	"time"

	"narfold/internal/objstore"
)

func TestWhatWasVerifiedLatelyIsPassedOver(t *testing.T) {
	eachStore(t, func(t *testing.T, f *farm) {
		f.some(t)
		run(t, f.config())
		cfg := f.config()
		cfg.NotWithin = time.Hour
		if r := run(t, cfg); r.Expanded != 0 || r.Files != 3 {
			t.Errorf("%d of %d files were read again", r.Expanded, r.Files)
		}
		if err := f.cat.RecordVerified(t.Context(), []objstore.Key{key("b")}, time.Now().Add(-2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if r := run(t, cfg); r.Expanded != 1 {
			t.Errorf("%d files were read again, want the one that was verified two hours ago", r.Expanded)
		}
	})
}

package push_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"narfold/herder/publish"
	"narfold/herder/push"
)

func TestWhatIsPromisedIsRenewedAndReleased(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration // the listing
		want  []string
	}{
		"a short push": {time.Minute, []string{"released"}},
		"a long one":   {35 * time.Minute, []string{"renewed", "renewed", "renewed", "released"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				to := newRemote()
				p := push.Pusher{To: to, Spooler: publish.Spooler{Dir: t.TempDir(), Workers: 1}}
				stopped := errors.New("stopped")
				ctx, stop := context.WithCancelCause(t.Context())
				err := p.Run(ctx, func(yield func(publish.Job, error) bool) {
					time.Sleep(c.takes)
					stop(stopped) // which does not keep the promise from being released
				}, func(publish.Result) {})
				if !errors.Is(err, stopped) {
					t.Errorf("it ended with %v", err)
				}
				if !slices.Equal(to.leases, c.want) {
					t.Errorf("%v, want %v", to.leases, c.want)
				}
			})
		})
	}
}

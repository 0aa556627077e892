package publish_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// full is a catalogue that has no room for reservations.
type full struct{ catalog.Catalogue }

func (full) Reserve(context.Context, []catalog.Want) ([]objstore.Key, error) {
	return nil, catalog.ErrFull
}

func TestTheOnlyOneWhoWaitsIsToldThatARunHasFailed(t *testing.T) {
	f := newFarm(t)
	f.Publisher.Catalogue = full{f.cat}
	q := publish.NewQueue(f.Publisher)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	told := make(chan error, 1)
	go func() {
		_, err := q.Submit(ctx, item(t, storepath.Nix, "alone", compress.Zstd))
		told <- err
	}()
	select {
	case err := <-told:
		if !errors.Is(err, catalog.ErrFull) {
			t.Errorf("told %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

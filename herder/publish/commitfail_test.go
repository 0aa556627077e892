package publish

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// failing is a catalogue in which nothing can be published.
type failing struct {
	catalogue
	err error
}

func (f failing) Publish(context.Context, []catalog.Publication) ([]catalog.Outcome, error) {
	return nil, f.err
}

func TestABatchThatCannotBePublishedIsToldWhileNothingElseComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no room")
		p := &Publisher{Catalogue: failing{err: full}, Objects: mem.New()}
		one := &task{done: make(chan struct{})}
		one.Narinfo = &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: catalogtest.Base("one")}}
		close(one.done)
		order := make(chan *task, 1)
		order <- one // and no other comes, nor does the list end
		held, err := p.commitAll(t.Context(), order, newBudget(1), p.newStoring(), func(r Result) { t.Errorf("reported: %+v", r) })
		if !errors.Is(err, full) || held != nil {
			t.Errorf("ended with %v, holding %v", err, held)
		}
	})
}

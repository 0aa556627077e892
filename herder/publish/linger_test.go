package publish

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"narfold/internal/catalog/catalogtest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// Nars are ready after the times given, and committed at the times wanted: linger is 50 ms.
func TestABatchWaitsALittleForTheNarUnderWay(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, n := range n {
			d = append(d, time.Duration(n)*time.Millisecond)
		}
		return d
	}
	for name, c := range map[string]struct {
		open        bool // more may come
		ready, want []time.Duration
	}{
		"one alone":                         {false, ms(50), ms(50)},
		"one alone while more may come":     {true, ms(50), ms(50)},
		"all ready at once":                 {false, ms(0, 0, 0), ms(0, 0, 0)},
		"the last ends the waiting":         {false, ms(10, 30, 55), ms(55, 55, 55)},
		"not longer than that":              {false, ms(10, 40, 1000), ms(60, 60, 1000)},
		"those behind a slow one wait":      {false, ms(10, 1000, 20), ms(60, 1000, 1000)},
		"the time begins with each batch":   {false, ms(10, 300, 320), ms(60, 320, 320)},
		"nothing is waited for beside that": {true, ms(10, 40), ms(40, 40)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				order := make(chan *task, len(c.ready))
				for i, after := range c.ready {
					// An item with an error of its own is reported with its batch, and asks neither catalogue nor store.
					one := &task{done: make(chan struct{}), err: ErrNoSource}
					one.Narinfo = &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: catalogtest.Base(fmt.Sprint(i))}}
					order <- one
					time.AfterFunc(after, func() { close(one.done) })
				}
				if c.open {
					time.AfterFunc(time.Minute, func() { close(order) })
				} else {
					close(order)
				}
				begun := time.Now()
				var got []time.Duration
				p := &Publisher{Objects: mem.New()}
				held, err := p.commitAll(t.Context(), order, newBudget(1), p.newStoring(), func(Result) { got = append(got, time.Since(begun)) })
				if held != nil || err != nil || !slices.Equal(got, c.want) {
					t.Errorf("committed after %v, want %v; %v, %v", got, c.want, held, err)
				}
			})
		})
	}
}

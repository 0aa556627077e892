package pace

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadersShareThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := New(1000)
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for range 5 {
					if err := p.Wait(t.Context(), 100); err != nil {
						t.Error(err)
					}
				}
			})
		}
		readers.Wait()
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("2000 bytes at 1000 a second took %v", took)
		}
		time.Sleep(time.Minute) // what was not used is not made up for
		begun = time.Now()
		if err := p.Wait(t.Context(), 500); err != nil || time.Since(begun) != 500*time.Millisecond {
			t.Errorf("500 bytes after a pause took %v, %v", time.Since(begun), err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		if err := p.Wait(ctx, 1<<40); err == nil || err.Error() != "enough" {
			t.Errorf("error is %v", err)
		}
		if err := New(0).Wait(ctx, 1<<40); err != nil {
			t.Errorf("without a rate: %v", err)
		}
	})
}

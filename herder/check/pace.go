package check

import (
	"context"
	"sync"
	"time"
)

// pace holds several readers to a number of bytes a second together. A nil pace holds nobody.
type pace struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	free time.Time // until then all that was read is paid for
}

func newPace(rate int64) *pace {
	if rate <= 0 {
		return nil
	}
	return &pace{rate: rate}
}

// wait returns when n bytes more have had their time.
func (p *pace) wait(ctx context.Context, n int) error {
	if p == nil || n <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now // time that nobody used is not saved up
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	due := p.free.Sub(now)
	p.mu.Unlock()
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

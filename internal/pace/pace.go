// Package pace holds several readers together to a number of bytes a second, so that what reads much leaves room for others.
package pace

import (
	"context"
	"sync"
	"time"
)

// Pace holds several readers to a number of bytes a second together. A nil Pace holds nobody.
type Pace struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	free time.Time // until then all that was read is paid for
}

// New returns the pace of so many bytes a second, or nil if rate is not above 0.
func New(rate int64) *Pace {
	if rate <= 0 {
		return nil
	}
	return &Pace{rate: rate}
}

// Wait returns when n bytes more have had their time, or with why ctx ended.
func (p *Pace) Wait(ctx context.Context, n int) error {
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

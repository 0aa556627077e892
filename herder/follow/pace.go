package follow

import (
	"context"
	"io"
	"sync"
	"time"
)

// pace holds all downloads from an upstream to a number of bytes a second together. A nil pace holds nobody.
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

// opener makes what open gives come at this pace.
func (p *pace) opener(open func(context.Context) (io.ReadCloser, error)) func(context.Context) (io.ReadCloser, error) {
	if p == nil {
		return open
	}
	return func(ctx context.Context) (io.ReadCloser, error) {
		r, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return &paced{ReadCloser: r, ctx: ctx, pace: p}, nil
	}
}

type paced struct {
	io.ReadCloser
	ctx  context.Context // of whoever opened it
	pace *pace
}

// stride is how much is read at once, so that the pace is even.
const stride = 64 << 10

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b[:min(len(b), stride)])
	if wait := p.pace.wait(p.ctx, n); wait != nil && err == nil {
		err = wait
	}
	return n, err
}

// wait returns when n bytes more have had their time.
func (p *pace) wait(ctx context.Context, n int) error {
	if n <= 0 {
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
	return sleep(ctx, due)
}

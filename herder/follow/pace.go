package follow

import (
	"context"
	"io"

	"narfold/internal/pace"
)

// atPace makes what open gives come at a pace, which all downloads from an upstream share. Without one it is open.
func atPace(p *pace.Pace, open func(context.Context) (io.ReadCloser, error)) func(context.Context) (io.ReadCloser, error) {
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
	pace *pace.Pace
}

// stride is how much is read at once, so that the pace is even.
const stride = 64 << 10

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b[:min(len(b), stride)])
	if wait := p.pace.Wait(p.ctx, n); wait != nil && err == nil {
		err = wait
	}
	return n, err
}

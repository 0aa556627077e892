package main

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pollInterval is for how many milliseconds a read from a pipe or terminal waits before it looks whether it should go on.
const pollInterval = 200

// interruptible returns r with a Read that fails with the context's error soon after the context ends, also while it waits for
// a pipe or terminal: those cannot be closed under a blocked read.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	f, ok := r.(*os.File)
	if !ok {
		return &obedientReader{ctx, r}
	}
	return &pollingReader{ctx, f}
}

type obedientReader struct {
	ctx context.Context
	r   io.Reader
}

func (o *obedientReader) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.r.Read(p)
}

type pollingReader struct {
	ctx context.Context
	f   *os.File
}

func (r *pollingReader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		fds := []unix.PollFd{{Fd: int32(r.f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, pollInterval)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return r.f.Read(p) // which tells better than poll what is wrong, if anything is
		}
	}
}

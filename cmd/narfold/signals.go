package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string { return "interrupted by " + unix.SignalName(e.signal) }

// Is makes it a context.Canceled, for those who return the cause of a context in place of its error.
func (interrupted) Is(target error) bool { return target == context.Canceled }

// untilSignal returns a context that SIGINT or SIGTERM ends, with an interrupted as its cause. A second signal kills the program
// as if there were no handler, so that a command that is slow to leave can be made to. Call stop when the command has returned.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case s := <-arrived:
			signal.Stop(arrived)
			cancel(interrupted{s.(syscall.Signal)})
		case <-done:
		}
	})
	return ctx, func() {
		close(done)
		watcher.Wait()
		signal.Stop(arrived)
		cancel(nil)
	}
}

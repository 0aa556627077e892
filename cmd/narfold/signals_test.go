package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestASignalEndsTheContext(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ctx, stop := untilSignal(t.Context())
		if err := syscall.Kill(os.Getpid(), signal); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		if cause := context.Cause(ctx); cause != (interrupted{signal}) {
			t.Errorf("cause %v, want %v", cause, signal)
		}
		stop()
	}
}

func TestNoSignalNoCause(t *testing.T) {
	ctx, stop := untilSignal(t.Context())
	stop()
	if cause := context.Cause(ctx); cause != context.Canceled {
		t.Errorf("cause %v after stop", cause)
	}
}

func TestAWaitingReadEndsWithTheContext(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in := interruptible(ctx, r)
	if _, err := w.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if n, err := in.Read(p); string(p[:n]) != "abc" || err != nil {
		t.Fatalf("read %q, %v", p[:n], err)
	}
	ended := make(chan error)
	go func() {
		_, err := in.Read(p)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the read ended with %v", err)
	}
}

func TestInterruptedWhileReading(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{syscall.SIGINT})
	_, stderr, code := narfoldIn(ctx, []byte("x"), "narinfo", "verify", "-")
	if code != 130 || stderr != "narfold: interrupted by SIGINT\n" {
		t.Errorf("exit code %d, said %q", code, stderr)
	}
}

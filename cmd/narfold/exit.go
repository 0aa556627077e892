package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"narfold/herder/follow"
	"narfold/herder/source"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/feed"
	"narfold/internal/nar"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
)

// exitCode is what the program tells its caller. As an error it is returned by a command that has said everything on standard
// output already, such as a verdict.
type exitCode int

const (
	exitDone        exitCode = 0
	exitRefused     exitCode = 1 // refused, or what was compared differs
	exitUsage       exitCode = 2
	exitUnavailable exitCode = 3 // trying again may help
	exitDamage      exitCode = 4 // stored or received bytes are not what they should be
)

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// errUsage is wrapped by errors about the command line itself.
var errUsage = errors.New("usage")

// exitCodes is the one table from errors to exit codes. The first row that fits an error counts; an error that fits none is
// exitRefused.
var exitCodes = []struct {
	code exitCode
	is   []error
}{
	{exitDamage, []error{
		nar.ErrMagic, nar.ErrTruncated, nar.ErrToken, nar.ErrPadding, nar.ErrLength, nar.ErrName, nar.ErrTarget,
		nar.ErrDuplicate, nar.ErrUnsorted, nar.ErrTrailing,
		compress.ErrCorrupt, compress.ErrTruncated,
		objstore.ErrDigest,
		source.ErrDamaged, catalog.ErrDamaged, feed.ErrFormat, feed.ErrChain, follow.ErrFeed,
	}},
	{exitUnavailable, []error{
		context.DeadlineExceeded,
		objstore.ErrUnavailable, objstore.ErrFull, catalog.ErrFull, catalog.ErrInUse, source.ErrUnavailable, follow.ErrBusy,
		publishapi.ErrUnavailable, publishapi.ErrFull,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT, syscall.EADDRINUSE,
	}},
	{exitUsage, []error{errUsage, errConfig}},
}

// codeOf returns the exit code for what a command returned.
func codeOf(err error) exitCode {
	if err == nil {
		return exitDone
	}
	var code exitCode
	if errors.As(err, &code) {
		return code
	}
	for _, row := range exitCodes {
		for _, sentinel := range row.is {
			if errors.Is(err, sentinel) {
				return row.code
			}
		}
	}
	return exitRefused
}

// report tells people what went wrong, if anything did, and returns the exit code. A command that a signal ended before it was
// done exits as a shell reports a program that the signal killed.
func report(ctx context.Context, stderr io.Writer, err error) exitCode {
	var signal interrupted
	if errors.Is(err, context.Canceled) && errors.As(context.Cause(ctx), &signal) {
		fmt.Fprintf(stderr, "narfold: %v\n", signal)
		return exitCode(128 + int(signal.signal))
	}
	code := codeOf(err)
	if _, said := errors.AsType[exitCode](err); code != exitDone && !said {
		fmt.Fprintf(stderr, "narfold: %v\n", err)
		printHint(stderr, err)
	}
	return code
}

// hinted is an error that knows what its reader can do next.
type hinted struct {
	error
	next string
}

func (e *hinted) Unwrap() error { return e.error }

// hint adds to err the step to try next: a command line, or a few words.
func hint(err error, next string) error { return &hinted{err, next} }

func printHint(stderr io.Writer, err error) {
	var h *hinted
	if errors.As(err, &h) {
		fmt.Fprintf(stderr, "  try: %s\n", h.next)
	}
}

// usagef returns an error about the command line.
func usagef(format string, args ...any) error {
	return &badUsage{fmt.Sprintf(format, args...)}
}

type badUsage struct{ text string }

func (e *badUsage) Error() string        { return e.text }
func (e *badUsage) Is(target error) bool { return target == errUsage }

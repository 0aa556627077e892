package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/nar"
	"narfold/internal/objstore"
)

func TestErrorsHaveTheirExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want exitCode
	}{
		{nil, exitDone},
		{errors.New("anything"), exitRefused},
		{fs.ErrNotExist, exitRefused},
		{exitRefused, exitRefused},
		{exitDamage, exitDamage},
		{usagef("--a and --b"), exitUsage},
		{&nar.Error{Reason: nar.ErrPadding}, exitDamage},
		{compress.ErrTruncated, exitDamage},
		{objstore.ErrDigest, exitDamage},
		{objstore.ErrUnavailable, exitUnavailable},
		{context.DeadlineExceeded, exitUnavailable},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, exitUnavailable},
		{errors.Join(objstore.ErrUnavailable, objstore.ErrDigest), exitDamage}, // damage is never said less loudly
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
		if c.err == nil {
			continue
		}
		if got := codeOf(fmt.Errorf("do a thing: %w", hint(c.err, "again"))); got != c.want {
			t.Errorf("%v, wrapped: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	killed, kill := context.WithCancelCause(t.Context())
	kill(interrupted{syscall.SIGTERM})
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		code exitCode
		said string
	}{
		"nothing":                 {t.Context(), nil, 0, ""},
		"an error":                {t.Context(), errors.New("publish x: no"), 1, "narfold: publish x: no\n"},
		"an error with a hint":    {t.Context(), fmt.Errorf("publish: %w", hint(errors.New("no"), "narfold check")), 1, "narfold: publish: no\n  try: narfold check\n"},
		"a verdict already given": {t.Context(), exitDamage, 4, ""},
		"a signal":                {killed, fmt.Errorf("copy: %w", context.Canceled), 143, "narfold: interrupted by SIGTERM\n"},
		"done in spite of it":     {killed, nil, 0, ""},
		"cancelled by itself":     {t.Context(), context.Canceled, 1, "narfold: context canceled\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := report(c.ctx, &stderr, c.err); code != c.code || stderr.String() != c.said {
				t.Errorf("exit code %d, said %q; want %d, %q", code, &stderr, c.code, c.said)
			}
		})
	}
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
)

// invocation is what a command is handed: the streams of the program, what the global flags say about using them, and a log.
type invocation struct {
	stdin  io.Reader // ends with the context's error when the context ends
	stdout io.Writer // for answers and data; an *os.File in production
	stderr *screen   // for people
	log    *slog.Logger
	json   bool // answer in JSON; see answer
	quiet  bool // show no progress

	jsonLog bool
}

func newInvocation(ctx context.Context, flags globalFlags, stdin io.Reader, stdout, stderr io.Writer) *invocation {
	inv := &invocation{
		stdin:   interruptible(ctx, stdin),
		stdout:  stdout,
		stderr:  newScreen(stderr),
		json:    flags.JSON,
		quiet:   flags.Quiet,
		jsonLog: flags.LogFormat == "json",
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(flags.LogLevel)); err != nil {
		level = slog.LevelInfo // not reached: the grammar lets nothing else through
	}
	options := &slog.HandlerOptions{Level: level}
	if inv.jsonLog {
		inv.log = slog.New(slog.NewJSONHandler(inv.stderr, options))
	} else {
		inv.log = slog.New(slog.NewTextHandler(inv.stderr, options))
	}
	return inv
}

// answer writes the answer to the command's question to standard output: v as one line of JSON if --json was given, else what
// people writes.
func (inv *invocation) answer(v any, people func(w io.Writer)) error {
	w := bufio.NewWriterSize(inv.stdout, 32<<10)
	if inv.json {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
	} else {
		people(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// data returns standard output for bytes that are no text. It refuses a terminal.
func (inv *invocation) data(what string) (io.Writer, error) {
	if f, ok := inv.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return nil, hint(usagef("write %s: standard output is a terminal", what), "the same command with > FILE at its end")
	}
	return inv.stdout, nil
}

package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// screen is standard error: lines for people, and on a terminal one line below them that is drawn again and again. Writes to it
// do not mix with that line, which is cleared before and drawn again after them.
type screen struct {
	terminal bool
	width    func() int // columns of the terminal

	mu   sync.Mutex
	w    io.Writer
	line string // what stands on the last line; "" for nothing
}

// clearLine returns to the first column and clears to the end of the line (ECMA-48, EL).
const clearLine = "\r\x1b[K"

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, width: func() int { return 80 }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.terminal = true
		s.width = func() int {
			if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
				return columns
			}
			return 80
		}
	}
	return s
}

// Write writes whole lines above the drawn one.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.w.Write(p)
	}
	// One write, so that the terminal shows no moment without the line.
	frame := append([]byte(clearLine), p...)
	if _, err := s.w.Write(append(frame, s.line...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// draw puts line, which must fit the width, in place of the drawn one; "" clears it. It does nothing if that is there already.
func (s *screen) draw(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == s.line {
		return
	}
	s.line = line
	_, _ = io.WriteString(s.w, clearLine+line) // a terminal that is gone need not see progress
}

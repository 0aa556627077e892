package nar

import (
	"errors"
	"fmt"
	"io"
)

// Why bytes are not a nar. Each comes wrapped in an *Error, which also is ErrInvalid.
var (
	// ErrInvalid is every one of the reasons below.
	ErrInvalid = errors.New("not a canonical nar")

	// ErrMagic says that the bytes do not begin as a nar does.
	ErrMagic = errors.New("does not begin with nix-archive-1")
	// ErrTruncated says that the bytes end before the nar does. It is io.ErrUnexpectedEOF too.
	ErrTruncated = fmt.Errorf("truncated: %w", io.ErrUnexpectedEOF)
	// ErrToken says that a word of the grammar stands where it may not, or is none.
	ErrToken = errors.New("unexpected token")
	// ErrPadding says that a string is not followed by zero bytes.
	ErrPadding = errors.New("padding is not zero")
	// ErrLength says that a token, name, target or file is longer than it can be.
	ErrLength = errors.New("length is out of bounds")
	// ErrName says that an entry's name is empty, "." or "..", or has a slash or a NUL byte.
	ErrName = errors.New("not a name for an entry")
	// ErrTarget says that a symbolic link's target is empty or has a NUL byte.
	ErrTarget = errors.New("not a target for a symbolic link")
	// ErrDuplicate says that a directory has an entry twice.
	ErrDuplicate = errors.New("duplicate entry")
	// ErrUnsorted says that a directory's entries are not in ascending order of their names' bytes.
	ErrUnsorted = errors.New("entries are not sorted")
	// ErrTooDeep says that the names down to an entry are together longer than MaxPath.
	ErrTooDeep = errors.New("path is too long")
	// ErrTrailing says that something follows the end of the nar.
	ErrTrailing = errors.New("bytes after the end")
)

// Error tells where bytes stop being a nar, and why.
type Error struct {
	Reason error  // one of the sentinels
	Offset int64  // bytes of the nar that were read before the offending one or the string that holds it
	Path   string // of the latest node that was entered; "" for the root
	Detail string // what was found, shortened; may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("nar: at byte %d", e.Offset)
	if e.Path != "" {
		s += fmt.Sprintf(", in %q", clip(e.Path))
	}
	s += ": " + e.Reason.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

// Is makes every Error an ErrInvalid.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// clip keeps hostile text from filling an error message.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

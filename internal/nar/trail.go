package nar

import (
	"bytes"
	"fmt"
)

// trail is where in the tree a Reader or Writer stands: the path of the latest node and the directories open above it. The
// name of the latest entry of the innermost open directory is thus at hand for the check of the order.
type trail struct {
	path  []byte
	dirs  []int // for each open directory, outermost first, the length of its path within path
	empty bool  // the innermost open directory has had no entry yet
}

// enter moves to the entry name of the innermost open directory, or tells the reason why there can be no such entry after
// the entries before.
func (t *trail) enter(name []byte) (detail string, reason error) {
	if detail, reason := checkName(name); reason != nil {
		return detail, reason
	}
	base := t.dirs[len(t.dirs)-1]
	if !t.empty {
		last := t.path[base:]
		if base > 0 {
			last = last[1:]
		}
		switch c := bytes.Compare(name, last); {
		case c == 0:
			return fmt.Sprintf("%q", name), ErrDuplicate
		case c < 0:
			return fmt.Sprintf("%q after %q", name, last), ErrUnsorted
		}
	}
	t.path = t.path[:base]
	if base > 0 {
		t.path = append(t.path, '/')
	}
	t.path = append(t.path, name...)
	t.empty = false
	if len(t.path) > MaxPath {
		return fmt.Sprintf("%d bytes", len(t.path)), ErrTooDeep
	}
	return "", nil
}

// open makes the latest node the innermost open directory.
func (t *trail) open() {
	t.dirs = append(t.dirs, len(t.path))
	t.empty = true
}

// close closes the innermost open directory, which becomes the latest node.
func (t *trail) close() {
	last := len(t.dirs) - 1
	t.path = t.path[:t.dirs[last]]
	t.dirs = t.dirs[:last]
	t.empty = false
}

// name returns the last name of the latest node's path; it is valid until the next move.
func (t *trail) name() []byte {
	return t.path[bytes.LastIndexByte(t.path, '/')+1:]
}

func checkName(name []byte) (detail string, reason error) {
	switch {
	case len(name) > MaxName:
		return fmt.Sprintf("name of %d bytes", len(name)), ErrLength
	case len(name) == 0:
		return "empty", ErrName
	case name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.'):
		return fmt.Sprintf("%q", name), ErrName
	case bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0:
		return fmt.Sprintf("%q", name), ErrName
	}
	return "", nil
}

func checkTarget(target []byte) (detail string, reason error) {
	switch {
	case len(target) > MaxTarget:
		return fmt.Sprintf("target of %d bytes", len(target)), ErrLength
	case len(target) == 0:
		return "empty", ErrTarget
	case bytes.IndexByte(target, 0) >= 0:
		return "has a NUL byte", ErrTarget
	}
	return "", nil
}

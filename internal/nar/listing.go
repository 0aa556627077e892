package nar

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// MaxListed is how many nodes List holds at most, about 200 bytes each besides their names. The largest store items that are
// distributed have some hundred thousand files.
const MaxListed = 1 << 20

// Errors of List and Open on which callers decide.
var (
	// ErrTooMany says that a nar has more than MaxListed nodes. It may be a nar nevertheless.
	ErrTooMany = errors.New("too many files to list")
	// ErrNotFile says that what was asked for is in the nar, but is not a regular file.
	ErrNotFile = errors.New("not a regular file")
)

// Node is a node of a nar's tree, without the contents of files.
type Node struct {
	Name       string // in its directory; "" for the root
	Type       Type
	Executable bool
	Size       int64  // of a file's contents in bytes
	Offset     int64  // of a file's contents from the start of the nar in bytes
	Target     string // of a symbolic link
	Entries    []*Node
}

// List reads a nar which r must hold and nothing else, and returns its tree.
func List(r io.Reader) (*Node, error) { return list(r, MaxListed) }

func list(r io.Reader, limit int) (*Node, error) {
	br := borrowReader(r)
	defer returnReader(br)
	nr := NewReader(br)
	var open []*Node // the open directories, outermost first
	var root *Node
	for count := 0; ; count++ {
		h, err := nr.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if count == limit {
			return nil, fmt.Errorf("list nar: %w: more than %d", ErrTooMany, limit)
		}
		n := &Node{Type: h.Type, Executable: h.Executable, Size: h.Size, Offset: h.Offset, Target: h.Target}
		depth := len(nr.dirs)
		if h.Type == Directory {
			depth-- // the Reader counts it as open already
		}
		open = open[:depth]
		if depth == 0 {
			root = n
		} else {
			n.Name = string(nr.name())
			parent := open[depth-1]
			parent.Entries = append(parent.Entries, n)
		}
		if h.Type == Directory {
			open = append(open, n)
		}
	}
	if err := nr.End(); err != nil {
		return nil, err
	}
	return root, nil
}

// Find returns the node at path below n ("" is n itself), or nil. Symbolic links are not followed.
func (n *Node) Find(path string) *Node {
	if path == "" {
		return n
	}
	name, rest, more := strings.Cut(path, "/")
	i, ok := slices.BinarySearchFunc(n.Entries, name, func(e *Node, name string) int { return strings.Compare(e.Name, name) })
	switch {
	case !ok || more && rest == "":
		return nil
	case more:
		return n.Entries[i].Find(rest)
	}
	return n.Entries[i]
}

// Section returns the contents of the file n out of its uncompressed nar.
func (n *Node) Section(nar io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(nar, n.Offset, n.Size)
}

// MarshalJSON writes n as `nix nar ls --json --recursive` does, which is also the "root" of the .ls files of a Nix binary
// cache. JSON has no way to write a name that is not UTF-8; its stray bytes become U+FFFD.
func (n *Node) MarshalJSON() ([]byte, error) { return n.appendJSON(nil) }

// appendJSON takes time in proportion to the tree, which nested calls of MarshalJSON would not.
func (n *Node) appendJSON(b []byte) (_ []byte, err error) {
	switch n.Type {
	case Regular:
		b = append(b, `{"type":"regular","size":`...)
		b = strconv.AppendInt(b, n.Size, 10)
		if n.Executable {
			b = append(b, `,"executable":true`...)
		}
		b = append(b, `,"narOffset":`...)
		b = strconv.AppendInt(b, n.Offset, 10)
		return append(b, '}'), nil
	case Symlink:
		b = append(b, `{"type":"symlink","target":`...)
		if b, err = appendJSONString(b, n.Target); err != nil {
			return nil, err
		}
		return append(b, '}'), nil
	}
	b = append(b, `{"type":"directory","entries":{`...)
	for i, e := range n.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendJSONString(b, e.Name); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = e.appendJSON(b); err != nil {
			return nil, err
		}
	}
	return append(b, "}}"...), nil
}

func appendJSONString(b []byte, s string) ([]byte, error) {
	text, err := json.Marshal(s)
	return append(b, text...), err
}

// Open goes forward through the nar in r to the regular file path ("" if the root is one) and returns its header and a
// reader of its contents, which fails as a Reader does. What follows the file in the nar is neither read nor checked. A path
// that is not in the nar is fs.ErrNotExist, known as soon as the nar is past its place; another kind of node is ErrNotFile.
func Open(r io.Reader, path string) (Header, io.Reader, error) {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, bufferSize)
	}
	nr := NewReader(br)
	for {
		h, err := nr.next()
		if err == io.EOF || err == nil && after(string(nr.path), path) {
			return Header{}, nil, fmt.Errorf("open in nar: %w", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
		}
		if err != nil {
			return Header{}, nil, err
		}
		if string(nr.path) != path {
			continue
		}
		if h.Type != Regular {
			return Header{}, nil, fmt.Errorf("open in nar: %w", &fs.PathError{Op: "open", Path: path, Err: ErrNotFile})
		}
		h.Path = path
		return h, nr, nil
	}
}

// after reports whether a comes after b in a nar: a slash sorts before every byte of a name.
func after(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			return y == '/' || x != '/' && x > y
		}
	}
	return len(a) > len(b)
}

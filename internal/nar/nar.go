// Package nar reads, writes, makes, restores and checks nars: the one deterministic archive of a store item, over whose bytes
// NarHash and every signature are computed. It holds nars to the canonical form only, in memory that does not depend on what
// the input claims, and it is at least as fast as the peers' own tools.
//
// The format, as `nix-store --dump` and Guix write it: a string is its length as 8 bytes little-endian, its bytes, and zero
// bytes up to the next multiple of 8. A nar is the string "nix-archive-1" and one node:
//
//	node      = "(" "type" ( regular | symlink | directory ) ")"
//	regular   = "regular" [ "executable" "" ] "contents" bytes
//	symlink   = "symlink" "target" bytes
//	directory = "directory" { "entry" "(" "name" bytes "node" node ")" }
//
// Entries are in strictly ascending order of the bytes of their names. Nothing follows the root node; a nar on a connection
// has no other mark of its end. (Source: E. Dolstra, "The Purely Functional Software Deployment Model", figure 5.2; the rules
// beyond it were found by comparing with nix-store.)
package nar

import (
	"encoding/binary"
	"fmt"
)

// Bounds on what a nar may hold. Neither Nix nor Guix can put a larger thing into a file system, so no nar made from a real
// store item meets them.
const (
	// MaxName is the longest name of a directory's entry in bytes: NAME_MAX.
	MaxName = 255
	// MaxTarget is the longest target of a symbolic link in bytes: PATH_MAX less the final NUL.
	MaxTarget = 4095
	// MaxPath is the longest path of an entry below the root in bytes: PATH_MAX less the final NUL, since the peers address
	// what they dump and restore by whole paths. It bounds the depth too, at 2,048 directories.
	MaxPath = 4095
)

// Type says what a node is.
type Type uint8

// The kinds of node that a nar can hold.
const (
	Regular Type = iota + 1
	Symlink
	Directory
)

// String returns the word that the format uses.
func (t Type) String() string {
	switch t {
	case Regular:
		return "regular"
	case Symlink:
		return "symlink"
	case Directory:
		return "directory"
	}
	return fmt.Sprintf("nar.Type(%d)", uint8(t))
}

// Header describes one node.
type Header struct {
	Path       string // names from the root joined by slashes; "" is the root
	Type       Type
	Executable bool   // regular files only
	Size       int64  // of the contents, in bytes; regular files only
	Offset     int64  // of the contents from the start of the nar, in bytes; regular files only; a Writer ignores it
	Target     string // symbolic links only
}

// encoded returns tokens as the format writes them, one after another.
func encoded(tokens ...string) string {
	var b []byte
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(t)))
		b = append(b, t...)
		b = append(b, zeros[:padding(int64(len(t)))]...)
	}
	return string(b)
}

// padding returns how many zero bytes follow n bytes.
func padding(n int64) int { return int(-n & 7) }

var zeros [8]byte

// The runs of tokens between which only names, targets and contents vary.
var (
	tokMagic      = encoded("nix-archive-1")
	tokType       = encoded("(", "type")
	tokExecutable = encoded("", "contents") // what follows "executable"
	tokTarget     = encoded("target")
	tokName       = encoded("(", "name") // what follows "entry"
	tokNode       = encoded("node")
	tokClose      = encoded(")")
	tokCloseTwice = encoded(")", ")") // a node and the entry that holds it
	tokFile       = encoded("(", "type", "regular", "contents")
	tokProgram    = encoded("(", "type", "regular", "executable", "", "contents")
	tokSymlink    = encoded("(", "type", "symlink", "target")
	tokDirectory  = encoded("(", "type", "directory")
	tokEntry      = encoded("entry", "(", "name")
)

// maxToken is the length of the longest word of the grammar after the magic: "executable".
const maxToken = 10

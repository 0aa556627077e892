// Package sexp reads and prints the s-expressions of libgcrypt, in which Guix writes its keys, access lists and signatures.
//
// An expression is an atom (bytes) or a list of expressions. Of libgcrypt's text forms the one called advanced is read, in any
// layout; the canonical form with its length prefixes is refused, as it cannot travel in a narinfo. Printing gives the
// same bytes as libgcrypt 1.10, so that what is signed with it can be signed here.
package sexp

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits on what Parse accepts.
const (
	MaxSize  = 1 << 20 // bytes of text: an access list of some 6,000 keys
	MaxDepth = 32      // lists within lists
	MaxItems = 1 << 17 // atoms and lists in all
)

// Errors on which callers decide. Every error of Parse wraps ErrInvalid; the other two tell that a limit is the reason.
var (
	ErrInvalid  = errors.New("not an s-expression")
	ErrTooDeep  = errors.New("lists nested too deeply")
	ErrTooLarge = errors.New("s-expression too large")
)

// SyntaxError tells where the text stops making sense. Offset counts bytes from 0.
type SyntaxError struct {
	Offset int
	Reason error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("parse s-expression at byte %d: %v", e.Offset, e.Reason)
}

// Unwrap lets errors.Is find ErrInvalid and the reason.
func (e *SyntaxError) Unwrap() []error { return []error{ErrInvalid, e.Reason} }

// Sexp is an expression. The zero value is the empty atom. A Sexp is not changed once made.
type Sexp struct {
	atom  []byte
	items []Sexp
	list  bool
}

// Atom returns the atom that holds b, which must not be changed afterwards.
func Atom(b []byte) Sexp { return Sexp{atom: b} }

// Token returns the atom that holds the bytes of s.
func Token(s string) Sexp { return Sexp{atom: []byte(s)} }

// List returns the list of items.
func List(items ...Sexp) Sexp { return Sexp{items: items, list: true} }

// IsList reports whether s is a list.
func (s Sexp) IsList() bool { return s.list }

// Bytes returns what an atom holds, and nil for a list. The caller must not change it.
func (s Sexp) Bytes() []byte { return s.atom }

// Items returns the elements of a list, and nil for an atom. The caller must not change them.
func (s Sexp) Items() []Sexp { return s.items }

// Is reports whether s is the atom t.
func (s Sexp) Is(t string) bool { return !s.list && string(s.atom) == t }

// Tail returns what follows the head of a list whose first element is the atom head.
func (s Sexp) Tail(head string) ([]Sexp, bool) {
	if !s.list || len(s.items) == 0 || !s.items[0].Is(head) {
		return nil, false
	}
	return s.items[1:], true
}

// Equal reports whether s and o have the same structure and the same bytes in their atoms, however they were written.
func (s Sexp) Equal(o Sexp) bool {
	if s.list != o.list || len(s.items) != len(o.items) || !bytes.Equal(s.atom, o.atom) {
		return false
	}
	for i := range s.items {
		if !s.items[i].Equal(o.items[i]) {
			return false
		}
	}
	return true
}

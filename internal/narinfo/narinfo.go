// Package narinfo reads and writes the small signed text that says a nar exists, in the dialects of GNU Guix and of Nix.
//
// Reading is without loss: the bytes of the origin are kept beside the parsed fields, since signatures cover them, and
// WithFiles changes where the nar is to be had without touching what was signed. Reading is also strict: a narinfo is
// accepted only if the clients of its dialect read the same thing in it, because one malformed narinfo stops a Guix client
// for all the items it asked for. Field meanings and orders are those that guix publish and nix copy write.
package narinfo

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Limits on what Parse accepts. The largest narinfo seen in the field has 484 kB, all of it references.
const (
	MaxSize       = 2 << 20 // bytes of the whole text
	MaxLines      = 512
	MaxReferences = 32768
	MaxFiles      = 32   // URLs
	MaxURL        = 8192 // bytes of one URL
)

// UnknownSize is the FileSize of a file whose size the narinfo does not tell.
const UnknownSize = -1

// Errors on which callers decide. Every error of Parse wraps ErrInvalid, one of the kinds below it, and is a *FieldError.
var (
	ErrInvalid = errors.New("not an acceptable narinfo")

	ErrTooLarge  = errors.New("too large")                                               // a limit above is passed
	ErrLine      = errors.New("want lines of \"Name: value\", each ended by one LF")     // blank line, CR, no final LF, no ": "
	ErrControl   = errors.New("has a control character or is not UTF-8")                 // anywhere
	ErrMissing   = errors.New("missing")                                                 // a mandatory field
	ErrDuplicate = errors.New("given twice")                                             // a field that may occur once
	ErrPath      = errors.New("not a store item")                                        // StorePath, References, Deriver
	ErrHash      = errors.New("not a SHA-256 in an accepted spelling")                   // NarHash, FileHash
	ErrSize      = errors.New("not a size in bytes")                                     // NarSize, FileSize
	ErrURL       = errors.New("not a URL that may be followed")                          // URL
	ErrGroups    = errors.New("URL, Compression, FileHash and FileSize do not pair up")  // clients would pair them differently
	ErrUncovered = errors.New("the signature does not cover what it must")               // a mandatory field below Signature
	ErrMismatch  = errors.New("the narinfo is of another store item than was asked for") // Check
)

// FieldError names the field and the line at fault. Line counts from 1; it is 0 when the fault has no line, as for a field that
// is missing.
type FieldError struct {
	Field string
	Line  int
	Kind  error // one of the kinds above
	Cause error // what is wrong with the value; may be nil
}

func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString("narinfo")
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	b.WriteString(": " + e.Kind.Error())
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	return b.String()
}

// Unwrap lets errors.Is find ErrInvalid, the kind and the cause.
func (e *FieldError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrInvalid, e.Kind}
	}
	return []error{ErrInvalid, e.Kind, e.Cause}
}

// File is one place and form in which the nar is to be had.
type File struct {
	URL         string          // relative to the server's root, or absolute http(s)
	Compression compress.Method // as written; may be a name that this program does not know
	FileHash    digest.SHA256   // of the compressed file; zero if not known
	FileSize    int64           // bytes of the compressed file; UnknownSize if not known
}

// Field is a line that this program gives no meaning to.
type Field struct{ Name, Value string }

// Narinfo is a parsed narinfo. Its slices belong to it; treat them as read-only, since Raw would not follow a change.
type Narinfo struct {
	Raw        []byte // the text as it was received; nil if the narinfo was not parsed
	StorePath  storepath.Path
	NarHash    digest.SHA256
	NarSize    int64 // bytes of the uncompressed nar; above 0
	References []storepath.Base
	Deriver    storepath.Base // "" if not known
	System     string
	CA         string // Nix: the content address
	Sigs       []string
	Signature  string // Guix: the value of the field, see package guixkey; "" if there is none
	Files      []File // at least one
	Unknown    []Field

	signedLen int // bytes of Raw before "Signature:", or -1
}

// IsGuix reports whether the narinfo is read by Guix's rules: its item is in /gnu/store or it has Guix's kind of signature.
func (n *Narinfo) IsGuix() bool { return n.StorePath.Dir == storepath.Guix || n.Signature != "" }

// SignedPart returns the bytes that Guix's signature covers: all before the first "Signature:". It is nil if there is no such
// signature. The slice is part of Raw.
func (n *Narinfo) SignedPart() []byte {
	if n.Raw == nil || n.signedLen < 0 {
		return nil
	}
	return n.Raw[:n.signedLen:n.signedLen]
}

// FilesAreSigned reports whether the URLs stand above Guix's signature, as guix publish wrote them until February 2022. Such a
// narinfo can only be served as it is.
func (n *Narinfo) FilesAreSigned() bool {
	for line := range bytes.Lines(n.SignedPart()) {
		if isFileLine(line) {
			return true
		}
	}
	return false
}

// Check reports ErrMismatch unless the narinfo is that of the item asked for. Clients refuse a narinfo of another item.
func (n *Narinfo) Check(hp storepath.HashPart) error {
	if n.StorePath.HashPart() != hp {
		return fmt.Errorf("check narinfo of %s, asked for %s: %w", n.StorePath, hp, ErrMismatch)
	}
	return nil
}

// Fingerprint returns the text that Nix signs: 1;<StorePath>;<NarHash>;<NarSize>;<references>, the hash in nix-base32 however the
// narinfo spells it, and the references as whole paths, sorted, joined by commas.
func (n *Narinfo) Fingerprint() string {
	refs := n.References
	if !slices.IsSorted(refs) {
		refs = slices.Sorted(slices.Values(refs))
	}
	dir := string(n.StorePath.Dir) + "/"
	size := 160 + 2*len(dir)
	for _, r := range refs {
		size += len(dir) + len(r) + 1
	}
	var b strings.Builder
	b.Grow(size)
	fmt.Fprintf(&b, "1;%s;%s;%d;", n.StorePath, n.NarHash, n.NarSize)
	for i, r := range refs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(dir)
		b.WriteString(string(r))
	}
	return b.String()
}

// Package derivation reads and writes build recipes (.drv files) and computes the store paths that follow from them.
//
// The format is the ATerm Derive(outputs, input derivations, input sources, system, builder, arguments, environment) that GNU
// Guix and Nix share. What Parse accepts prints as the same bytes, since a recipe's own name is a hash of them.
package derivation

import (
	"errors"
	"fmt"
	"slices"

	"narfold/internal/storepath"
)

// Limits on what Parse accepts.
const (
	MaxSize    = 16 << 20 // bytes
	MaxStrings = 1 << 20  // strings in all
)

// Errors on which callers decide. Every error of Parse wraps ErrInvalid; the two after it tell more.
var (
	ErrInvalid  = errors.New("not a derivation")
	ErrVersion  = errors.New("a derivation of a newer format than is known here")
	ErrTooLarge = errors.New("derivation too large")
)

// SyntaxError tells where the text stops making sense. Offset counts bytes from 0.
type SyntaxError struct {
	Offset int
	Reason error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("parse derivation at byte %d: %v", e.Offset, e.Reason)
}

// Unwrap lets errors.Is find ErrInvalid and the reason.
func (e *SyntaxError) Unwrap() []error { return []error{ErrInvalid, e.Reason} }

// Output is one thing that the build makes.
type Output struct {
	Name string         // "out" and others
	Path storepath.Path // zero if it is known only after the build, as Nix's content-addressed ones are
	// HashAlgo and Hash are empty unless the content was fixed beforehand. HashAlgo is such as sha256, r:sha256 (of the
	// nar) or md5; Hash is in hexadecimal digits. A HashAlgo without Hash is Nix's content-addressed kind.
	HashAlgo, Hash string
}

// Input is a derivation whose outputs are needed.
type Input struct {
	Path    storepath.Path
	Outputs []string
}

// Variable is one of the builder's environment.
type Variable struct{ Name, Value string }

// Derivation is a parsed recipe. The lists are in the order of the file, which for both projects is ascending.
type Derivation struct {
	Outputs   []Output
	InputDrvs []Input
	InputSrcs []storepath.Path
	System    string // such as x86_64-linux
	Builder   string // a program, or builtin:download and the like
	Args      []string
	Env       []Variable
}

// IsFixedOutput reports whether the content of the only output was known beforehand, as that of a source tarball is. Such a
// build may use the network.
func (d *Derivation) IsFixedOutput() bool {
	return len(d.Outputs) == 1 && d.Outputs[0].Name == "out" && d.Outputs[0].HashAlgo != "" && d.Outputs[0].Hash != ""
}

// References returns the items that the .drv itself refers to, its input derivations and sources, ascending and each once: what
// the narinfo of a .drv must list.
func (d *Derivation) References() []storepath.Base {
	refs := make([]storepath.Base, 0, len(d.InputDrvs)+len(d.InputSrcs))
	for _, in := range d.InputDrvs {
		refs = append(refs, in.Path.Base)
	}
	for _, src := range d.InputSrcs {
		refs = append(refs, src.Base)
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}

// Output returns the output of that name.
func (d *Derivation) Output(name string) (Output, bool) {
	for _, o := range d.Outputs {
		if o.Name == name {
			return o, true
		}
	}
	return Output{}, false
}

// Lookup returns the value of an environment variable.
func (d *Derivation) Lookup(name string) (string, bool) {
	for _, v := range d.Env {
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

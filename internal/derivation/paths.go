package derivation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"narfold/internal/digest"
	"narfold/internal/nixbase32"
	"narfold/internal/storepath"
)

// Errors of the computations.
var (
	// ErrFloating says that a path is known only after a build: the derivation, or one that it needs, is content-addressed.
	ErrFloating = errors.New("output path is known only after the build")
	// ErrCycle says that a derivation needs itself.
	ErrCycle = errors.New("derivation needs itself")
	// ErrName says that a .drv's name cannot make the names of its outputs.
	ErrName = errors.New("not the name of a derivation")
)

// StorePath computes the path of an item: dir and the hash part from sha256(kind ":sha256:" hex ":" dir ":" name) folded to 20 bytes.
// The kind is such as output:out, source, or text:REFERENCE:REFERENCE.
func StorePath(dir storepath.Dir, kind string, inner digest.SHA256, name string) (storepath.Path, error) {
	sum := digest.Of([]byte(kind + ":sha256:" + inner.Hex() + ":" + string(dir) + ":" + name))
	var short [20]byte
	for i, b := range sum {
		short[i%len(short)] ^= b
	}
	base, err := storepath.ParseBase(nixbase32.Encode(short[:]) + "-" + name)
	if err != nil {
		return storepath.Path{}, fmt.Errorf("compute path of %.100q: %w", name, err)
	}
	return storepath.Path{Dir: dir, Base: base}, nil
}

// PathOf computes the path of the .drv itself, given the name that its outputs begin with.
func (d *Derivation) PathOf(dir storepath.Dir, name string) (storepath.Path, error) {
	kind := "text"
	for _, ref := range d.References() {
		kind += ":" + storepath.Path{Dir: dir, Base: ref}.String()
	}
	return StorePath(dir, kind, digest.Of(d.Append(nil)), name+".drv")
}

// Hasher computes what follows from a graph of derivations. It remembers each hash, so that a graph costs one look at each of its
// derivations. It is not for several goroutines at once.
type Hasher struct {
	load func(storepath.Path) (*Derivation, error)
	memo map[storepath.Path]digest.SHA256 // zero while it is being computed
}

// NewHasher returns a Hasher that gets the derivations it needs from load.
func NewHasher(load func(storepath.Path) (*Derivation, error)) *Hasher {
	return &Hasher{load: load, memo: make(map[storepath.Path]digest.SHA256)}
}

// Modulo returns the hash by which the derivation at p counts in the paths of those that need it. Fixed outputs count by
// their content alone, so that another way to fetch the same source changes nothing downstream.
func (h *Hasher) Modulo(p storepath.Path) (digest.SHA256, error) {
	if sum, ok := h.memo[p]; ok {
		if sum.IsZero() {
			return digest.SHA256{}, fmt.Errorf("hash %s: %w", p, ErrCycle)
		}
		return sum, nil
	}
	d, err := h.load(p)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("hash %s: %w", p, err)
	}
	h.memo[p] = digest.SHA256{}
	sum, err := h.modulo(d, false)
	if err != nil {
		delete(h.memo, p)
		return digest.SHA256{}, err
	}
	h.memo[p] = sum
	return sum, nil
}

func (h *Hasher) modulo(d *Derivation, withoutOutputs bool) (digest.SHA256, error) {
	if d.IsFixedOutput() && !withoutOutputs {
		o := d.Outputs[0]
		return digest.Of([]byte("fixed:out:" + o.HashAlgo + ":" + o.Hash + ":" + o.Path.String())), nil
	}
	for _, o := range d.Outputs {
		if o.HashAlgo != "" || !withoutOutputs && o.Path == (storepath.Path{}) {
			return digest.SHA256{}, fmt.Errorf("output %s: %w", o.Name, ErrFloating)
		}
	}
	// Inputs of the same hash, such as two ways to fetch one source, become one.
	byHash := make(map[string][]string, len(d.InputDrvs))
	for _, in := range d.InputDrvs {
		sum, err := h.Modulo(in.Path)
		if err != nil {
			return digest.SHA256{}, err
		}
		byHash[sum.Hex()] = append(byHash[sum.Hex()], in.Outputs...)
	}
	inputs := make([]hashed, 0, len(byHash))
	for hash, outputs := range byHash {
		slices.Sort(outputs)
		inputs = append(inputs, hashed{hash, slices.Compact(outputs)})
	}
	slices.SortFunc(inputs, func(a, b hashed) int { return strings.Compare(a.hash, b.hash) })
	return digest.Of(d.masked(nil, inputs, withoutOutputs)), nil
}

// OutputPaths computes the paths of the outputs of d, which lies at p, in the order of d.Outputs, from what goes into it and
// not from what it says. A derivation whose own paths differ is not one that its daemon would build.
func (h *Hasher) OutputPaths(p storepath.Path, d *Derivation) ([]storepath.Path, error) {
	name, ok := strings.CutSuffix(p.Name(), ".drv")
	if !ok || name == "" {
		return nil, fmt.Errorf("compute outputs of %s: %w", p, ErrName)
	}
	if d.IsFixedOutput() {
		out, err := fixedPath(p.Dir, d.Outputs[0], name)
		if err != nil {
			return nil, fmt.Errorf("compute output of %s: %w", p, err)
		}
		return []storepath.Path{out}, nil
	}
	sum, err := h.modulo(d, true)
	if err != nil {
		return nil, fmt.Errorf("compute outputs of %s: %w", p, err)
	}
	paths := make([]storepath.Path, len(d.Outputs))
	for i, o := range d.Outputs {
		full := name
		if o.Name != "out" {
			full += "-" + o.Name
		}
		if paths[i], err = StorePath(p.Dir, "output:"+o.Name, sum, full); err != nil {
			return nil, fmt.Errorf("compute outputs of %s: %w", p, err)
		}
	}
	return paths, nil
}

// fixedPath computes where content that is known beforehand goes. Only hashes of nars by SHA-256 make the path of a source.
func fixedPath(dir storepath.Dir, o Output, name string) (storepath.Path, error) {
	if o.HashAlgo == "r:sha256" {
		sum, err := digest.Parse("sha256:" + o.Hash)
		if err != nil {
			return storepath.Path{}, err
		}
		return StorePath(dir, "source", sum, name)
	}
	return StorePath(dir, "output:out", digest.Of([]byte("fixed:out:"+o.HashAlgo+":"+o.Hash+":")), name)
}

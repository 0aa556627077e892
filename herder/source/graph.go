package source

import (
	"cmp"
	"iter"
	"slices"

	"narfold/internal/storepath"
)

// graph holds which node references which, nodes being numbers from 0. It takes 9 bytes for each node and 4 for each reference,
// and half as much again while it grows, so that ten million items with ten references each fit into 700 MB together with their
// hash parts.
type graph struct {
	start []int64  // where in refs the node's row begins, or absent
	refs  []uint32 // rows: the number of references, then the references
	state []byte   // of order
}

// absent marks a node that something references and the source does not have.
const absent = -1

// grow makes room for nodes below n, absent at first.
func (g *graph) grow(n int) {
	for len(g.start) < n {
		g.start = append(g.start, absent)
	}
}

// set gives a node its references; those to itself are dropped, since they order nothing.
func (g *graph) set(node uint32, refs []uint32) {
	g.grow(int(node) + 1)
	g.start[node] = int64(len(g.refs))
	g.refs = append(g.refs, 0)
	for _, r := range refs {
		if r != node {
			g.refs = append(g.refs, r)
			g.refs[g.start[node]]++
		}
	}
}

func (g *graph) has(node uint32) bool { return int(node) < len(g.start) && g.start[node] != absent }

// of returns the references of a node that is there.
func (g *graph) of(node uint32) []uint32 {
	at := g.start[node]
	return g.refs[at+1 : at+1+int64(g.refs[at])]
}

// count returns how many nodes are there.
func (g *graph) count() (n int64) {
	for _, s := range g.start {
		if s != absent {
			n++
		}
	}
	return n
}

// order yields the nodes that are there, each after those that it references, except in circles.
func (g *graph) order() iter.Seq[uint32] {
	const (
		unseen = iota
		seen
	)
	type frame struct {
		node uint32
		next uint32 // how many of its references were looked at
	}
	return func(yield func(uint32) bool) {
		g.state = slices.Grow(g.state[:0], len(g.start))[:len(g.start)]
		clear(g.state)
		var stack []frame
		for first := range g.start {
			if g.start[first] == absent || g.state[first] != unseen {
				continue
			}
			g.state[first] = seen
			stack = append(stack[:0], frame{node: uint32(first)})
			for len(stack) > 0 {
				top := &stack[len(stack)-1]
				refs := g.of(top.node)
				if int(top.next) == len(refs) {
					if !yield(top.node) {
						return
					}
					stack = stack[:len(stack)-1]
					continue
				}
				r := refs[top.next]
				top.next++
				if g.has(r) && g.state[r] == unseen {
					g.state[r] = seen
					stack = append(stack, frame{node: r})
				}
			}
		}
	}
}

// part is a hash part in 20 bytes.
type part [20]byte

func partOf(h storepath.HashPart) part { return part(h.Bytes()) }

func (p part) hashPart() storepath.HashPart { return storepath.HashPartOf(p) }

func compareParts(a, b part) int {
	for i := range a {
		if a[i] != b[i] {
			return cmp.Compare(a[i], b[i])
		}
	}
	return 0
}

// numbers gives hash parts numbers as they are met: 20 bytes for each in a list and about 40 in a map.
type numbers struct {
	parts []part
	known map[part]uint32
}

// of returns the number of p, and whether it is new.
func (n *numbers) of(p part) (id uint32, fresh bool) {
	if id, ok := n.known[p]; ok {
		return id, false
	}
	if n.known == nil {
		n.known = map[part]uint32{}
	}
	id = uint32(len(n.parts))
	n.known[p] = id
	n.parts = append(n.parts, p)
	return id, true
}

// listed gives numbers to hash parts that are known beforehand: 20 bytes for each.
type listed []part

// newListed sorts parts, which it keeps, and drops what is there twice.
func newListed(parts []part) listed {
	slices.SortFunc(parts, compareParts)
	return slices.Compact(parts)
}

func (l listed) of(p part) (id uint32, ok bool) {
	i, ok := slices.BinarySearchFunc(l, p, compareParts)
	return uint32(i), ok
}

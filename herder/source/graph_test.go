package source

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

func ordered(g *graph) []uint32 { return slices.Collect(g.order()) }

func TestReferencesComeFirst(t *testing.T) {
	var g graph
	g.set(0, []uint32{1, 2, 0}) // and itself
	g.set(1, []uint32{3})
	g.set(2, []uint32{3, 9}) // 9 is not there
	g.set(3, nil)
	if got, want := ordered(&g), []uint32{3, 1, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("ordered %v, want %v", got, want)
	}
	if g.count() != 4 || g.has(9) {
		t.Errorf("%d nodes, node 9: %v", g.count(), g.has(9))
	}
}

func TestACircleIsListedOnce(t *testing.T) {
	var g graph
	g.set(0, []uint32{1})
	g.set(1, []uint32{2})
	g.set(2, []uint32{0, 3})
	g.set(3, nil)
	got := ordered(&g)
	if slices.Index(got, 3) > slices.Index(got, 2) || len(got) != 4 {
		t.Errorf("ordered %v", got)
	}
}

func TestARandomGraphIsOrderedAndAReaderMayLeave(t *testing.T) {
	const nodes = 5000
	r := rand.New(rand.NewPCG(1, 2))
	name := r.Perm(nodes) // so that numbers tell nothing of the order
	refs := make([][]uint32, nodes)
	for i := 1; i < nodes; i++ {
		for range r.IntN(8) {
			refs[name[i]] = append(refs[name[i]], uint32(name[r.IntN(i)]))
		}
	}
	var g graph
	g.grow(nodes)
	for _, i := range r.Perm(nodes) {
		g.set(uint32(i), refs[i])
	}
	at := make([]int, nodes)
	for i, node := range ordered(&g) {
		at[node] = i + 1
	}
	for i, rs := range refs {
		for _, ref := range rs {
			if at[i] == 0 || at[ref] > at[i] {
				t.Fatalf("node %d at %d, its reference %d at %d", i, at[i], ref, at[ref])
			}
		}
	}
	left := 0
	for range g.order() {
		if left++; left == 10 {
			break
		}
	}
	if got := ordered(&g); len(got) != nodes {
		t.Errorf("%d nodes after a reader left", len(got))
	}
}

// A chain is the deepest graph: the order must not need the stack of the program.
func TestAMillionItemsInAChainFitTheirMemory(t *testing.T) {
	const nodes, each = 1_000_000, 10
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var g graph
	g.grow(nodes)
	row := make([]uint32, 0, each)
	for i := range uint32(nodes) {
		row = row[:0]
		for k := uint32(1); k <= each && k <= i; k++ {
			row = append(row, i-k)
		}
		g.set(nodes-1-i, mirror(row, nodes))
	}
	last := uint32(nodes)
	for node := range g.order() {
		if node != last-1 {
			t.Fatalf("%d after %d", node, last)
		}
		last = node
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perItem := float64(after.HeapAlloc-before.HeapAlloc) / nodes
	runtime.KeepAlive(&g)
	t.Logf("%.0f bytes for each item with %d references", perItem, each)
	if perItem > 9+4*(each+1)*1.6 {
		t.Errorf("%.0f bytes for each item", perItem)
	}
}

// mirror turns numbers around, so that the order of the list is not that of the numbers.
func mirror(row []uint32, nodes uint32) []uint32 {
	for i := range row {
		row[i] = nodes - 1 - row[i]
	}
	return row
}

func TestNumbersAreGivenOnceToEachHashPart(t *testing.T) {
	var n numbers
	a, b := part{1}, part{2}
	if id, fresh := n.of(a); id != 0 || !fresh {
		t.Errorf("first: %d, %v", id, fresh)
	}
	if id, fresh := n.of(b); id != 1 || !fresh {
		t.Errorf("second: %d, %v", id, fresh)
	}
	if id, fresh := n.of(a); id != 0 || fresh {
		t.Errorf("first again: %d, %v", id, fresh)
	}
	l := newListed([]part{b, a, b})
	if id, ok := l.of(b); len(l) != 2 || id != 1 || !ok {
		t.Errorf("listed %v: %d, %v", l, id, ok)
	}
	if _, ok := l.of(part{3}); ok {
		t.Error("what is not listed has a number")
	}
}

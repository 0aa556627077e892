package serve

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"narfold/internal/storepath"
)

// absence tells what is certainly not published, from memory.
type absence interface {
	// Remember fills the memory. Until it has returned, Absent knows nothing.
	Remember(ctx context.Context) error
	// Absent reports whether h is certainly not published. False says nothing.
	Absent(ctx context.Context, h storepath.HashPart) (bool, error)
}

// absenceOf returns the catalogue's own memory, if it has one, and else a table.
func absenceOf(c Catalogue) absence {
	if own, ok := c.(absence); ok {
		return own
	}
	return &known{catalogue: c}
}

// known is a table in memory of everything that is published, so that a request for what is not costs no look-up. A client that asks
// what a server has of a thousand items mostly hears that it has not.
//
// It keeps eight of the twenty bytes of each hash part, which are as random as any: 11 to 22 bytes an item. What it does not find is
// certainly absent as of the version of the catalogue that it was filled from, and that version is compared at each request; what it
// finds is looked up. So an answer is never wrong, and at most not fast.
type known struct {
	catalogue interface {
		Version(ctx context.Context) (int64, error)
		EachHashPart(ctx context.Context, after int64, f func([20]byte)) (last int64, err error)
	}

	mu      sync.RWMutex
	filled  bool  // once; until then everything is looked up
	version int64 // of the catalogue, asked before the table was filled from it
	last    int64 // sequence of the last item in it
	tags    tags
}

// Remember fills the table for the first time. Requests are answered meanwhile, by looking up.
func (k *known) Remember(ctx context.Context) error {
	var t tags
	version, err := k.catalogue.Version(ctx)
	if err != nil {
		return fmt.Errorf("fill the table of hash parts: %w", err)
	}
	last, err := k.catalogue.EachHashPart(ctx, 0, t.add)
	if err != nil {
		return fmt.Errorf("fill the table of hash parts: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tags, k.version, k.last, k.filled = t, version, last, true
	return nil
}

// update adds what was published since the table was filled.
func (k *known) update(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	version, err := k.catalogue.Version(ctx)
	if err != nil {
		return fmt.Errorf("update the table of hash parts: %w", err)
	}
	if version == k.version {
		return nil // another request has done it
	}
	last, err := k.catalogue.EachHashPart(ctx, k.last, k.tags.add)
	if err != nil {
		return fmt.Errorf("update the table of hash parts: %w", err) // what was added is published, and will be added again
	}
	k.version, k.last = version, last
	return nil
}

// Absent implements absence.
func (k *known) Absent(ctx context.Context, h storepath.HashPart) (bool, error) {
	hash := h.Bytes()
	version, err := k.catalogue.Version(ctx)
	if err != nil {
		return false, err
	}
	k.mu.RLock()
	filled, current, has := k.filled, k.version == version, k.tags.has(hash)
	k.mu.RUnlock()
	switch {
	case has || !filled:
		return false, nil
	case current:
		return true, nil
	}
	if err := k.update(ctx); err != nil {
		return false, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return !k.tags.has(hash), nil
}

// tags is a set of eight-byte tags.
type tags struct {
	slots []uint64 // open addressing by linear probing; a power of two of them; zero is free
	used  int
	zero  bool // an item whose eight bytes are zero is published
}

func tag(hash [20]byte) uint64 { return binary.LittleEndian.Uint64(hash[:]) }

func (t *tags) has(hash [20]byte) bool {
	v := tag(hash)
	if v == 0 {
		return t.zero
	}
	return len(t.slots) > 0 && t.slots[t.slot(v)] == v
}

// slot returns where v is, or would be.
func (t *tags) slot(v uint64) int {
	mask := len(t.slots) - 1
	i := int(v) & mask
	for t.slots[i] != 0 && t.slots[i] != v {
		i = (i + 1) & mask
	}
	return i
}

func (t *tags) add(hash [20]byte) {
	v := tag(hash)
	if v == 0 {
		t.zero = true
		return
	}
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]uint64, max(1024, 2*len(old)))
		for _, v := range old {
			if v != 0 {
				t.slots[t.slot(v)] = v
			}
		}
	}
	if i := t.slot(v); t.slots[i] == 0 {
		t.slots[i] = v
		t.used++
	}
}

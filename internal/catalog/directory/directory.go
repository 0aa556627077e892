// Package directory keeps in memory which items a catalogue has: for each its number, its hash part and its name, in some 33 bytes. So
// whoever asks for what is not there costs no look-up, what is there is found by its number instead of by its hash, and the names of
// references, of which an item has nine, are not read from the disk.
//
// Numbers are those of a catalogue that never gives one twice: from 1, ascending in time, with gaps. What a directory says of a
// number is right for ever; that it does not know one says nothing. Nothing is taken out again: of what it says is there, the catalogue is asked.
package directory

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"sync"

	"narfold/internal/nixbase32"
	"narfold/internal/storepath"
)

// A chunk has the items of so many consecutive numbers.
const (
	chunkBits = 12
	chunkSize = 1 << chunkBits
)

// entry is an item. There is no pointer in it, so that the collector does not look at it.
type entry struct {
	hash [20]byte
	name uint32 // where it is in names; 0 if it was not kept
}

// chunk has an entry for each number whose bit is set, in their order.
type chunk struct {
	bits    [chunkSize / 64]uint64
	before  [chunkSize / 64]uint16 // how many bits are set in the words before
	entries []entry
}

// rank returns where the entry of the number with these low bits is, or would be.
func (c *chunk) rank(low int64) (at int, there bool) {
	word, bit := low/64, uint64(1)<<(low%64)
	return int(c.before[word]) + bits.OnesCount64(c.bits[word]&(bit-1)), c.bits[word]&bit != 0
}

// Directory is a set of items that only grows. Its zero value is empty. It is safe for concurrent use.
type Directory struct {
	mu     sync.RWMutex
	chunks []*chunk
	// slots are the numbers of items, the last of each hash part, by the hash parts, which are as random as any hash: open addressing by
	// linear probing. 0 is free.
	slots []uint32
	used  int
	names names
}

// Add adds an item. Numbers come in ascending order; one that is not greater than all before is taken for one of them, and so is one of
// more than 32 bits: nothing is changed.
func (d *Directory) Add(id int64, hash [20]byte, name []byte) { d.add(id, hash, name, d.slot) }

// AddFirst is Add for an item whose hash part no other has that was added, which takes half the time: nothing is compared.
func (d *Directory) AddFirst(id int64, hash [20]byte, name []byte) { d.add(id, hash, name, d.free) }

func (d *Directory) add(id int64, hash [20]byte, name []byte, place func(hash [20]byte) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id <= 0 || id > math.MaxUint32 {
		return
	}
	at := int(id >> chunkBits)
	if at < len(d.chunks)-1 {
		return
	}
	if len(d.chunks) <= at {
		if last := len(d.chunks) - 1; last >= 0 {
			d.chunks[last].entries = slices.Clone(d.chunks[last].entries) // no room for more
		}
		for len(d.chunks) < at {
			d.chunks = append(d.chunks, nil)
		}
		d.chunks = append(d.chunks, new(chunk))
	}
	c, low := d.chunks[at], id&(chunkSize-1)
	rank, there := c.rank(low)
	if there || rank < len(c.entries) {
		return
	}
	c.bits[low/64] |= 1 << (low % 64)
	for w := low/64 + 1; w < int64(len(c.before)); w++ {
		c.before[w]++
	}
	c.entries = append(c.entries, entry{hash, d.names.put(name)})
	if 4*(d.used+1) > 3*len(d.slots) {
		d.resize(max(1024, 2*len(d.slots)))
	}
	i := place(hash)
	if d.slots[i] == 0 {
		d.used++
	}
	d.slots[i] = uint32(id) // one that went and came back has a new number
}

// Expect makes room for so many items in all, so that they need not be moved as they come.
func (d *Directory) Expect(items int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size := max(1024, len(d.slots))
	for int64(3*size) < 4*(items+1) {
		size *= 2
	}
	if size > len(d.slots) {
		d.resize(size)
	}
}

// Find returns the number of the item with this hash part, and whether there is one.
func (d *Directory) Find(hash [20]byte) (id int64, ok bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if len(d.slots) == 0 {
		return 0, false
	}
	id = int64(d.slots[d.slot(hash)])
	return id, id != 0
}

// Base returns the base name of the item with this number, and whether it is known.
func (d *Directory) Base(id int64) (b storepath.Base, ok bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	at := id >> chunkBits
	if id <= 0 || at >= int64(len(d.chunks)) || d.chunks[at] == nil {
		return "", false
	}
	c := d.chunks[at]
	rank, there := c.rank(id & (chunkSize - 1))
	if !there || c.entries[rank].name == 0 {
		return "", false
	}
	e := &c.entries[rank]
	name := d.names.get(e.name)
	text := nixbase32.Append(make([]byte, 0, storepath.HashLen+1+len(name)), e.hash[:])
	return storepath.Base(append(append(text, '-'), name...)), true
}

// Len returns how many items there are.
func (d *Directory) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.used
}

// entry returns the entry of a number that is there.
func (d *Directory) entry(id uint32) *entry {
	c := d.chunks[id>>chunkBits]
	rank, _ := c.rank(int64(id & (chunkSize - 1)))
	return &c.entries[rank]
}

func home(hash [20]byte) int { return int(binary.LittleEndian.Uint64(hash[:])) }

// slot returns where the number of the item with this hash part is, or would be.
func (d *Directory) slot(hash [20]byte) int {
	mask := len(d.slots) - 1
	i := home(hash) & mask
	for d.slots[i] != 0 && d.entry(d.slots[i]).hash != hash {
		i = (i + 1) & mask
	}
	return i
}

// free returns a slot for an item whose hash part is not there.
func (d *Directory) free(hash [20]byte) int {
	mask := len(d.slots) - 1
	i := home(hash) & mask
	for d.slots[i] != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (d *Directory) resize(size int) {
	old := d.slots
	d.slots = make([]uint32, size)
	for _, id := range old {
		if id != 0 {
			d.slots[d.free(d.entry(id).hash)] = id
		}
	}
}

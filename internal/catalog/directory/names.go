package directory

import "hash/maphash"

// mostNames bounds how many different names are kept, some 35 bytes for each. Packages are built again and again under the same
// names; a store in which they are all different is looked up more slowly.
const mostNames = 2 << 20

// blockSize is how many bytes are allocated for names at a time. A name is at most 211 bytes long.
const blockSize = 1 << 20

// names keeps each name once, and gives it a position: its block and its place in that. At the place is its length, in one byte.
type names struct {
	blocks [][]byte
	slots  []uint32 // positions, open addressing by linear probing; 0 is free
	used   int
	seed   maphash.Seed
}

// put returns the position of a name, or 0 if there are too many.
func (n *names) put(name []byte) uint32 {
	if len(name) > 255 {
		return 0
	}
	if n.slots == nil {
		n.seed = maphash.MakeSeed()
	}
	if 4*(n.used+1) > 3*len(n.slots) {
		old := n.slots
		n.slots = make([]uint32, max(1024, 2*len(old)))
		for _, at := range old {
			if at != 0 {
				n.slots[n.slot(n.get(at))] = at
			}
		}
	}
	i := n.slot(name)
	if n.slots[i] != 0 {
		return n.slots[i]
	}
	if n.used == mostNames {
		return 0
	}
	if last := len(n.blocks) - 1; last < 0 || len(n.blocks[last])+1+len(name) > blockSize {
		n.blocks = append(n.blocks, make([]byte, 0, blockSize))
		if last < 0 {
			n.blocks[0] = append(n.blocks[0], 0) // so that no position is 0
		}
	}
	b := &n.blocks[len(n.blocks)-1]
	at := uint32((len(n.blocks)-1)*blockSize + len(*b))
	*b = append(append(*b, byte(len(name))), name...)
	n.slots[i] = at
	n.used++
	return at
}

// get returns the name at a position.
func (n *names) get(at uint32) []byte {
	b := n.blocks[at/blockSize][at%blockSize:]
	return b[1 : 1+b[0]]
}

// slot returns where a name's position is, or would be.
func (n *names) slot(name []byte) int {
	mask := len(n.slots) - 1
	i := int(maphash.Bytes(n.seed, name)) & mask
	for n.slots[i] != 0 && string(n.get(n.slots[i])) != string(name) {
		i = (i + 1) & mask
	}
	return i
}

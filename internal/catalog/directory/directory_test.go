package directory

import (
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"narfold/internal/storepath"
)

func hashOf(i int) [20]byte {
	h := sha256.Sum256(fmt.Append(nil, i))
	return [20]byte(h[:20])
}

func baseOf(hash [20]byte, name string) storepath.Base {
	return storepath.Base(string(storepath.HashPartOf(hash)) + "-" + name)
}

func TestADirectoryKnowsWhatAMapKnows(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		var d Directory
		if seed >= 4 {
			d.Expect(int64(r.IntN(30_000)))
		}
		ids := map[[20]byte]int64{}
		bases := map[int64]storepath.Base{}
		id := int64(0)
		for step := range 20_000 {
			hash := hashOf(r.IntN(20_000))
			if seed%2 == 1 { // hash parts that crowd around the end of the table
				for i := range 8 {
					hash[i] = 0xff
				}
				hash[0] -= byte(r.IntN(4))
			}
			if r.IntN(3) > 0 {
				if r.IntN(500) == 0 {
					id += int64(r.IntN(20_000)) // numbers that were never used, whole chunks of them
				}
				if id++; ids[hash] == 0 || r.IntN(4) == 0 { // again, if it went and came back
					name := fmt.Sprint("name-", r.IntN(1000), strings.Repeat("x", r.IntN(3)))
					if ids[hash] == 0 && r.IntN(2) == 0 {
						d.AddFirst(id, hash, []byte(name))
					} else {
						d.Add(id, hash, []byte(name))
					}
					ids[hash], bases[id] = id, baseOf(hash, name)
				}
			}
			if got, ok := d.Find(hash); got != ids[hash] || ok != (got != 0) {
				t.Fatalf("seed %d, step %d: found %d, want %d", seed, step, got, ids[hash])
			}
			if seed%2 == 1 && step > 3000 {
				break // each look-up in a crowd is a walk
			}
		}
		if d.Len() != len(ids) {
			t.Errorf("seed %d: %d items, want %d", seed, d.Len(), len(ids))
		}
		for hash, id := range ids {
			if got, _ := d.Find(hash); got != id {
				t.Fatalf("seed %d: found %d, want %d", seed, got, id)
			}
		}
		for id, want := range bases {
			if got, ok := d.Base(id); got != want || !ok {
				t.Fatalf("seed %d: item %d is %q, want %q", seed, id, got, want)
			}
			if got, ok := d.Base(id + 1); ok != (bases[id+1] != "") {
				t.Fatalf("seed %d: item %d is %q", seed, id+1, got)
			}
		}
	}
}

func TestWhatIsNoNewNumberIsPassedOver(t *testing.T) {
	var d Directory
	d.Add(10_000, hashOf(1), []byte("one"))
	for _, id := range []int64{10_000, 9_999, 1, 0, -1, math.MaxUint32 + 1, math.MaxInt64} {
		d.Add(id, hashOf(2), []byte("two"))
		if got, ok := d.Find(hashOf(2)); ok {
			t.Errorf("%d is there as %d", id, got)
		}
		if b, ok := d.Base(id); ok != (id == 10_000) {
			t.Errorf("%d has the name %q", id, b)
		}
	}
	d.Add(math.MaxUint32, hashOf(3), []byte("three"))
	if got, ok := d.Find(hashOf(3)); got != math.MaxUint32 || !ok {
		t.Errorf("the last number is %d, %v", got, ok)
	}
}

func TestANameThatIsNotKeptIsNotKnown(t *testing.T) {
	var d Directory
	d.names.seed, d.names.used = maphash.MakeSeed(), mostNames
	d.names.slots = make([]uint32, 4*mostNames)
	d.Add(1, hashOf(1), []byte("one"))
	if id, ok := d.Find(hashOf(1)); id != 1 || !ok {
		t.Errorf("found %d, %v", id, ok)
	}
	if b, ok := d.Base(1); ok {
		t.Errorf("it has the name %q", b)
	}
}

func TestAnItemTakesLessThan40Bytes(t *testing.T) {
	const items = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := new(Directory)
	for i := range items {
		d.Add(int64(i+1), hashOf(i), fmt.Appendf(nil, "package-of-usual-length-%d", i%(items/20)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := float64(after.HeapAlloc-before.HeapAlloc) / items; each > 40 {
		t.Errorf("%.1f bytes for each", each)
	} else {
		t.Logf("%.1f bytes for each", each)
	}
	runtime.KeepAlive(d)
}

func BenchmarkFind(b *testing.B) {
	const items = 1_000_000
	var d Directory
	for i := range items {
		d.Add(int64(i+1), hashOf(i), fmt.Appendf(nil, "package-of-usual-length-%d", i%(items/20)))
	}
	b.Run("hit", func(b *testing.B) {
		for i := range b.N {
			hash := d.chunks[uint(i*7919%items)>>chunkBits].entries[0].hash
			if _, ok := d.Find(hash); !ok {
				b.Fatal("not found")
			}
		}
	})
	b.Run("name", func(b *testing.B) {
		for i := range b.N {
			if _, ok := d.Base(int64(1 + i*7919%items)); !ok {
				b.Fatal("not known")
			}
		}
	})
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"narfold/herder/keyring"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// crashCache is a binary cache to import from, made of random bytes, and what is known of it.
type crashCache struct {
	dir    string
	public string // key file
	items  map[storepath.Base]crashItem
	files  map[digest.SHA256]digest.SHA256 // nar hash by file hash
	bytes  int64                           // of files
}

type crashItem struct {
	nar        digest.SHA256
	references []storepath.Base
}

// newCrashCache makes a cache of small items, of some that take a moment to store, and of some that share a nar.
func newCrashCache(t *testing.T, r *rand.Rand) *crashCache {
	t.Helper()
	const total = 150
	c := &crashCache{dir: t.TempDir(), items: make(map[storepath.Base]crashItem), files: make(map[digest.SHA256]digest.SHA256)}
	pair, err := keyring.Generate(storepath.Nix, "crash.example")
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	secret := filepath.Join(keys, "secret")
	c.public = filepath.Join(keys, "public")
	writeAll(t, secret, pair.Secret)
	writeAll(t, c.public, pair.Public)
	ring, err := keyring.Load("crash.example", secret)
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, filepath.Join(c.dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"))
	sizes := map[int]int{20: 1100 << 10, 60: 8 << 20, 100: 2 << 20, 130: 1100 << 10}
	var bases []storepath.Base
	var plain []byte
	for i := range total {
		size := sizes[i]
		if size == 0 {
			size = r.IntN(6000)
		}
		if i%20 != 19 { // else it has the nar of the item before it
			plain = randomNar(t, r, size)
		}
		n := &narinfo.Narinfo{NarHash: digest.Of(plain), NarSize: int64(len(plain))}
		name := fmt.Sprintf("item-%d", i)
		hash := digest.Of([]byte(fmt.Sprint(name, r.Uint64())))
		n.StorePath = storepath.Path{Dir: storepath.Nix, Base: storepath.Base(string(storepath.HashPartOf([20]byte(hash[:20]))) + "-" + name)}
		if i%3 == 0 {
			n.References = append(n.References, n.StorePath.Base)
		}
		for range min(i, r.IntN(5)) {
			if ref := bases[r.IntN(len(bases))]; !slices.Contains(n.References, ref) {
				n.References = append(n.References, ref)
			}
		}
		bases = append(bases, n.StorePath.Base)
		c.add(t, ring, n, plain, []compress.Method{compress.Zstd, compress.Zstd, compress.Gzip, compress.None}[i%4])
	}
	return c
}

func (c *crashCache) add(t *testing.T, ring *keyring.Ring, n *narinfo.Narinfo, plain []byte, m compress.Method) {
	t.Helper()
	var squeezed bytes.Buffer
	w, err := compress.NewWriter(m, &squeezed, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := digest.Of(squeezed.Bytes())
	n.Files = []narinfo.File{{URL: "nar/" + file.Base32() + ".nar", Compression: m, FileHash: file, FileSize: int64(squeezed.Len())}}
	sealed, err := ring.Seal(n, true)
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, filepath.Join(c.dir, n.Files[0].URL), squeezed.Bytes())
	writeAll(t, filepath.Join(c.dir, string(n.StorePath.HashPart())+".narinfo"), sealed)
	parsed, err := narinfo.Parse(sealed)
	if err != nil {
		t.Fatal(err)
	}
	c.items[n.StorePath.Base] = crashItem{n.NarHash, parsed.References}
	c.files[file] = n.NarHash
	c.bytes += int64(squeezed.Len())
}

// randomNar is a nar of a directory with one file of random bytes, which no compression makes smaller.
func randomNar(t *testing.T, r *rand.Rand, size int) []byte {
	t.Helper()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	if err := w.Directory(""); err != nil {
		t.Fatal(err)
	}
	if err := w.File("file", int64(size), false); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, rand.NewChaCha8(seed), int64(size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeAll(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

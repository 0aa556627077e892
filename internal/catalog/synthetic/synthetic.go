// Package synthetic makes populations of store items of any size, with the narinfos that guix publish would write for them, so that
// catalogues can be measured and tested with millions of items that nobody has to keep.
//
// Everything about an item follows from its number and the seed, so that references are computed and not looked up, and a
// population is walked in constant memory. Items come in generations of the same packages, as a build farm makes them; each
// references only items with smaller numbers, most of its own generation, others of the last rebuild of everything or of a
// generation shortly before. The number of references has a power law and averages about nine, and some items are referenced by
// very many. Signatures have the form of real ones, with the right hash and a real key; their two numbers are random, so that they
// do not verify.
package synthetic

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/sexp"
	"narfold/internal/storepath"
)

// The shape of a population. A generation is as large as those measured on Debian's packages, of which a million items have some 70.
const (
	perGeneration = 14_336
	rebuilds      = 8   // every eighth generation is one of everything, to which later ones refer
	leastRefs     = 5.0 // of the Pareto distribution with exponent 2, before duplicates are dropped
	mostRefs      = 400
)

// host is what the signatures name as signer.
const host = "berlin.guix.example"

// Population is an endless sequence of items, numbered from 0. It is safe for concurrent use.
type Population struct {
	seed   uint64
	stems  []string  // by place in the generation
	public sexp.Sexp // of the key that seems to sign
}

// New makes the population of a seed. The same seed gives the same items in every version of this package that has the same shape.
func New(seed uint64) (*Population, error) {
	p := &Population{seed: seed, stems: make([]string, perGeneration)}
	var secret [32]byte
	random := rand.NewChaCha8(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, seed)))
	if _, err := random.Read(secret[:]); err != nil {
		return nil, err
	}
	key, err := guixkey.Generate(sliceReader(secret[:]))
	if err != nil {
		return nil, fmt.Errorf("make a population's key: %w", err)
	}
	if p.public, err = sexp.Parse(key.Public().File()); err != nil {
		return nil, fmt.Errorf("make a population's key: %w", err)
	}
	r := rand.New(random)
	for i := range p.stems {
		p.stems[i] = stem(r)
	}
	return p, nil
}

// sliceReader reads all of a slice at once.
type sliceReader []byte

func (s sliceReader) Read(b []byte) (int, error) { return copy(b, s), nil }

// mix is the finisher of SplitMix64: neighbouring numbers give unrelated ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill writes bytes that follow from the seed, the item and what they are for.
func (p *Population) fill(b []byte, i int, purpose uint64) {
	x := mix(mix(p.seed^purpose<<56) ^ uint64(i))
	for at := 0; at < len(b); at += 8 {
		x = mix(x)
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], x)
		copy(b[at:], word[:])
	}
}

// The purposes of fill.
const (
	forHash uint64 = iota + 1
	forNar
	forFile
	forDeriver
	forR
	forS
	forChoices
	forMiss
)

func (p *Population) hashPart(i int, purpose uint64) storepath.HashPart {
	var b [20]byte
	p.fill(b[:], i, purpose)
	return storepath.HashPartOf(b)
}

// HashPart returns the hash part of item i.
func (p *Population) HashPart(i int) storepath.HashPart { return p.hashPart(i, forHash) }

// Miss returns the i-th of hash parts that no item of the population has.
func (p *Population) Miss(i int) storepath.HashPart { return p.hashPart(i, forMiss) }

// Base returns the base name of item i.
func (p *Population) Base(i int) storepath.Base {
	return storepath.Base(string(p.HashPart(i)) + "-" + p.name(i))
}

// name is the package's name, and a version that changes every few generations.
func (p *Population) name(i int) string {
	generation, place := i/perGeneration, i%perGeneration
	v := mix(uint64(place))
	b := make([]byte, 0, 48)
	b = append(b, p.stems[place]...)
	b = append(b, '-')
	b = strconv.AppendUint(b, v%7, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, v>>8%24, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, (v>>16%40+uint64(generation))/(1+v>>24%24), 10)
	switch {
	case p.source(i):
		return string(append(b, ".tar.gz"...))
	case v>>32%16 == 0:
		return string(append(b, "-lib"...))
	case v>>32%16 == 1:
		return string(append(b, "-doc"...))
	}
	return string(b)
}

// source reports whether an item is a source tarball, which references nothing.
func (p *Population) source(i int) bool { return mix(uint64(i%perGeneration))>>40%20 == 0 }

// References returns the numbers of the items that item i references, in no order, its own among them if it references itself.
func (p *Population) References(i int) []int {
	if p.source(i) {
		return nil
	}
	r := p.choices(i)
	generation, place := i/perGeneration, i%perGeneration
	// 1/sqrt(u) has a Pareto distribution with exponent 2.
	n := int(min(mostRefs, leastRefs/math.Sqrt(1-r.Float64())))
	refs := make([]int, 0, n+1)
	if r.IntN(2) == 0 {
		refs = append(refs, i)
	}
	for range n {
		g, limit, u := generation, place, r.Float64()
		// What is at the beginning of a generation is what everything needs.
		u = u * u * u
		switch where := r.IntN(100); {
		case where < 20 && generation%rebuilds > 0:
			g, limit, u = generation-generation%rebuilds, perGeneration, u*u
		case where < 30 && generation > 0:
			g, limit = generation-1-r.IntN(min(generation, rebuilds)), perGeneration
		}
		if limit > 0 {
			refs = append(refs, g*perGeneration+int(u*float64(limit)))
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}

func (p *Population) choices(i int) *rand.Rand {
	var b [16]byte
	p.fill(b[:], i, forChoices)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])))
}

// Publication returns item i with its narinfo and one file, under the first key that a catalogue would hand out for it.
func (p *Population) Publication(i int) catalog.Publication {
	base := p.Base(i)
	pub := catalog.Publication{By: "import", Item: catalog.Item{Path: storepath.Path{Dir: storepath.Guix, Base: base}}}
	p.fill(pub.NarHash[:], i, forNar)
	numbers := binary.LittleEndian.Uint64(pub.NarHash[:])
	// Sizes from some hundred bytes to a gigabyte, half of them below 100 kB.
	pub.NarSize = int64(math.Exp2(8+float64(numbers%1024)/1024*18*float64(numbers>>16%1024)/1024+float64(numbers>>32%1024)/256)) &^ 7
	refs := p.References(i)
	pub.References = make([]storepath.Base, len(refs))
	for at, ref := range refs {
		pub.References[at] = p.Base(ref)
	}
	slices.Sort(pub.References) // as Guix writes them
	method := compress.Zstd
	if i/perGeneration%3 == 1 {
		method = compress.Lzip // whole generations of a farm have the compression of their time
	}
	file := catalog.File{Compression: method, Key: catalog.NarKey(method, base, 1), Size: pub.NarSize/4 + int64(numbers>>48%256) + 64, Verified: begin.Add(time.Duration(i) * time.Second)}
	p.fill(file.SHA256[:], i, forFile)
	pub.Files = []catalog.File{file}
	pub.Narinfo = p.narinfo(i, &pub.Item)
	return pub
}

// begin is when the first item was verified.
var begin = time.UnixMilli(1_700_000_000_000).UTC()

// narinfo renders the text: the lines of guix publish, with System above Deriver in those generations that an older one has signed.
func (p *Population) narinfo(i int, it *catalog.Item) []byte {
	n := &narinfo.Narinfo{StorePath: it.Path, NarHash: it.NarHash, NarSize: it.NarSize, References: it.References}
	deriver := string(p.hashPart(i, forDeriver)) + "-" + it.Path.Name() + ".drv"
	text := narinfo.GuixBody(n)
	if i/perGeneration%4 == 0 {
		text = append(text, "System: x86_64-linux\n"...)
	}
	text = fmt.Appendf(text, "Deriver: %s\n", deriver)
	text = fmt.Appendf(text, "Signature: %s\n", p.signature(i, sha256.Sum256(text)))
	f := it.Files[0]
	return fmt.Appendf(text, "URL: %s\nCompression: %s\nFileSize: %d\n", narinfo.NarURL(f.Compression, it.Path.Base), f.Compression, f.Size)
}

func (p *Population) signature(i int, hash digest.SHA256) string {
	pair := func(name string, items ...sexp.Sexp) sexp.Sexp {
		return sexp.List(append([]sexp.Sexp{sexp.Token(name)}, items...)...)
	}
	number := func(purpose uint64) sexp.Sexp {
		b := make([]byte, 32)
		p.fill(b, i, purpose)
		b[0] = b[0]&0x0f | 1 // below the order of the group, which is a little above 2^252, and of 32 bytes
		return sexp.Atom(b)
	}
	text := pair("signature",
		pair("data", pair("flags", sexp.Token("rfc6979")), pair("hash", sexp.Token("sha256"), sexp.Atom(hash[:]))),
		pair("sig-val", pair("ecdsa", pair("r", number(forR)), pair("s", number(forS)))),
		p.public).Append(make([]byte, 0, 512))
	if slices.ContainsFunc(text, func(c byte) bool { return c >= 0x80 }) {
		// Guix takes the bytes for Latin-1; about one of 10,000 has such.
		wide := make([]rune, len(text))
		for at, c := range text {
			wide[at] = rune(c)
		}
		text = []byte(string(wide))
	}
	return "1;" + host + ";" + base64.StdEncoding.EncodeToString(text)
}

// Publications yields the items from the number first up to, and without, end.
func (p *Population) Publications(first, end int) iter.Seq[catalog.Publication] {
	return func(yield func(catalog.Publication) bool) {
		for i := first; i < end; i++ {
			if !yield(p.Publication(i)) {
				return
			}
		}
	}
}

package serve

import (
	"container/list"
	"context"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"

	"narfold/internal/catalog"
	"narfold/internal/httpfront"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// prepared is a published item, ready to be sent.
type prepared struct {
	item    catalog.Item
	head    []byte // of the narinfo
	narinfo []byte
	nars    []preparedNar
}

// preparedNar is one file of it.
type preparedNar struct {
	catalog.File
	etag string
	head []byte // of a whole answer from a directory store
}

func (p *prepared) cost() int64 {
	n := 600 + len(p.head) + len(p.narinfo) + len(p.item.Narinfo) + 60*len(p.item.References)
	for _, f := range p.nars {
		n += 300 + len(f.head) + len(f.Key)
	}
	return int64(n)
}

// lookUp returns the item with this hash part, prepared, or why it cannot.
func (s *Server) lookUp(ctx context.Context, h storepath.HashPart) (*prepared, error) {
	if p := s.prepared.find([]byte(h)); p != nil {
		return p, nil
	}
	if absent, err := s.known.Absent(ctx, h); err != nil {
		return nil, err
	} else if absent {
		return nil, catalog.ErrNotFound
	}
	generation := s.prepared.generation([]byte(h))
	it, err := s.Catalogue.Item(ctx, h)
	if err != nil {
		return nil, err
	}
	p, err := s.prepare(it)
	if err != nil {
		return nil, err
	}
	s.prepared.add(h, p, generation)
	return p, nil
}

func (s *Server) prepare(it catalog.Item) (*prepared, error) {
	n, err := narinfo.Parse(it.Narinfo)
	if err != nil {
		return nil, err
	}
	// Nix takes the last group; Guix chooses by compression and size. The preferred one goes last.
	files, err := s.Quarantine.whole(it.Files)
	if err != nil {
		return nil, err
	}
	rank := func(f catalog.File) int {
		if i := slices.Index(s.Prefer, f.Compression); i >= 0 {
			return i
		}
		return len(s.Prefer)
	}
	slices.SortStableFunc(files, func(a, b catalog.File) int { return rank(b) - rank(a) })
	p := &prepared{item: it}
	groups := make([]narinfo.File, len(files))
	for i, f := range files {
		groups[i] = narinfo.File{URL: narinfo.NarURL(f.Compression, it.Path.Base), Compression: f.Compression, FileHash: f.SHA256, FileSize: f.Size}
		nar := preparedNar{File: f, etag: `"` + f.SHA256.Base32() + `"`}
		nar.head, err = httpfront.Head(http.StatusOK, f.Size, narFields(nar.etag, maxAge(s.ttl()))...)
		if err != nil {
			return nil, err
		}
		p.nars = append(p.nars, nar)
	}
	p.narinfo = narinfo.WithFiles(n, groups, nil)
	p.head, err = httpfront.Head(http.StatusOK, int64(len(p.narinfo)), httpfront.Field{Name: "Content-Type", Value: narinfoType}, httpfront.Field{Name: "Cache-Control", Value: maxAge(s.ttl())})
	return p, err
}

const (
	narinfoType = "text/x-nix-narinfo"
	narType     = "application/x-nix-nar"
)

// narFields are the header fields of a nar answer. Nix resumes a cut transfer only if Accept-Ranges is there and no Content-Encoding.
func narFields(etag, cacheControl string) []httpfront.Field {
	return []httpfront.Field{{Name: "Content-Type", Value: narType}, {Name: "Accept-Ranges", Value: "bytes"}, {Name: "ETag", Value: etag}, {Name: "Cache-Control", Value: cacheControl}}
}

// preparedCache keeps prepared items, the least recently used leaving first. It is sharded, since every request passes it.
type preparedCache struct {
	seed   maphash.Seed
	shards [16]preparedShard
}

type preparedShard struct {
	mu         sync.Mutex
	entries    map[string]*list.Element
	recent     list.List // of *preparedEntry, most recent first
	left       int64
	size       int64
	generation int64
}

type preparedEntry struct {
	hash string
	p    *prepared
}

func newPreparedCache(bytes int64) *preparedCache {
	c := &preparedCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		sh := &c.shards[i]
		sh.entries = make(map[string]*list.Element)
		sh.size = bytes / int64(len(c.shards))
		sh.left = sh.size
	}
	return c
}

func (c *preparedCache) shard(hash []byte) *preparedShard {
	return &c.shards[maphash.Bytes(c.seed, hash)%uint64(len(c.shards))]
}

// find allocates nothing.
func (c *preparedCache) find(hash []byte) *prepared {
	sh := c.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, ok := sh.entries[string(hash)]
	if !ok {
		return nil
	}
	sh.recent.MoveToFront(e)
	return e.Value.(*preparedEntry).p
}

// generation is given back to add, so that what was read before a clear is not kept after it.
func (c *preparedCache) generation(hash []byte) int64 {
	sh := c.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.generation
}

func (c *preparedCache) add(h storepath.HashPart, p *prepared, generation int64) {
	sh := c.shard([]byte(h))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, ok := sh.entries[string(h)]; ok || sh.generation != generation || p.cost() > sh.size {
		return
	}
	sh.entries[string(h)] = sh.recent.PushFront(&preparedEntry{string(h), p})
	sh.left -= p.cost()
	for sh.left < 0 {
		e := sh.recent.Remove(sh.recent.Back()).(*preparedEntry)
		delete(sh.entries, e.hash)
		sh.left += e.p.cost()
	}
}

func (c *preparedCache) clear() {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		clear(sh.entries)
		sh.recent.Init()
		sh.left = sh.size
		sh.generation++
		sh.mu.Unlock()
	}
}

// splitNar takes apart what follows /nar/: <compression>/<base>, or <base> alone, which Guix asks for when it is uncompressed.
func splitNar(rest string) (method, base string) {
	method, base, ok := strings.Cut(rest, "/")
	if !ok {
		return "none", rest
	}
	return method, base
}

func (p *prepared) nar(method, base string) *preparedNar {
	if string(p.item.Path.Base) != base {
		return nil
	}
	for i := range p.nars {
		if string(p.nars[i].Compression) == method {
			return &p.nars[i]
		}
	}
	return nil
}

// Package mem keeps objects in memory, for tests and small caches. Nothing survives the process; everything else holds as for the
// other stores.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// Store is an object store in memory. The zero value is empty and ready. Its methods may be called concurrently.
type Store struct {
	mu      sync.RWMutex
	objects map[objstore.Key]object
	keys    []objstore.Key // of objects, ascending
}

type object struct {
	bytes []byte // never written to: readers share them
	info  objstore.Info
}

var _ objstore.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return new(Store) }

func check(ctx context.Context, k objstore.Key) error {
	if _, err := objstore.ParseKey(string(k)); err != nil {
		return err
	}
	return ctx.Err()
}

func (s *Store) find(ctx context.Context, verb string, k objstore.Key) (object, error) {
	if err := check(ctx, k); err != nil {
		return object{}, fmt.Errorf("%s %s: %w", verb, k, err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[k]
	if !ok {
		return object{}, fmt.Errorf("%s %s: %w", verb, k, objstore.ErrNotFound)
	}
	return o, nil
}

// Get opens the bytes of k as they are now; a later Put or Delete does not change what is read.
func (s *Store) Get(ctx context.Context, k objstore.Key, r objstore.Range) (objstore.Object, error) {
	o, err := s.find(ctx, "get", k)
	if err != nil {
		return objstore.Object{}, err
	}
	size := int64(len(o.bytes))
	if r.Offset < 0 || r.Length < 0 || r.Offset > 0 && r.Offset >= size {
		return objstore.Object{}, fmt.Errorf("get %s: %w: %d bytes from %d of %d", k, objstore.ErrRange, r.Length, r.Offset, size)
	}
	end := size
	if r.Length > 0 && r.Length < size-r.Offset {
		end = r.Offset + r.Length
	}
	return objstore.Object{ReadCloser: reader{ctx, bytes.NewReader(o.bytes[r.Offset:end])}, Info: o.info}, nil
}

type reader struct {
	ctx context.Context
	*bytes.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (r reader) WriteTo(w io.Writer) (int64, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.WriteTo(w)
}

func (reader) Close() error { return nil }

// Stat describes k.
func (s *Store) Stat(ctx context.Context, k objstore.Key) (objstore.Info, error) {
	o, err := s.find(ctx, "stat", k)
	return o.info, err
}

// List yields the objects one by one and does not hold up others between them.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		next := objstore.Key(prefix)
		for {
			if err := ctx.Err(); err != nil {
				yield(objstore.Info{}, fmt.Errorf("list %q: %w", prefix, err))
				return
			}
			s.mu.RLock()
			i, _ := slices.BinarySearch(s.keys, next)
			if i == len(s.keys) || !strings.HasPrefix(string(s.keys[i]), prefix) {
				s.mu.RUnlock()
				return
			}
			info := s.objects[s.keys[i]].info
			s.mu.RUnlock()
			if !yield(info, nil) {
				return
			}
			next = info.Key + "\x00" // the smallest string after the key
		}
	}
}

// Put stores a copy of the body. Like a directory it refuses, with ErrKey, a key that is the beginning of another or the other way
// round, so that what works in memory works on a disk.
func (s *Store) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	info, err := s.put(ctx, k, body, c)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("put %s: %w", k, err)
	}
	return info, nil
}

func (s *Store) put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	if err := check(ctx, k); err != nil {
		return objstore.Info{}, err
	}
	s.mu.RLock()
	err := s.holds(k, c)
	s.mu.RUnlock()
	if err != nil {
		return objstore.Info{}, err
	}
	b, err := read(ctx, body)
	if err != nil {
		return objstore.Info{}, err
	}
	sum := digest.Of(b)
	if !body.SHA256.IsZero() && sum != body.SHA256 {
		return objstore.Info{}, fmt.Errorf("%w: it hashes to %s, not %s", objstore.ErrDigest, sum, body.SHA256)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.holds(k, c); err != nil {
		return objstore.Info{}, err
	}
	if s.objects == nil {
		s.objects = make(map[objstore.Key]object)
	}
	if i, found := slices.BinarySearch(s.keys, k); !found {
		s.keys = slices.Insert(s.keys, i, k)
	}
	info := objstore.Info{Key: k, Size: int64(len(b)), ETag: sum.Hex(), Modified: time.Now()}
	s.objects[k] = object{b, info}
	return info, nil
}

// holds is called with mu held.
func (s *Store) holds(k objstore.Key, c objstore.Condition) error {
	for i := range len(k) {
		if _, ok := s.objects[k[:i]]; ok && k[i] == '/' {
			return fmt.Errorf("%w here: the object %s has the name of one of its folders", objstore.ErrKey, k[:i])
		}
	}
	if i, _ := slices.BinarySearch(s.keys, k+"/"); i < len(s.keys) && strings.HasPrefix(string(s.keys[i]), string(k)+"/") {
		return fmt.Errorf("%w here: the object %s is below it", objstore.ErrKey, s.keys[i])
	}
	o, ok := s.objects[k]
	switch {
	case c.IfAbsent && ok:
		return fmt.Errorf("%w: it is there already", objstore.ErrConflict)
	case c.IfMatch != "" && !ok:
		return fmt.Errorf("%w: nothing is stored under it", objstore.ErrConflict)
	case c.IfMatch != "" && o.info.ETag != c.IfMatch:
		return fmt.Errorf("%w: what is stored has another ETag", objstore.ErrConflict)
	}
	return nil
}

// read reads the body whole. Memory grows with what arrives and not with what Size promises.
func read(ctx context.Context, body objstore.Body) ([]byte, error) {
	src, err := body.Open()
	if err != nil {
		return nil, fmt.Errorf("open body: %w", err)
	}
	defer src.Close()
	var b bytes.Buffer
	if body.Size <= 1<<20 {
		b.Grow(int(max(0, body.Size)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(io.LimitReader(obedient{ctx, src}, body.Size+1)); err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if n := int64(b.Len()); n > body.Size {
		return nil, fmt.Errorf("%w: it has more than the %d bytes it was said to have", objstore.ErrDigest, body.Size)
	} else if n < body.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, not %d", objstore.ErrDigest, n, body.Size)
	}
	return bytes.Clone(b.Bytes()), nil
}

// obedient stops reading when the context does.
type obedient struct {
	ctx context.Context
	io.Reader
}

func (o obedient) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.Reader.Read(p)
}

// Delete removes k.
func (s *Store) Delete(ctx context.Context, k objstore.Key) error {
	if err := check(ctx, k); err != nil {
		return fmt.Errorf("delete %s: %w", k, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := slices.BinarySearch(s.keys, k); found {
		s.keys = slices.Delete(s.keys, i, i+1)
		delete(s.objects, k)
	}
	return nil
}

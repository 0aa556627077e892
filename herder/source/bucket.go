package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Bucket is an object store that is only read.
type Bucket interface {
	objstore.Reader
	objstore.Lister
}

// bucket is a tree in an object store.
type bucket struct {
	store   Bucket
	name    string
	workers int
}

func (b *bucket) String() string { return b.name }

// Close closes nothing: the store is the caller's.
func (b *bucket) Close() error   { return nil }
func (b *bucket) traits() traits { return traits{workers: b.workers} }

// explain gives an object store's error the words of this package.
func (b *bucket) explain(err error) error {
	switch {
	case errors.Is(err, objstore.ErrNotFound), errors.Is(err, objstore.ErrKey):
		return fmt.Errorf("%s: %w: %w", b.name, ErrNotFound, err)
	case errors.Is(err, objstore.ErrUnavailable):
		return fmt.Errorf("%s: %w: %w", b.name, ErrUnavailable, err)
	case errors.Is(err, objstore.ErrDenied): // as a server's 403, which may be of one object
		return fmt.Errorf("%s: %w: %w", b.name, fs.ErrPermission, err)
	}
	return fmt.Errorf("%s: %w", b.name, err)
}

func (b *bucket) read(ctx context.Context, name string, limit int) ([]byte, error) {
	o, err := b.store.Get(ctx, objstore.Key(name), objstore.Range{})
	if err != nil {
		return nil, b.explain(err)
	}
	defer o.Close()
	text, err := readAll(o, limit)
	if err != nil {
		return nil, b.explain(err)
	}
	return text, nil
}

func (b *bucket) keys(f narinfo.File) ([]objstore.Key, error) {
	names, err := localNames(f)
	if err != nil {
		return nil, err
	}
	var keys []objstore.Key
	for _, name := range names {
		k, err := objstore.ParseKey(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (b *bucket) nar(f narinfo.File) (opener, error) {
	keys, err := b.keys(f)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (io.ReadCloser, error) {
		var first error
		for _, k := range keys {
			o, err := b.store.Get(ctx, k, objstore.Range{})
			if err == nil {
				return o, nil
			}
			if first == nil {
				first = b.explain(err)
			}
			if !errors.Is(err, objstore.ErrNotFound) {
				return nil, b.explain(err)
			}
		}
		return nil, first
	}, nil
}

func (b *bucket) has(ctx context.Context, f narinfo.File) bool {
	keys, err := b.keys(f)
	if err != nil {
		return false
	}
	for _, k := range keys {
		if _, err := b.store.Stat(ctx, k); err == nil {
			return true
		}
	}
	return false
}

// hashParts lists by prefixes that no folder of a cache shares with a hash part, so that ten million nars are not listed to find
// the narinfos beside them.
func (b *bucket) hashParts(ctx context.Context) iter.Seq2[storepath.HashPart, error] {
	return func(yield func(storepath.HashPart, error) bool) {
		for _, prefix := range hashPrefixes() {
			for info, err := range b.store.List(ctx, prefix) {
				if err != nil {
					yield("", b.explain(err))
					return
				}
				if h, ok := narinfoName(string(info.Key)); ok && !yield(h, nil) {
					return
				}
			}
		}
	}
}

// hashPrefixes returns strings of which every hash part begins with exactly one, and "nar/" with none.
func hashPrefixes() []string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	var prefixes []string
	var add func(begin, avoid string)
	add = func(begin, avoid string) {
		for i := range len(alphabet) {
			p := begin + alphabet[i:i+1]
			if strings.HasPrefix(avoid, p) {
				add(p, avoid)
				continue
			}
			prefixes = append(prefixes, p)
		}
	}
	add("", "nar/")
	return prefixes
}

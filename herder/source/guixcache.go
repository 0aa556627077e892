package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"path"
	"slices"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// guixTree is the cache of guix publish, read as if it were a binary cache. In it each compression has a folder of its own with
// <item>.nar, compressed in spite of that name, and <item>.narinfo beside it; the narinfos of one item are usually the same file,
// linked. A folder "hashes" maps hash parts to items and is not read. (Source: what guix publish --cache leaves behind.)
//
// The narinfo that it gives is that of the first compression in the order of preference, with the URLs of all the nars that are there
// and belong to it: those whose own narinfo has the same signed part, or that it names itself. What was compressed of an earlier build
// of the same item is passed over. It takes some 120 bytes of memory for each item.
type guixTree struct {
	*folder
	items []guixItem // ascending by base, hence by hash part
}

type guixItem struct {
	base    storepath.Base
	methods uint16 // bits by the place in preference: there is a narinfo
}

// openGuixTree lists what a cache of guix publish has.
func openGuixTree(ctx context.Context, name string) (*guixTree, error) {
	d, err := openFolder(name)
	if err != nil {
		return nil, err
	}
	t := &guixTree{folder: d}
	for i, m := range preference {
		if info, err := d.root.Stat(string(m)); err != nil || !info.IsDir() {
			continue
		}
		for name, err := range d.names(ctx, string(m)) {
			if err != nil {
				d.Close()
				return nil, err
			}
			if base, ok := guixNarinfoName(name); ok {
				t.items = append(t.items, guixItem{base, 1 << i})
			}
		}
	}
	slices.SortFunc(t.items, func(a, b guixItem) int { return strings.Compare(string(a.base), string(b.base)) })
	merged := t.items[:0]
	for _, it := range t.items {
		if n := len(merged); n > 0 && merged[n-1].base == it.base {
			merged[n-1].methods |= it.methods
		} else {
			merged = append(merged, it)
		}
	}
	t.items = slices.Clip(merged)
	return t, nil
}

// guixNarinfoName returns the item whose narinfo has the given file name.
func guixNarinfoName(name string) (storepath.Base, bool) {
	stem, ok := strings.CutSuffix(name, ".narinfo")
	if !ok {
		return "", false
	}
	base, err := storepath.ParseBase(stem)
	return base, err == nil
}

func (t *guixTree) hashParts(context.Context) iter.Seq2[storepath.HashPart, error] {
	return func(yield func(storepath.HashPart, error) bool) {
		for _, it := range t.items {
			if !yield(it.base.HashPart(), nil) {
				return
			}
		}
	}
}

// read gives narinfos; there is nothing else in such a cache that a binary cache has.
func (t *guixTree) read(ctx context.Context, name string, limit int) ([]byte, error) {
	h, ok := narinfoName(name)
	if !ok {
		return nil, ErrNotFound
	}
	i, ok := slices.BinarySearchFunc(t.items, h, func(it guixItem, h storepath.HashPart) int {
		return strings.Compare(string(it.base.HashPart()), string(h))
	})
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", h, t, ErrNotFound)
	}
	return t.narinfo(ctx, t.items[i], limit)
}

// narinfo merges the narinfos of an item.
func (t *guixTree) narinfo(ctx context.Context, it guixItem, limit int) ([]byte, error) {
	var (
		primary *narinfo.Narinfo
		files   []narinfo.File
		why     error
	)
	for i, m := range preference {
		var n *narinfo.Narinfo
		if it.methods&(1<<i) != 0 {
			text, err := t.folder.read(ctx, string(m)+"/"+string(it.base)+".narinfo", limit)
			if err == nil {
				n, err = narinfo.Parse(text)
			}
			if err == nil && n.StorePath.Base != it.base {
				err = fmt.Errorf("%s/%s.narinfo is of %s: %w", m, it.base, n.StorePath, narinfo.ErrMismatch)
			}
			if err != nil {
				why = errors.Join(why, err)
				continue
			}
		}
		if primary == nil {
			if n == nil {
				continue
			}
			primary = n
		}
		if n == nil && !names(primary, m) || n != nil && !sameSigned(primary, n) {
			continue
		}
		if info, err := t.root.Stat(narName(m, it.base)); err == nil && info.Mode().IsRegular() {
			files = append(files, narinfo.File{URL: narinfo.NarURL(m, it.base), Compression: m, FileSize: info.Size()})
		}
	}
	if primary == nil {
		return nil, why
	}
	if primary.FilesAreSigned() || len(files) == 0 {
		return primary.Raw, nil
	}
	return narinfo.WithFiles(primary, files, nil), nil
}

// names tells whether n says that there is a nar compressed by m.
func names(n *narinfo.Narinfo, m compress.Method) bool {
	return slices.ContainsFunc(n.Files, func(f narinfo.File) bool { return f.Compression == m })
}

// sameSigned tells whether two narinfos say the same about their nar, over the same signature if there is one.
func sameSigned(a, b *narinfo.Narinfo) bool {
	if a.Signature != "" || b.Signature != "" {
		return string(a.SignedPart()) == string(b.SignedPart()) && a.Signature == b.Signature
	}
	return a.StorePath == b.StorePath && a.NarHash == b.NarHash && a.NarSize == b.NarSize && slices.Equal(a.References, b.References)
}

// narName returns where the nar of an item is.
func narName(m compress.Method, b storepath.Base) string { return string(m) + "/" + string(b) + ".nar" }

// nar finds the file by the last element of the URL, since guix publish may be told to put any path before it.
func (t *guixTree) nar(f narinfo.File) (opener, error) {
	name, err := guixNar(f)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (io.ReadCloser, error) { return t.open(name) }, nil
}

func guixNar(f narinfo.File) (string, error) {
	m, err := compress.ParseMethod(string(f.Compression))
	if err != nil {
		return "", err
	}
	if isWeb(f.URL) {
		return "", fmt.Errorf("%w: the nar is at another place", ErrNotFound)
	}
	last, err := url.PathUnescape(path.Base(f.URL))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	base, err := storepath.ParseBase(last)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return narName(m, base), nil
}

func (t *guixTree) has(_ context.Context, f narinfo.File) bool {
	name, err := guixNar(f)
	if err != nil {
		return false
	}
	info, err := t.root.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// logs are not in this cache.
func (t *guixTree) logs(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"narfold/herder/publish"
	"narfold/internal/compress"
	"narfold/internal/narinfo"
)

// preference orders the methods for sources of which one form is taken: what costs little to read and to download first.
var preference = []compress.Method{
	compress.Zstd, compress.Lzip, compress.Gzip, compress.Xz, compress.None, compress.Bzip2, compress.Brotli, compress.Lz4,
}

// chooseForms returns the forms in which the nar of n is read from t. Those whose compression is not known, or whose URL leads out of
// a directory or bucket, are passed over. Of the rest, a source that is not downloaded gives all that are there, and a network source
// the one that preference names first. If the URLs are signed all are taken, since all must be served as they are; then one that
// cannot be had is an error.
func chooseForms(ctx context.Context, n *narinfo.Narinfo, t tree) ([]publish.Source, error) {
	signed := n.FilesAreSigned()
	var (
		forms []publish.Source
		files []narinfo.File
		why   error
	)
	for _, f := range n.Files {
		m, err := compress.ParseMethod(string(f.Compression))
		var open opener
		if err == nil {
			open, err = t.nar(f)
		}
		if err == nil && !signed && slices.ContainsFunc(forms, func(s publish.Source) bool { return s.Compression == m }) {
			continue // another place of the same form
		}
		if err != nil {
			why = errors.Join(why, fmt.Errorf("%s: %w", f.URL, err))
			continue
		}
		forms = append(forms, publish.Source{Compression: m, Open: bounded(open, n.NarSize), Keep: m.Writable()})
		files = append(files, f)
	}
	switch {
	case len(forms) == 0, signed && why != nil:
		return nil, fmt.Errorf("%w: no usable nar: %w", ErrDamaged, why)
	case signed || len(forms) == 1:
		return forms, nil
	case t.traits().one:
		best := slices.MinFunc(forms, func(a, b publish.Source) int {
			return slices.Index(preference, a.Compression) - slices.Index(preference, b.Compression)
		})
		return []publish.Source{best}, nil
	}
	var there []publish.Source
	for i, f := range files {
		if t.has(ctx, f) {
			there = append(there, forms[i])
		}
	}
	if len(there) == 0 {
		return forms[:1], nil // whose Open tells what is missing
	}
	return there, nil
}

// bounded ends what open gives with ErrDamaged where it has more bytes than any compression makes of a nar with narSize: a body
// without an end would fill the disk before its hash could be wrong.
func bounded(open opener, narSize int64) opener {
	return func(ctx context.Context) (io.ReadCloser, error) {
		r, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return &boundedReader{ReadCloser: r, left: narSize + narSize/8 + 64<<10, nar: narSize}, nil
	}
}

type boundedReader struct {
	io.ReadCloser
	left, nar int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fmt.Errorf("%w: more bytes come than a nar of %d bytes can have in any compression", ErrDamaged, b.nar)
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

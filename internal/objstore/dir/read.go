package dir

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

// Get opens the file of k. Object.File is that file: an overwrite or a Delete meanwhile does not disturb it.
func (r *Reader) Get(ctx context.Context, k objstore.Key, span objstore.Range) (objstore.Object, error) {
	f, st, err := r.object(ctx, k)
	if err != nil {
		return objstore.Object{}, wrap("get", k, err)
	}
	left, err := within(span, st.Size)
	if err == nil && span.Offset > 0 {
		_, err = f.Seek(span.Offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return objstore.Object{}, wrap("get", k, err)
	}
	return objstore.Object{ReadCloser: &body{ctx, k, f, left}, Info: describe(k, &st), File: f}, nil
}

// Stat describes the file of k.
func (r *Reader) Stat(ctx context.Context, k objstore.Key) (objstore.Info, error) {
	f, st, err := r.object(ctx, k)
	if err != nil {
		return objstore.Info{}, wrap("stat", k, err)
	}
	f.Close()
	return describe(k, &st), nil
}

// object opens the file of k, which must be a regular file: folders and what else lies about are no objects.
func (r *Reader) object(ctx context.Context, k objstore.Key) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	if _, err := objstore.ParseKey(string(k)); err != nil {
		return nil, st, err
	}
	if err := ctx.Err(); err != nil {
		return nil, st, err
	}
	// Without O_NONBLOCK, opening a named pipe that somebody left here would wait for ever.
	f, err := r.openAt(string(k), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, st, err
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { // Fd also makes it block again
		f.Close()
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, st, fmt.Errorf("%w: not a regular file", objstore.ErrNotFound)
	}
	return f, st, nil
}

// within returns how many bytes of an object of that size the span covers.
func within(span objstore.Range, size int64) (int64, error) {
	if span.Offset < 0 || span.Length < 0 || span.Offset > 0 && span.Offset >= size {
		return 0, fmt.Errorf("%w: %d bytes from %d of %d", objstore.ErrRange, span.Length, span.Offset, size)
	}
	left := size - span.Offset
	if span.Length > 0 && span.Length < left {
		left = span.Length
	}
	return left, nil
}

// body reads the rest of a span.
type body struct {
	ctx  context.Context
	key  objstore.Key
	f    *os.File
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, wrap("read", b.key, err)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.f.Read(p)
	b.left -= int64(n)
	switch {
	case err == io.EOF:
		// Somebody outside the store has cut the file short.
		return n, fmt.Errorf("read %s: %w: %w", b.key, objstore.ErrUnavailable, io.ErrUnexpectedEOF)
	case err != nil:
		return n, fmt.Errorf("read %s: %w: %w", b.key, objstore.ErrUnavailable, err)
	}
	return n, nil
}

func (b *body) Close() error { return b.f.Close() }

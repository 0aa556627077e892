package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"narfold/internal/objstore"
)

// Get opens a span of k. When the connection breaks while the body is read, the rest is asked for, of the same ETag, as often as
// other requests are tried.
func (s *Store) Get(ctx context.Context, k objstore.Key, r objstore.Range) (objstore.Object, error) {
	name, err := s.begin(ctx, k)
	if err == nil && (r.Offset < 0 || r.Length < 0) {
		err = fmt.Errorf("%w: %+v", objstore.ErrRange, r)
	}
	if err != nil {
		return objstore.Object{}, wrap("get", k, err)
	}
	if r.Length > math.MaxInt64-r.Offset {
		r.Length = 0 // to the end
	}
	b := &body{s: s, ctx: ctx, key: k, name: name, at: r.Offset}
	var info objstore.Info
	err = s.retry(ctx, func() (err error) {
		info, err = b.open(r.Length, "")
		if errors.Is(err, objstore.ErrRange) && r.Offset == 0 {
			// No first byte: the object is empty, and all of it is asked for.
			info, err = b.open(0, "")
		}
		return s.certain(ctx, err)
	})
	if err != nil {
		return objstore.Object{}, wrap("get", k, err)
	}
	return objstore.Object{ReadCloser: b, Info: info}, nil
}

// Stat describes k.
func (s *Store) Stat(ctx context.Context, k objstore.Key) (objstore.Info, error) {
	name, err := s.begin(ctx, k)
	var o minio.ObjectInfo
	if err == nil {
		o, err = s.head(ctx, name)
	}
	return infoOf(k, o), wrap("stat", k, err)
}

func (s *Store) head(ctx context.Context, name string) (o minio.ObjectInfo, err error) {
	err = s.retry(ctx, func() error {
		o, err = s.api.StatObject(ctx, s.conf.Bucket, name, minio.StatObjectOptions{})
		return s.certain(ctx, s.classify(ctx, err))
	})
	return o, err
}

func infoOf(k objstore.Key, o minio.ObjectInfo) objstore.Info {
	if o.ETag == "" {
		return objstore.Info{}
	}
	return objstore.Info{Key: k, Size: o.Size, ETag: o.ETag, Modified: o.LastModified}
}

// body reads from at to end.
type body struct {
	s    *Store
	ctx  context.Context
	key  objstore.Key
	name string
	etag string

	from    io.ReadCloser // nil between connections
	at, end int64
	tries   int
	err     error // the last word, once there is one
}

// open asks for length bytes from b.at, or for all from there if length is 0, and insists on etag if it is not empty.
func (b *body) open(length int64, etag string) (objstore.Info, error) {
	var opts minio.GetObjectOptions
	ranged := b.at > 0 || length > 0
	if ranged {
		last := int64(0) // stands for the end
		if length > 0 {
			last = b.at + length - 1
		}
		if err := opts.SetRange(b.at, last); err != nil {
			return objstore.Info{}, err
		}
	}
	if etag != "" {
		if err := opts.SetMatchETag(etag); err != nil {
			return objstore.Info{}, err
		}
	}
	from, o, header, err := b.s.api.GetObject(b.ctx, b.s.conf.Bucket, b.name, opts)
	if err != nil {
		return objstore.Info{}, b.s.classify(b.ctx, err)
	}
	first, end, total := int64(0), o.Size, o.Size
	if ranged {
		first, end, total, err = contentRange(header.Get("Content-Range"))
		if err == nil && first != b.at {
			err = errors.New("the answer begins elsewhere")
		}
	} else if o.Size < 0 {
		err = errors.New("the answer has no length")
	}
	if err != nil {
		from.Close()
		return objstore.Info{}, fmt.Errorf("%w: %w", objstore.ErrUnavailable, err)
	}
	b.from, b.end, b.etag = from, end, o.ETag
	o.Size = total
	return infoOf(b.key, o), nil
}

// contentRange reads "bytes FIRST-LAST/TOTAL"; end is LAST+1.
func contentRange(s string) (first, end, total int64, err error) {
	span, all, ok1 := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	a, b, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	total, err3 := strconv.ParseInt(all, 10, 64)
	if !ok1 || !ok2 || errors.Join(err1, err2, err3) != nil || first < 0 || last < first || last >= total {
		return 0, 0, 0, fmt.Errorf("a span was asked for, and the answer has Content-Range %q", s)
	}
	return first, last + 1, total, nil
}

func (b *body) Read(p []byte) (int, error) {
	for {
		if b.err != nil {
			return 0, b.err
		}
		if err := b.ctx.Err(); err != nil {
			return 0, b.fail(err)
		}
		if b.at == b.end {
			return 0, b.eof()
		}
		if b.from == nil {
			if err := b.reopen(); err != nil {
				return 0, b.fail(err)
			}
		}
		n, err := b.from.Read(p[:min(int64(len(p)), b.end-b.at)])
		b.at += int64(n)
		if err != nil && b.at < b.end {
			b.broke(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// broke closes a connection that ended before the body did, and decides whether there is another try.
func (b *body) broke(err error) {
	b.from.Close()
	b.from = nil
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.tries++
	switch {
	case b.ctx.Err() != nil:
		b.fail(b.ctx.Err())
	case b.tries >= b.s.conf.Attempts || !b.s.budget.spend():
		b.fail(fmt.Errorf("%w: %w", objstore.ErrUnavailable, err))
	}
}

func (b *body) reopen() error {
	if err := pause(b.ctx, b.tries-1); err != nil {
		return err
	}
	err := b.s.retry(b.ctx, func() error {
		_, err := b.open(b.end-b.at, b.etag)
		return err
	})
	if errors.Is(err, objstore.ErrConflict) || errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("%w: it was replaced or deleted while it was read: %v", objstore.ErrUnavailable, err)
	}
	return err
}

// fail notes the last word and returns it.
func (b *body) fail(err error) error {
	b.err = wrap("read", b.key, err)
	return b.err
}

func (b *body) eof() error {
	b.err = io.EOF
	return io.EOF
}

func (b *body) Close() error {
	if b.err == nil {
		b.err = fmt.Errorf("read %s: after Close", b.key)
	}
	if b.from == nil {
		return nil
	}
	from := b.from
	b.from = nil
	return from.Close()
}

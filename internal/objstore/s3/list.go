package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"narfold/internal/objstore"
)

// List asks for a thousand names at a time. Names in the bucket that are not keys are passed over.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if !couldBegin(prefix) || len(s.prefix)+len(prefix) > 1024 {
			return // no key begins so
		}
		l := &listing{s: s, ctx: ctx, prefix: s.prefix + prefix, yield: yield}
		err := ctx.Err()
		if err == nil {
			err = s.retry(ctx, l.pages)
		}
		if err != nil && !l.stopped {
			yield(objstore.Info{}, fmt.Errorf("list %q: %w", prefix, err))
		}
	}
}

// couldBegin reports whether a key may begin with prefix. Others are not asked for, since servers read them in ways of their own.
func couldBegin(prefix string) bool {
	whole, rest := prefix, ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		whole, rest = prefix[:i], prefix[i+1:]
		if _, err := objstore.ParseKey(whole); err != nil {
			return false
		}
	} else {
		rest = whole
	}
	// The last segment may still grow: "." may become ".hidden".
	_, err := objstore.ParseKey(rest + "x")
	return err == nil || len(rest) == 255
}

// listing is one List under way. It begins again after the last name when a page could not be had.
type listing struct {
	s       *Store
	ctx     context.Context
	prefix  string
	yield   func(objstore.Info, error) bool
	last    string // the last name seen
	stopped bool   // the consumer has seen enough
}

func (l *listing) pages() error {
	noOwner := false
	for o := range l.s.api.ListObjectsIter(l.ctx, l.s.conf.Bucket, minio.ListObjectsOptions{
		Prefix: l.prefix, Recursive: true, StartAfter: l.last, FetchOwner: &noOwner,
	}) {
		if o.Err != nil {
			return l.s.classify(l.ctx, o.Err)
		}
		if o.Key <= l.last {
			return fmt.Errorf("the server lists %q after %q: this store relies on the order of bytes", o.Key, l.last)
		}
		l.last = o.Key
		k, err := objstore.ParseKey(strings.TrimPrefix(o.Key, l.s.prefix))
		if err != nil {
			continue
		}
		if !l.yield(infoOf(k, o), nil) {
			l.stopped = true
			return nil
		}
	}
	return l.ctx.Err() // the library ends a cancelled list as if it were whole
}

package source

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

type bucketOpener = func(context.Context, S3Location) (Bucket, error)

// givenBucket opens a bucket that is there already.
func givenBucket(t testing.TB, b Bucket) bucketOpener {
	return func(_ context.Context, at S3Location) (Bucket, error) {
		if at.Bucket != "releases" {
			t.Errorf("asked for the bucket %q", at.Bucket)
		}
		return b, nil
	}
}

func TestEveryHashPartBeginsWithOnePrefixAndNoNarDoes(t *testing.T) {
	prefixes := hashPrefixes()
	begins := func(s string) (n int) {
		for _, p := range prefixes {
			if strings.HasPrefix(s, p) {
				n++
			}
		}
		return n
	}
	for range 2000 {
		var b [20]byte
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		for _, s := range []string{string(storepath.HashPartOf(b)), "n" + string(storepath.HashPartOf(b)), "nar" + string(storepath.HashPartOf(b))} {
			if begins(s) != 1 {
				t.Fatalf("%s begins with %d prefixes", s, begins(s))
			}
		}
	}
	if begins("nar/"+strings.Repeat("0", 32)+".nar") != 0 {
		t.Error("nars would be listed")
	}
	if !slices.IsSorted(prefixes) {
		t.Error("prefixes are not in order")
	}
}

// downBucket is a bucket that cannot be asked, for a reason.
type downBucket struct {
	Bucket
	why error
}

func (b downBucket) Get(context.Context, objstore.Key, objstore.Range) (objstore.Object, error) {
	return objstore.Object{}, b.why
}

func TestABucketThatIsDownIsNotAnEmptyOne(t *testing.T) {
	for why, want := range map[error]error{objstore.ErrUnavailable: ErrUnavailable, objstore.ErrDenied: fs.ErrPermission} {
		_, err := Open(t.Context(), "s3://releases", Options{Bucket: givenBucket(t, downBucket{why: why})})
		if !errors.Is(err, want) || errors.Is(err, ErrNotFound) {
			t.Errorf("opened: %v, want %v", err, want)
		}
	}
	if _, err := Open(t.Context(), "s3://releases", Options{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("opened without a way to: %v", err)
	}
}

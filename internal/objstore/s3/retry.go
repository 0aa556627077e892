package s3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"narfold/internal/objstore"
)

const (
	firstWait = 100 * time.Millisecond
	longWait  = 5 * time.Second
)

// retry runs op, whose errors are classified, again as long as they are ErrUnavailable, attempts and budget are left, and ctx lasts.
func (s *Store) retry(ctx context.Context, op func() error) error {
	for n := 0; ; n++ {
		err := op()
		var last final
		switch {
		case errors.As(err, &last):
			return last.error
		case err == nil:
			s.budget.earn()
			s.seen.Store(time.Now().Unix())
			return nil
		case !errors.Is(err, objstore.ErrUnavailable):
			return err
		case n+1 >= s.conf.Attempts:
			return fmt.Errorf("%w (tried %d times)", err, n+1)
		case !s.budget.spend():
			return fmt.Errorf("%w (not tried again, since most requests fail)", err)
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
}

// pause waits before attempt n+1: between nothing and the whole of an exponentially growing time, so that clients who failed
// together do not come back together.
func pause(ctx context.Context, n int) error {
	wait := rand.N(min(firstWait<<min(n, 10), longWait))
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// budget bounds the retries of the whole store: a failing server must not get a multiple of its usual load. Each retry costs one
// and ten successes earn one, up to fifty.
type budget struct {
	mu   sync.Mutex
	left float64
}

const fullBudget = 50

func newBudget() *budget { return &budget{left: fullBudget} }

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(fullBudget, b.left+0.1)
}

// classify adds the sentinel that callers decide on to an error of the library.
func (s *Store) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	var res minio.ErrorResponse
	if !errors.As(err, &res) {
		// No answer came: the network, TLS, or a broken one.
		return fmt.Errorf("%w: %w", objstore.ErrUnavailable, err)
	}
	if sentinel := sentinelOf(res); sentinel != nil {
		return fmt.Errorf("%w: %w", sentinel, said(res))
	}
	return said(res)
}

// said is an answer's error with all that helps to find it in the server's log.
func said(res minio.ErrorResponse) error { return answer{res} }

type answer struct{ res minio.ErrorResponse }

func (a answer) Error() string {
	s := fmt.Sprintf("%s: %s (HTTP status %d", a.res.Code, a.res.Message, a.res.StatusCode)
	if a.res.RequestID != "" {
		s += ", request " + a.res.RequestID
	}
	return s + ")"
}

func (a answer) Unwrap() error { return a.res }

// sentinelOf maps what servers say. Codes come first, since some send them with a status of their own; they are those of Amazon's
// list of error responses, with the additions of MinIO, Ceph, Garage and Versity that matter here.
func sentinelOf(res minio.ErrorResponse) error {
	switch res.Code {
	case "NoSuchKey":
		return objstore.ErrNotFound
	case "NoSuchBucket":
		return objstore.ErrUnavailable // nothing is known about any key
	case "PreconditionFailed":
		return objstore.ErrConflict
	case "ConditionalRequestConflict", "OperationAborted":
		return objstore.ErrUnavailable // another change was under way; it says to try again
	case "InvalidRange":
		return objstore.ErrRange
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody":
		return objstore.ErrDigest
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "EntityTooLarge":
		return objstore.ErrFull
	case "KeyTooLongError", "ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject", "XMinioObjectExistsAsDirectory", "XMinioInvalidObjectName":
		return objstore.ErrKey
	case "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "RequestLimitExceeded":
		return objstore.ErrUnavailable
	}
	switch code := res.StatusCode; {
	case code == http.StatusNotFound:
		return nil // NoSuchUpload and the like; of objects NoSuchKey is said
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return objstore.ErrDenied
	case code == http.StatusPreconditionFailed:
		return objstore.ErrConflict
	case code == http.StatusRequestedRangeNotSatisfiable:
		return objstore.ErrRange
	case code == http.StatusInsufficientStorage:
		return objstore.ErrFull
	case code == http.StatusRequestTimeout, code == http.StatusConflict, code == http.StatusTooManyRequests, code >= 500, code < 400:
		return objstore.ErrUnavailable
	}
	return nil
}

// certain turns ErrNotFound into an error unless the bucket is known to be there: a missing bucket, too, answers 404, and a HEAD
// does not say which of the two is missing. One look is good for a minute.
func (s *Store) certain(ctx context.Context, err error) error {
	if !errors.Is(err, objstore.ErrNotFound) || time.Now().Unix()-s.seen.Load() < 60 {
		return err
	}
	there, berr := s.api.BucketExists(ctx, s.conf.Bucket)
	berr = s.classify(ctx, berr)
	switch {
	case errors.Is(berr, objstore.ErrDenied):
		return err // may not look at the bucket; then a 404 for a key cannot come from a missing one, which would be denied too
	case berr != nil:
		return berr
	case !there:
		return fmt.Errorf("%w: there is no bucket %s", objstore.ErrUnavailable, s.conf.Bucket)
	}
	s.seen.Store(time.Now().Unix())
	return err
}

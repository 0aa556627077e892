package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

func TestErrorsOfTheSystemGetTheirSentinel(t *testing.T) {
	sentinels := []error{
		objstore.ErrNotFound, objstore.ErrConflict, objstore.ErrKey, objstore.ErrRange, objstore.ErrUnavailable, objstore.ErrDenied, objstore.ErrFull, objstore.ErrDigest,
	}
	for _, c := range []struct{ err, want error }{
		{unix.ENOSPC, objstore.ErrFull},
		{&fs.PathError{Op: "write", Err: unix.ENOSPC}, objstore.ErrFull},
		{unix.EDQUOT, objstore.ErrFull},
		{unix.EACCES, objstore.ErrDenied},
		{unix.EPERM, objstore.ErrDenied},
		{unix.EROFS, objstore.ErrDenied},
		{unix.ELOOP, objstore.ErrDenied},
		{unix.ENOENT, objstore.ErrNotFound},
		{unix.EIO, objstore.ErrUnavailable},
		{unix.EMFILE, objstore.ErrUnavailable},
		{unix.ESTALE, objstore.ErrUnavailable},
		{fmt.Errorf("flush: %w", unix.EIO), objstore.ErrUnavailable},
		{context.Canceled, nil},
		{context.DeadlineExceeded, nil},
		{io.ErrUnexpectedEOF, nil},
		{fmt.Errorf("%w: it is there", objstore.ErrConflict), objstore.ErrConflict},
	} {
		got := wrap("put", "k", c.err)
		if !errors.Is(got, c.err) {
			t.Errorf("%v has lost its cause: %v", c.err, got)
		}
		for _, s := range sentinels {
			if errors.Is(got, s) != (s == c.want) {
				t.Errorf("%v: errors.Is(%v, %v) is %v", c.err, got, s, errors.Is(got, s))
			}
		}
	}
	if err := wrap("put", "k", nil); err != nil {
		t.Errorf("no error becomes %v", err)
	}
}

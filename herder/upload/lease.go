package upload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// leaseTime is how long a promise lasts that is not renewed: for as long as a publisher may be away and come back.
const leaseTime = time.Hour

// Promise implements publishapi.Backend.
func (u *Uploads) Promise(ctx context.Context, by string, lease int64, hs []storepath.HashPart) (publishapi.Lease, []storepath.HashPart, error) {
	if u.Leaser == nil {
		missing, err := u.Missing(ctx, hs)
		return publishapi.Lease{}, missing, err
	}
	l, missing, err := u.Leaser.Lease(ctx, u.lease(by, lease), hs)
	return publishapi.Lease{ID: l.ID, Expires: l.Expires}, missing, leaseError(err)
}

// RenewLease implements publishapi.Backend.
func (u *Uploads) RenewLease(ctx context.Context, by string, lease int64) (publishapi.Lease, error) {
	if u.Leaser == nil {
		return publishapi.Lease{}, leaseError(catalog.ErrLeaseOver)
	}
	l := u.lease(by, lease)
	if err := u.Leaser.RenewLease(ctx, l); err != nil {
		return publishapi.Lease{}, leaseError(err)
	}
	return publishapi.Lease{ID: l.ID, Expires: l.Expires}, nil
}

// ReleaseLease implements publishapi.Backend.
func (u *Uploads) ReleaseLease(ctx context.Context, by string, lease int64) error {
	if u.Leaser == nil {
		return nil
	}
	return leaseError(u.Leaser.ReleaseLease(ctx, u.lease(by, lease)))
}

func (u *Uploads) lease(by string, id int64) catalog.Lease {
	return catalog.Lease{ID: id, Holder: by, Expires: time.Now().Add(leaseTime)}
}

func leaseError(err error) error {
	if errors.Is(err, catalog.ErrLeaseOver) {
		return fmt.Errorf("%w: %w", publishapi.ErrLeaseOver, err)
	}
	return err
}

package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"narfold/internal/objstore"
)

// parallel is how many parts of one body are in memory and under way at once.
const parallel = 3

// parts stores the body in parts. Nothing is visible before the last request, which carries the condition.
func (p *put) parts() (minio.UploadInfo, error) {
	if err := p.foresee(); err != nil {
		return minio.UploadInfo{}, err
	}
	opts := p.options()
	var id string
	err := p.s.retry(p.ctx, func() (err error) {
		// An upload that was begun and whose answer was lost stays behind; the bucket's rules remove such.
		id, err = p.s.api.NewMultipartUpload(p.ctx, p.s.conf.Bucket, p.name, opts)
		return p.s.classify(p.ctx, err)
	})
	if err != nil {
		return minio.UploadInfo{}, fmt.Errorf("begin upload in parts: %w", err)
	}
	info, err := p.send(id)
	if err != nil {
		p.abort(id)
	}
	return info, err
}

// foresee refuses what the condition will refuse at the end, before gigabytes are sent.
func (p *put) foresee() error {
	if p.cond == (objstore.Condition{}) {
		return nil
	}
	o, err := p.s.head(p.ctx, p.name)
	switch {
	case errors.Is(err, objstore.ErrNotFound) && p.cond.IfMatch != "":
		return fmt.Errorf("%w: nothing is stored under it", objstore.ErrConflict)
	case errors.Is(err, objstore.ErrNotFound):
		return nil
	case err != nil:
		return err
	case p.cond.IfAbsent:
		return fmt.Errorf("%w: it is there already", objstore.ErrConflict)
	case o.ETag != p.cond.IfMatch:
		return fmt.Errorf("%w: what is stored has another ETag", objstore.ErrConflict)
	}
	return nil
}

// abort removes the parts, also when the caller has gone away. If it fails, the bucket's rules for unfinished uploads remove them.
func (p *put) abort(id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 30*time.Second)
	defer cancel()
	p.s.retry(ctx, func() error {
		return p.s.classify(ctx, p.s.api.AbortMultipartUpload(ctx, p.s.conf.Bucket, p.name, id))
	})
}

func (p *put) send(id string) (minio.UploadInfo, error) {
	g, err := openGuard(p.body)
	if err != nil {
		return minio.UploadInfo{}, err
	}
	defer g.stop()
	size := partSize(p.body.Size, p.s.conf.PartSize)
	parts := make([]minio.CompletePart, (p.body.Size+size-1)/size)
	free := make(chan []byte, parallel)
	for range min(parallel, len(parts)) {
		free <- make([]byte, min(size, p.body.Size))
	}
	group, ctx := errgroup.WithContext(p.ctx)
	for i := range parts {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		n, err := io.ReadFull(g, buf[:min(size, p.body.Size-int64(i)*size)])
		if err != nil {
			group.Go(func() error { return err })
			break
		}
		group.Go(func() (err error) {
			parts[i], err = p.part(ctx, id, i+1, buf[:n])
			free <- buf
			return err
		})
	}
	err = group.Wait()
	if berr := g.failed(); berr != nil {
		return minio.UploadInfo{}, berr
	}
	if cause := p.ctx.Err(); cause != nil {
		return minio.UploadInfo{}, cause
	}
	if err != nil {
		return minio.UploadInfo{}, err
	}
	return p.complete(id, parts)
}

// partSize is want, or more if the body would have too many parts.
func partSize(size, want int64) int64 {
	const mib = 1 << 20
	least := (size + maxParts - 1) / maxParts
	return max(want, (least+mib-1)/mib*mib)
}

func (p *put) part(ctx context.Context, id string, n int, b []byte) (done minio.CompletePart, err error) {
	opts := minio.PutObjectPartOptions{Sha256Hex: partSum(b), DisableContentSha256: true}
	err = p.s.retry(ctx, func() error {
		part, err := p.s.api.PutObjectPart(ctx, p.s.conf.Bucket, p.name, id, n, onlyReader{bytes.NewReader(b)}, int64(len(b)), opts)
		done = minio.CompletePart{PartNumber: n, ETag: part.ETag}
		return p.s.classify(ctx, err)
	})
	if err != nil {
		return done, fmt.Errorf("part %d: %w", n, err)
	}
	return done, nil
}

// onlyReader hides Seek, which the library takes as leave to try again by itself.
type onlyReader struct{ io.Reader }

// complete makes the parts an object. When its answer is lost, the next try finds no upload, or its own object in the way.
func (p *put) complete(id string, parts []minio.CompletePart) (info minio.UploadInfo, err error) {
	var opts minio.PutObjectOptions
	p.condition(&opts)
	err = p.s.retry(p.ctx, func() error {
		var err error
		info, err = p.s.api.CompleteMultipartUpload(p.ctx, p.s.conf.Bucket, p.name, id, parts, opts)
		if err != nil && minio.ToErrorResponse(err).Code == "NoSuchUpload" && p.unsure {
			return p.gone(&info)
		}
		return p.settle(p.s.classify(p.ctx, err), &info)
	})
	return info, err
}

// gone decides what it means that the upload is not there after an attempt to complete it.
func (p *put) gone(info *minio.UploadInfo) error {
	mine, there, err := p.look(info)
	switch {
	case mine:
		return nil
	case err != nil:
		return err
	case there && p.cond.IfAbsent:
		return fmt.Errorf("%w: it is there already", objstore.ErrConflict)
	}
	return final{fmt.Errorf("%w: the upload is gone, and what it was to store is not there", objstore.ErrUnavailable)}
}

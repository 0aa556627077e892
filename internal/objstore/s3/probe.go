package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// maxSkew is how far the clocks may differ. Servers refuse requests at fifteen minutes (RequestTimeTooSkewed); long before that
// presigned URLs live shorter than they were promised, and times of objects mislead collection.
const maxSkew = 5 * time.Minute

// Probe tries out, below the prefix, everything on which a Store relies, and returns nil or one sentence that says what is wrong
// with which thing and what to do. It leaves nothing behind where deleting is allowed. It is to be called at start: a server that
// ignores conditions silently, for one, would lose objects later.
func (s *Store) Probe(ctx context.Context) error {
	p := &probe{s: s, ctx: ctx, dir: s.prefix + ".narfold-probe/" + rand.Text()}
	err := p.bucket()
	if err == nil {
		for _, step := range []func() error{p.put, p.get, p.list, p.conditions, p.partsCondition, p.presigned, p.delete} {
			if err = step(); err != nil {
				p.clean()
				break
			}
		}
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("probe %v: %w", s.conf, cause)
	}
	if err != nil {
		return fmt.Errorf("probe %v: %w", s.conf, err)
	}
	return nil
}

type probe struct {
	s   *Store
	ctx context.Context
	dir string
}

func (p *probe) where() string { return strings.TrimSuffix(p.s.prefix, "/") + "/*" }

// bucket checks that there is a server, that it agrees about the time, and that it has the bucket.
func (p *probe) bucket() error {
	there := false
	err := p.s.retry(p.ctx, func() (err error) {
		there, err = p.s.api.BucketExists(p.ctx, p.s.conf.Bucket)
		return p.s.classify(p.ctx, err)
	})
	skew := time.Duration(p.s.clock.skew.Load())
	switch {
	case skew.Abs() > maxSkew:
		// First, because it explains refused signatures.
		return fmt.Errorf("%w: the server's clock is %v %s this machine's, and at most %v is allowed; set the clock of the one that is wrong (is NTP running?)",
			objstore.ErrDenied, skew.Abs().Round(time.Second), aheadOf(skew), maxSkew)
	case p.otherRegion(err) != "":
		return fmt.Errorf("the bucket is in region %q and not in %q; set region to that: %w", p.otherRegion(err), p.s.conf.Region, err)
	case errors.Is(err, objstore.ErrDenied):
		return fmt.Errorf("the server refuses to let this access key see the bucket; check the access key, the secret key and that s3:ListBucket is allowed: %w", err)
	case err != nil:
		return fmt.Errorf("the server cannot be reached; check the endpoint and the network between: %w", err)
	case !there:
		return fmt.Errorf("%w: the server has no bucket %q; create it, or correct its name or the region", objstore.ErrUnavailable, p.s.conf.Bucket)
	}
	return nil
}

func aheadOf(skew time.Duration) string {
	if skew > 0 {
		return "ahead of"
	}
	return "behind"
}

// otherRegion returns the region that a refusal names, if it is not the configured one.
func (p *probe) otherRegion(err error) string {
	var res minio.ErrorResponse
	if errors.As(err, &res) && res.Region != p.s.conf.Region {
		return res.Region
	}
	return ""
}

var first, second = []byte("narfold probe: first"), []byte("narfold probe: second")

// raw puts without a second try and without the mark by which Put recognises its own.
func (p *probe) raw(name string, b []byte, set func(*minio.PutObjectOptions)) (minio.UploadInfo, error) {
	opts := minio.PutObjectOptions{DisableContentSha256: true, UserMetadata: map[string]string{writer: "probe"}}
	if set != nil {
		set(&opts)
	}
	info, err := p.s.api.PutObject(p.ctx, p.s.conf.Bucket, name, bytes.NewReader(b), int64(len(b)), "", digest.Of(b).Hex(), opts)
	return info, p.s.classify(p.ctx, err)
}

func ifNoneMatch(o *minio.PutObjectOptions) { o.SetMatchETagExcept("*") }

func (p *probe) refused(what, permission string, err error) error {
	if errors.Is(err, objstore.ErrDenied) {
		return fmt.Errorf("the access key may not %s; allow it %s on %s: %w", what, permission, p.where(), err)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

func (p *probe) put() error {
	err := p.s.retry(p.ctx, func() error {
		_, err := p.raw(p.dir+"/object", first, nil)
		return err
	})
	if err != nil {
		return p.refused("put objects", "s3:PutObject", err)
	}
	return nil
}

func (p *probe) get() error {
	var o minio.ObjectInfo
	var got []byte
	err := p.s.retry(p.ctx, func() error {
		from, info, _, err := p.s.api.GetObject(p.ctx, p.s.conf.Bucket, p.dir+"/object", minio.GetObjectOptions{})
		if err != nil {
			return p.s.classify(p.ctx, err)
		}
		defer from.Close()
		o = info
		got, err = io.ReadAll(io.LimitReader(from, 1<<10))
		return p.s.classify(p.ctx, err)
	})
	switch {
	case err != nil:
		return p.refused("get objects", "s3:GetObject", err)
	case !bytes.Equal(got, first):
		return fmt.Errorf("what was put and what is got differ (%q); is there a proxy or a cache between that changes bodies?", got)
	case o.ETag == "":
		return errors.New("the server's answers have no ETag, without which nothing can be replaced safely; use another server, or let the proxy between pass ETag on")
	case o.Metadata.Get("X-Amz-Meta-"+writer) != "probe":
		return errors.New("the server drops metadata (x-amz-meta-*), by which lost answers are recognised; use another server, or let the proxy between pass them on")
	}
	_, err = p.s.head(p.ctx, p.dir+"/absent")
	switch {
	case errors.Is(err, objstore.ErrDenied):
		return fmt.Errorf("the server answers \"denied\" for what is absent, so that absence cannot be told; allow the access key s3:ListBucket on the bucket: %w", err)
	case !errors.Is(err, objstore.ErrNotFound):
		return fmt.Errorf("asking for what is absent did not answer \"not found\" (%v); use another server, or look at the proxy between", err)
	}
	return nil
}

func (p *probe) list() error {
	var names []string
	err := p.s.retry(p.ctx, func() error {
		names = nil
		for o := range p.s.api.ListObjectsIter(p.ctx, p.s.conf.Bucket, minio.ListObjectsOptions{Prefix: p.dir + "/", Recursive: true}) {
			if o.Err != nil {
				return p.s.classify(p.ctx, o.Err)
			}
			names = append(names, o.Key)
		}
		return p.ctx.Err()
	})
	if err != nil {
		return p.refused("list objects", "s3:ListBucket", err)
	}
	if !slices.Equal(names, []string{p.dir + "/object"}) {
		return fmt.Errorf("what was put is not in the list that follows (%q); use a server whose lists are consistent", names)
	}
	return nil
}

const ignored = "the server ignores %s: it replaced an object that should have been kept; use a server with conditional writes (AWS, MinIO, Garage 2, Ceph 19, R2, versitygw), or let the proxy between pass the header on"

func (p *probe) conditions() error {
	_, err := p.raw(p.dir+"/object", second, ifNoneMatch)
	if err == nil {
		return fmt.Errorf(ignored, "If-None-Match: *")
	} else if !errors.Is(err, objstore.ErrConflict) {
		return fmt.Errorf("a put with If-None-Match: * on an existing object must be refused with 412 and got another answer; use a server with conditional writes: %w", err)
	}
	_, err = p.raw(p.dir+"/object", second, func(o *minio.PutObjectOptions) { o.SetMatchETag("00000000000000000000000000000000") })
	if err == nil {
		return fmt.Errorf(ignored, "If-Match")
	} else if !errors.Is(err, objstore.ErrConflict) {
		return fmt.Errorf("a put with an If-Match that does not hold must be refused with 412 and got another answer; use a server with conditional writes: %w", err)
	}
	if _, err = p.raw(p.dir+"/new", first, ifNoneMatch); err != nil {
		return fmt.Errorf("a put with If-None-Match: * where nothing is must be accepted; use a server with conditional writes: %w", err)
	}
	return nil
}

// partsCondition checks the request that ends an upload in parts, which some servers forget.
func (p *probe) partsCondition() error {
	ctx, bucket, name := p.ctx, p.s.conf.Bucket, p.dir+"/object"
	id, err := p.s.api.NewMultipartUpload(ctx, bucket, name, minio.PutObjectOptions{})
	if err != nil {
		return p.refused("begin uploads in parts", "s3:PutObject", p.s.classify(ctx, err))
	}
	// What is refused stays unfinished, and is removed.
	up := &put{s: p.s, ctx: ctx, name: name, mark: "probe"}
	defer up.abort(id)
	part, err := up.part(ctx, id, 1, second)
	if err != nil {
		return p.refused("upload parts", "s3:PutObject", err)
	}
	var opts minio.PutObjectOptions
	ifNoneMatch(&opts)
	_, err = p.s.api.CompleteMultipartUpload(ctx, bucket, name, id, []minio.CompletePart{part}, opts)
	if err == nil {
		return fmt.Errorf(ignored, "If-None-Match: * at the end of an upload in parts")
	} else if err := p.s.classify(ctx, err); !errors.Is(err, objstore.ErrConflict) {
		return fmt.Errorf("completing an upload in parts with If-None-Match: * on an existing object must be refused with 412 and got another answer; use a server with conditional writes: %w", err)
	}
	return nil
}

// presigned tries URLs as somebody without credentials would.
func (p *probe) presigned() error {
	if p.s.conf.AccessKey == "" {
		return nil
	}
	get, err := p.s.sign(p.ctx, http.MethodGet, p.dir+"/object", time.Minute, nil)
	if err != nil {
		return fmt.Errorf("presign: %w", err)
	}
	code, got, err := p.plain(http.MethodGet, get, nil, nil)
	if err != nil {
		return fmt.Errorf("a presigned URL could not be fetched; check the network between: %w", err)
	}
	if code != http.StatusOK || !bytes.Equal(got, first) {
		return fmt.Errorf("a presigned GET got status %d; let the server accept signatures in the query (and the proxy between keep Host)", code)
	}
	header := http.Header{"If-None-Match": {"*"}}
	url, err := p.s.sign(p.ctx, http.MethodPut, p.dir+"/object", time.Minute, header)
	if err != nil {
		return fmt.Errorf("presign: %w", err)
	}
	code, _, err = p.plain(http.MethodPut, url, header, second)
	switch {
	case err != nil:
		return fmt.Errorf("a presigned URL could not be put to; check the network between: %w", err)
	case code/100 == 2:
		return fmt.Errorf(ignored, "If-None-Match: * of presigned URLs")
	case code != http.StatusPreconditionFailed:
		return fmt.Errorf("a presigned PUT on an existing object must be refused with 412 and got status %d; let the server accept signatures in the query", code)
	}
	return nil
}

func (p *probe) plain(method, url string, header http.Header, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(p.ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := p.s.clock.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return res.StatusCode, b, err
}

func (p *probe) delete() error {
	for _, name := range []string{"/object", "/new"} {
		if err := p.remove(p.ctx, p.dir+name); err != nil {
			return p.refused("delete objects", "s3:DeleteObject", err)
		}
	}
	if _, err := p.s.head(p.ctx, p.dir+"/object"); !errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("what was deleted is still there (%v); use a server that is consistent, or look for a cache between", err)
	}
	return nil
}

func (p *probe) remove(ctx context.Context, name string) error {
	return p.s.retry(ctx, func() error {
		return p.s.classify(ctx, p.s.api.RemoveObject(ctx, p.s.conf.Bucket, name, minio.RemoveObjectOptions{}))
	})
}

// clean removes what an early end has left, if that is allowed.
func (p *probe) clean() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 10*time.Second)
	defer cancel()
	for _, name := range []string{"/object", "/new"} {
		p.remove(ctx, p.dir+name)
	}
}

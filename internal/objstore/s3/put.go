package s3

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// writer is the metadata that marks an object as stored by one Put.
const writer = "narfold-put"

// Put stores body in one request, or in parts if it is longer than Config.MultipartAbove.
//
// A request whose answer was lost may have been carried out, and the next one then meets its own object. So each Put marks what it
// stores with a random word (x-amz-meta-narfold-put), and looks for it before it reports ErrConflict: an object with its own mark is
// its success. If in that situation an IfMatch finds somebody else's object, its own may have been there in between, and the error
// is ErrUnavailable.
func (s *Store) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	name, err := s.begin(ctx, k)
	if err == nil && body.Size < 0 {
		err = fmt.Errorf("%w: size %d", objstore.ErrDigest, body.Size)
	}
	if err == nil && c.IfAbsent && c.IfMatch != "" {
		err = fmt.Errorf("%w: nothing is both absent and of an ETag", objstore.ErrConflict)
	}
	if err != nil {
		return objstore.Info{}, wrap("put", k, err)
	}
	p := &put{s: s, ctx: ctx, name: name, body: body, cond: c, mark: rand.Text()}
	var info minio.UploadInfo
	if body.Size > s.conf.MultipartAbove {
		info, err = p.parts()
	} else {
		info, err = p.whole()
	}
	if err != nil {
		return objstore.Info{}, wrap("put", k, err)
	}
	return objstore.Info{Key: k, Size: body.Size, ETag: info.ETag}, nil
}

// put is one Put under way.
type put struct {
	s    *Store
	ctx  context.Context
	name string
	body objstore.Body
	cond objstore.Condition
	mark string
	sum  digest.SHA256 // of a body that goes in one request

	unsure bool // whether an attempt may have been carried out although it failed
	barred int  // how often the server said that another object has the name of a folder
}

func (p *put) options() minio.PutObjectOptions {
	opts := minio.PutObjectOptions{
		ContentType:          contentType(p.name),
		UserMetadata:         map[string]string{writer: p.mark},
		DisableContentSha256: true, // of chunks: each request carries the digest of all that it sends
	}
	p.condition(&opts)
	return opts
}

func (p *put) condition(opts *minio.PutObjectOptions) {
	if p.cond.IfAbsent {
		opts.SetMatchETagExcept("*")
	}
	if p.cond.IfMatch != "" {
		opts.SetMatchETag(p.cond.IfMatch)
	}
}

func contentType(name string) string {
	switch {
	case strings.HasSuffix(name, ".narinfo"):
		return "text/x-nix-narinfo"
	case strings.HasSuffix(name, "/nix-cache-info"), name == "nix-cache-info":
		return "text/x-nix-cache-info"
	case strings.HasPrefix(name, "nar/"), strings.Contains(name, "/nar/"):
		return "application/x-nix-nar"
	}
	return "application/octet-stream"
}

// whole stores the body in one request, which is signed with the digest. A body whose digest is not known is read once more for it:
// without it there are servers that store what has arrived when a connection breaks (versitygw 1.8 does).
func (p *put) whole() (info minio.UploadInfo, err error) {
	if p.sum = p.body.SHA256; p.sum.IsZero() {
		if p.sum, err = p.hash(); err != nil {
			return info, err
		}
	}
	err = p.s.retry(p.ctx, func() error {
		info, err = p.once()
		return p.settle(err, &info)
	})
	return info, err
}

func (p *put) hash() (sum digest.SHA256, err error) {
	g, err := openGuard(p.body)
	if err != nil {
		return sum, err
	}
	defer g.stop()
	h := sha256.New()
	if _, err := io.Copy(h, obedient{p.ctx, g}); err != nil {
		return sum, err
	}
	return digest.SHA256(h.Sum(nil)), nil
}

// obedient stops reading when the context does.
type obedient struct {
	ctx context.Context
	io.Reader
}

func (o obedient) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.Reader.Read(p)
}

func (p *put) once() (minio.UploadInfo, error) {
	g, err := openGuard(p.body)
	if err != nil {
		return minio.UploadInfo{}, err
	}
	defer g.stop()
	info, err := p.s.api.PutObject(p.ctx, p.s.conf.Bucket, p.name, g, p.body.Size, "", p.sum.Hex(), p.options())
	if berr := g.failed(); berr != nil {
		return minio.UploadInfo{}, berr
	}
	return info, p.s.classify(p.ctx, err)
}

// settle decides what the error of an attempt means, which may be success.
func (p *put) settle(err error, info *minio.UploadInfo) error {
	switch {
	case errors.Is(err, objstore.ErrUnavailable):
		p.unsure = true
		if !p.cond.IfAbsent {
			return err
		}
		// A server that refuses before it has read the body closes the connection on it, and its answer may be lost: every
		// further try would end so too.
		switch mine, there, lerr := p.look(info); {
		case lerr != nil:
			return err
		case mine:
			return nil
		case there:
			return fmt.Errorf("%w: it is there", objstore.ErrConflict)
		}
		return err
	case errors.Is(err, objstore.ErrKey) && p.barred < 2:
		// Servers that keep objects as files also say so when a folder is made or removed meanwhile.
		p.barred++
		return fmt.Errorf("%w: %v", objstore.ErrUnavailable, err)
	case errors.Is(err, objstore.ErrNotFound) && p.cond.IfMatch != "":
		err = fmt.Errorf("%w: nothing is stored under it", objstore.ErrConflict)
	}
	if !errors.Is(err, objstore.ErrConflict) {
		return err
	}
	// Asked also at the first attempt, since a proxy in between may have sent it twice.
	mine, there, lerr := p.look(info)
	switch {
	case mine:
		return nil
	case lerr != nil && p.unsure:
		return lerr
	case p.unsure && p.cond.IfMatch != "":
		return final{fmt.Errorf("%w: an attempt may have stored it, and what is there now is another's", objstore.ErrUnavailable)}
	case !there && p.unsure:
		return fmt.Errorf("%w: it was there and is not", objstore.ErrUnavailable)
	}
	return err
}

// look reports whether what is stored was stored by this Put, and whether anything is.
func (p *put) look(info *minio.UploadInfo) (mine, there bool, err error) {
	o, err := p.s.head(p.ctx, p.name)
	if errors.Is(err, objstore.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if o.Metadata.Get("X-Amz-Meta-"+writer) != p.mark || o.Size != p.body.Size {
		return false, true, nil
	}
	info.ETag = o.ETag
	return true, true, nil
}

// final is an error that another try would not change, although its sentinel says so.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// guard reads a body and always holds something back until it knows that the rest is there, and at the end that the size and the
// digest are right, so that a server never gets the whole of a wrong one, nor a short one whole.
type guard struct {
	mu   sync.Mutex // a transport may go on reading after it has returned an early answer
	src  io.ReadCloser
	buf  *bufio.Reader // of src
	left int64
	body objstore.Body
	hash hash.Hash // nil if there is nothing to compare
	err  error     // what is wrong with the body
	done bool
}

func openGuard(body objstore.Body) (*guard, error) {
	src, err := body.Open()
	if err != nil {
		return nil, fmt.Errorf("open body: %w", err)
	}
	g := &guard{src: src, buf: bufio.NewReaderSize(src, 64<<10), left: body.Size, body: body}
	if !body.SHA256.IsZero() {
		g.hash = sha256.New()
	}
	if g.left == 0 { // nobody will read it
		g.err = g.check()
	}
	if g.err != nil {
		src.Close()
		return nil, g.err
	}
	return g, nil
}

func (g *guard) Read(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.done:
		return 0, errors.New("read of a body after its request")
	case g.err != nil:
		return 0, g.err
	case g.left == 0:
		return 0, io.EOF
	case len(b) == 0:
		return 0, nil
	}
	n, err := g.buf.Read(b[:min(int64(len(b)), g.left)])
	if g.hash != nil {
		g.hash.Write(b[:n])
	}
	g.left -= int64(n)
	if err == nil || err == io.EOF {
		err = g.check()
	} else {
		err = fmt.Errorf("read body: %w", err)
	}
	if err != nil {
		g.err = err
		return 0, err
	}
	return n, nil
}

// check looks one byte ahead: there must be one exactly if some are left.
func (g *guard) check() error {
	_, err := g.buf.Peek(1)
	switch {
	case err != nil && err != io.EOF:
		return fmt.Errorf("read body: %w", err)
	case err == nil && g.left == 0:
		return fmt.Errorf("%w: it has more than the %d bytes it was said to have", objstore.ErrDigest, g.body.Size)
	case err == io.EOF && g.left > 0:
		return fmt.Errorf("%w: it has %d bytes, not %d", objstore.ErrDigest, g.body.Size-g.left, g.body.Size)
	}
	if g.left == 0 && g.hash != nil {
		if sum := digest.SHA256(g.hash.Sum(nil)); sum != g.body.SHA256 {
			return fmt.Errorf("%w: it hashes to %s, not %s", objstore.ErrDigest, sum, g.body.SHA256)
		}
	}
	return nil
}

// failed returns what was wrong with the body.
func (g *guard) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// stop closes the body. A Read that is under way ends first.
func (g *guard) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
	g.src.Close()
}

// partSum is the digest of a part, as requests carry it.
func partSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// open opens a nar. What reads it gets all of it even if the connection is cut, as long as the server can go on from where it was.
func (w *web) open(ctx context.Context, at string) (io.ReadCloser, error) {
	d := &download{w: w, ctx: ctx, at: at, size: -1}
	if err := w.retry.do(ctx, d.connect); err != nil {
		return nil, err
	}
	return d, nil
}

// download reads one file over as many connections as it takes. It is used by one goroutine at a time.
type download struct {
	w      *web
	ctx    context.Context // of whoever opened it: each connection has its own below it
	at     string
	pos    int64  // bytes given to the reader
	size   int64  // of the file; -1 if the server does not say
	ranges bool   // the server offers to go on in the middle
	same   string // what tells that the file is still the same: a strong ETag, else a date

	body   io.ReadCloser
	cancel context.CancelCauseFunc
	watch  *time.Timer
	fails  int // cuts since bytes last came
	err    error
}

var errStalled = errors.New("no bytes came for too long")

// connect begins at pos.
func (d *download) connect(ctx context.Context) error {
	header := http.Header{}
	if d.pos > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.pos))
		if d.same != "" {
			header.Set("If-Range", d.same)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := d.w.get(ctx, d.at, header)
	if err == nil && d.pos > 0 {
		err = d.continues(resp)
	} else if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: get %s: status %s for the whole file", ErrDamaged, redacted(d.at), resp.Status)
	}
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		cancel(nil)
		return err
	}
	if d.pos == 0 {
		d.size = resp.ContentLength
		d.ranges = resp.Header.Get("Accept-Ranges") == "bytes"
		if etag := resp.Header.Get("ETag"); etag != "" && !strings.HasPrefix(etag, "W/") {
			d.same = etag
		} else {
			d.same = resp.Header.Get("Last-Modified")
		}
	}
	d.body, d.cancel = resp.Body, cancel
	d.watch = time.AfterFunc(d.w.stall, func() { cancel(errStalled) })
	d.watch.Stop()
	return nil
}

// continues checks that an answer goes on where the last connection ended, in the same file.
func (d *download) continues(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return fmt.Errorf("get %s: the file changed, or the server does not continue, at byte %d", redacted(d.at), d.pos)
	}
	from, size, ok := contentRange(resp.Header.Get("Content-Range"))
	if !ok || from != d.pos || d.size >= 0 && size >= 0 && size != d.size {
		return fmt.Errorf("%w: get %s: asked from byte %d, answered with %q", ErrDamaged, redacted(d.at), d.pos, resp.Header.Get("Content-Range"))
	}
	return nil
}

// contentRange reads "bytes FROM-TO/SIZE"; size is -1 if it is not told.
func contentRange(s string) (from, size int64, ok bool) {
	span, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, total, ok := strings.Cut(span, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, false
	}
	from, err := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if err != nil || err2 != nil || from < 0 || to < from {
		return 0, 0, false
	}
	if total == "*" {
		return from, -1, true
	}
	size, err = strconv.ParseInt(total, 10, 64)
	return from, size, err == nil && size > to
}

// Read implements io.Reader. An error other than io.EOF is ErrUnavailable, or the context's.
func (d *download) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	for {
		d.watch.Reset(d.w.stall)
		n, err := d.body.Read(p)
		d.watch.Stop()
		d.pos += int64(n)
		if n > 0 {
			d.fails = 0
		}
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == io.EOF && d.size < 0:
			d.err = io.EOF
			return n, io.EOF
		case err == nil:
			continue
		}
		if d.pos == d.size { // cut behind the last byte
			d.err = io.EOF
			return n, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if d.err = d.reconnect(err); d.err != nil || n > 0 {
			return n, d.err
		}
	}
}

// reconnect goes on after a cut.
func (d *download) reconnect(cut error) error {
	d.drop()
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	cut = fmt.Errorf("get %s: cut at byte %d: %w", redacted(d.at), d.pos, cut)
	d.fails++
	switch {
	case d.pos > 0 && !d.ranges:
		return fmt.Errorf("%w: %w; the server cannot continue", ErrUnavailable, cut)
	case d.fails >= attempts || !d.w.retry.spend():
		return fmt.Errorf("%w: %w", ErrUnavailable, cut)
	}
	if err := d.w.retry.sleep(d.ctx, pause(d.fails, 0)); err != nil {
		return err
	}
	if err := d.w.retry.do(d.ctx, d.connect); err != nil {
		return fmt.Errorf("%w: %w; then: %w", ErrUnavailable, cut, err)
	}
	return nil
}

func (d *download) drop() {
	if d.body != nil {
		d.watch.Stop()
		d.cancel(nil)
		d.body.Close()
		d.body = nil
	}
}

// Close ends the download.
func (d *download) Close() error {
	d.drop()
	if d.err == nil {
		d.err = errors.New("read of a closed download")
	}
	return nil
}

package publishapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

const (
	// placeFrom is the size from which the herder is asked whether a nar may be put past it: below it, asking costs more than sending.
	placeFrom = 256 << 10
	// placeTries is how often a nar is put there before it is put to the herder, and placePause how long after the first time, and twice
	// as long each time more.
	placeTries = 4
	placePause = time.Second
)

// PlaceNar puts a compressed nar of an item where the herder says, if it is large and the herder says so, and reports whether it lies there
// now, and whether it was sent. Where that does not succeed it is put to the herder instead, so that the only errors are those of the
// herder, of the context, and of open, or of reading what it opened.
func (c *Client) PlaceNar(ctx context.Context, item storepath.Base, m compress.Method, size int64, open func() (io.ReadCloser, error)) (placed, sent bool, err error) {
	if size < placeFrom || !c.mayPlace() {
		return false, false, nil
	}
	ask, err := json.Marshal(placeRequest{Item: item, Compression: m, Size: size})
	if err != nil {
		return false, false, fmt.Errorf("ask where to put nar of %s: %w", item, err)
	}
	body, err := c.do(ctx, request{method: http.MethodPost, path: "/api/v1/place", kind: "application/json", size: int64(len(ask)), open: inMemory(ask),
		doing: "ask where to put nar of " + string(item)})
	if err != nil {
		return false, false, err
	}
	var place Place
	if err := readJSON(bytes.NewReader(body), maxAnswer, &place); err != nil {
		return false, false, fmt.Errorf("ask where to put nar of %s: %w: it does not answer as a herder does: %w", item, ErrRefused, err)
	}
	if place.URL == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.through = true
		return false, false, nil
	}
	for try := 0; ; try++ {
		status, err := c.putThere(ctx, place, size, open)
		switch {
		case err != nil && ctx.Err() != nil:
			return false, false, context.Cause(ctx)
		case errors.As(err, new(localError)):
			return false, false, err
		case err == nil && status/100 == 2:
			return true, true, nil
		case err == nil && status == http.StatusPreconditionFailed: // of an earlier try, or an earlier push
			return true, false, nil
		case err == nil && status/100 == 4, try == placeTries-1:
			if c.Log != nil {
				c.Log.Warn("nar cannot be put into the bucket, and goes to the herder", "item", item, "status", status, "error", err)
			}
			return false, false, nil
		}
		select {
		case <-time.After(placePause << try):
		case <-ctx.Done():
			return false, false, context.Cause(ctx)
		}
	}
}

// mayPlace reports whether the herder has not said yet that it wants nars itself.
func (c *Client) mayPlace() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.through
}

// localError is one of the file that is sent, which sending again does not help.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// putThere puts a nar to a place. Who made the URL is in it, so that no token is sent.
func (c *Client) putThere(ctx context.Context, place Place, size int64, open func() (io.ReadCloser, error)) (status int, err error) {
	if err := c.prepare(); err != nil {
		return 0, err
	}
	opened, err := open()
	if err != nil {
		return 0, localError{err}
	}
	from := &source{ReadCloser: opened}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, place.URL, from)
	if err != nil {
		opened.Close()
		return 0, err
	}
	req.ContentLength = size
	for name, value := range place.Header {
		req.Header.Set(name, value)
	}
	req.Header.Set("Expect", "100-continue")
	resp, err := c.client.Do(req)
	if err != nil {
		if bad := from.failure(); bad != nil {
			return 0, localError{bad}
		}
		return 0, fmt.Errorf("put nar to %s: %w", req.URL.Host, errors.Unwrap(err)) // without the URL, which is a right
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, err
}

package upload

import (
	"context"
	"fmt"
	"io"
	"time"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

const (
	// placeTime is how long a place may be used: to begin, not to end.
	placeTime = time.Hour
	// mostPlaced is how large an object may be that is put by one request.
	mostPlaced = 5 << 30
)

// Place implements publishapi.Backend. The place is the key under which the nar will be served, which is reserved for it: nothing that lies
// there is served before it was read and verified, and nothing can be put over it.
func (u *Uploads) Place(ctx context.Context, item storepath.Base, m compress.Method, size int64) (publishapi.Place, error) {
	if u.Presigner == nil || !m.Writable() || size > mostPlaced {
		return publishapi.Place{}, nil
	}
	keys, err := u.Catalogue.Reserve(ctx, []catalog.Want{{Base: item, Compression: m}})
	if err != nil {
		return publishapi.Place{}, u.unable(fmt.Errorf("reserve a place for %s: %w", item, err))
	}
	url, header, err := u.Presigner.PresignPut(ctx, keys[0], size, placeTime)
	if err != nil {
		return publishapi.Place{}, u.unable(fmt.Errorf("make a place for %s: %w", item, err))
	}
	return publishapi.Place{URL: url, Header: header}, nil
}

// placed returns the sources of what was put where Place said.
func (u *Uploads) placed(ctx context.Context, item storepath.Base, methods []compress.Method) (sources []publish.Source, err error) {
	if len(methods) == 0 || u.Presigner == nil {
		return nil, nil
	}
	wants := make([]catalog.Want, len(methods))
	for i, m := range methods {
		wants[i] = catalog.Want{Base: item, Compression: m}
	}
	keys, err := u.Catalogue.Reserve(ctx, wants)
	if err != nil {
		return nil, u.unable(fmt.Errorf("find what was placed of %s: %w", item, err))
	}
	for i, m := range methods {
		sources = append(sources, publish.Source{Compression: m, Keep: true, Placed: keys[i], Open: func(ctx context.Context) (io.ReadCloser, error) {
			return u.Objects.Get(ctx, keys[i], objstore.Range{})
		}})
	}
	return sources, nil
}

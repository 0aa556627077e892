package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/herder/feedserver"
	"narfold/herder/repair"
	"narfold/herder/source"
	"narfold/internal/catalog"
)

// mendFeed brings segments of the change feed back: made again of what the catalogue knows, or from a source that has a copy. What a segment
// must be is known by its hash, so that it does not matter who gives it.
func (c *repairCommand) mendFeed(ctx context.Context, d *deployment.Deployment, findings []*check.Finding) (all []*repair.Mending, err error) {
	for _, f := range findings {
		m := &repair.Mending{Key: f.Key, Kind: f.Kind, Detail: f.Detail, Items: []string{}, Result: repair.Damaged}
		all = append(all, m)
		if err := c.mendSegment(ctx, d, f.Segment, m); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (c *repairCommand) mendSegment(ctx context.Context, d *deployment.Deployment, number int64, m *repair.Mending) error {
	f, err := d.Catalogue.FeedSegment(ctx, number)
	if err != nil {
		return err
	}
	for _, from := range append([]string{""}, c.Source...) {
		var text []byte
		what := from
		if from == "" {
			what = "the catalogue"
			text, err = feedserver.Remake(ctx, d.Catalogue, f)
		} else {
			text, err = segmentFrom(ctx, from, f)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			m.Why = append(m.Why, fmt.Sprintf("%s: %v", what, err))
			continue
		}
		m.Source, m.Result, m.Why = what, repair.Mendable, nil
		if c.DryRun {
			return nil
		}
		m.Result = repair.Restored
		return feedserver.Mend(ctx, d.Objects, f, text)
	}
	return nil
}

// segmentTime is how long fetching one may take.
const segmentTime = 5 * time.Minute

// segmentFrom reads a segment from a herder or mirror, a bucket or a directory.
func segmentFrom(ctx context.Context, name string, f catalog.FeedSegment) (text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, segmentTime)
	defer cancel()
	key := string(feedserver.SegmentKey(f.Number))
	var from io.ReadCloser
	switch {
	case strings.HasPrefix(name, "s3://"):
		at, err := source.ParseS3(name)
		if err != nil {
			return nil, err
		}
		b, err := openBucket(ctx, at)
		if err != nil {
			return nil, err
		}
		return feedserver.ReadSegment(ctx, b, f)
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(name, "/")+"/"+key, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		if from = resp.Body; resp.StatusCode != http.StatusOK {
			from.Close()
			return nil, fmt.Errorf("%s is answered %s", key, resp.Status)
		}
	default:
		if from, err = os.Open(filepath.Join(strings.TrimPrefix(name, "file://"), filepath.FromSlash(key))); err != nil {
			return nil, err
		}
	}
	defer from.Close()
	text, err = io.ReadAll(io.LimitReader(from, f.Size+1))
	if err == nil && !feedserver.Is(f, text) {
		err = errors.New("it has another segment of that number, of another feed or damaged")
	}
	return text, err
}

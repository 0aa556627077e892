package source

import (
	"context"
	"fmt"
	"io"
	"iter"
	"path"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// LogSource is a Source that may also have build logs. Binary caches are, and nothing else.
type LogSource interface {
	Source
	// Logs lists the derivations whose logs there are, or yields ErrUnlistable, as HTTP caches do; then ask OpenLog for the
	// derivers of what Jobs lists.
	Logs(ctx context.Context) iter.Seq2[storepath.Base, error]
	// OpenLog opens a log as it is stored, or fails with ErrNotFound. Nix may have compressed it with bzip2.
	OpenLog(ctx context.Context, derivation storepath.Base) (io.ReadCloser, error)
}

var _ LogSource = (*cache)(nil)

// Logs implements LogSource.
func (c *cache) Logs(ctx context.Context) iter.Seq2[storepath.Base, error] {
	return func(yield func(storepath.Base, error) bool) {
		for name, err := range c.tree.logs(ctx) {
			if err != nil {
				yield("", fmt.Errorf("list logs of %s: %w", c.tree, err))
				return
			}
			if b, err := storepath.ParseBase(path.Base(name)); err == nil && !yield(b, nil) {
				return
			}
		}
	}
}

// OpenLog implements LogSource.
func (c *cache) OpenLog(ctx context.Context, derivation storepath.Base) (io.ReadCloser, error) {
	open, err := c.tree.nar(narinfo.File{URL: "log/" + narinfo.EscapeBase(derivation)})
	if err != nil {
		return nil, fmt.Errorf("%s has no logs: %w", c.tree, ErrNotFound)
	}
	return open(ctx)
}

func (d *folder) logs(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if info, err := d.root.Stat("log"); err != nil || !info.IsDir() {
			return
		}
		for name, err := range d.names(ctx, "log") {
			if !yield(name, err) || err != nil {
				return
			}
		}
	}
}

func (b *bucket) logs(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range b.store.List(ctx, "log/") {
			if err != nil {
				yield("", b.explain(err))
				return
			}
			if !yield(string(info.Key), nil) {
				return
			}
		}
	}
}

func (w *web) logs(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", ErrUnlistable) }
}

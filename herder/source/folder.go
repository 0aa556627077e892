package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// folder is a tree in a directory. What lies outside is not opened, also not by way of symbolic links.
type folder struct {
	root *os.Root
	name string
}

func openFolder(name string) (*folder, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return &folder{root: root, name: name}, nil
}

func (d *folder) String() string { return d.name }
func (d *folder) Close() error   { return d.root.Close() }
func (d *folder) traits() traits { return traits{cheap: true, workers: localWorkers()} }

// open opens a regular file. O_NONBLOCK, so that a named pipe is noticed rather than waited for.
func (d *folder) open(name string) (*os.File, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open %s: %w", filepath.Join(d.name, name), ErrNotFound)
		}
		return nil, fmt.Errorf("open %s: %w", filepath.Join(d.name, name), err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open %s: %w: not a regular file", filepath.Join(d.name, name), ErrDamaged)
	}
	return f, nil
}

func (d *folder) read(_ context.Context, name string, limit int) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

// readAll reads what has at most limit bytes.
func readAll(r io.Reader, limit int) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrDamaged, limit)
	}
	return text, nil
}

// localNames returns the file names that a relative URL of a narinfo may stand for: as it is, and with its percent signs resolved, as
// a server does.
func localNames(f narinfo.File) ([]string, error) {
	if err := narinfo.CheckURL(f.URL); err != nil {
		return nil, err
	}
	if isWeb(f.URL) {
		return nil, fmt.Errorf("%w: the nar is at another place", ErrNotFound)
	}
	literal, _, _ := strings.Cut(f.URL, "?")
	literal = strings.TrimPrefix(literal, "/")
	names := []string{literal}
	if plain, err := url.PathUnescape(literal); err == nil && plain != literal {
		names = append(names, plain)
	}
	for _, n := range names {
		if !filepath.IsLocal(n) {
			return nil, fmt.Errorf("%w: %q leads out of the cache", ErrDamaged, n)
		}
	}
	return names, nil
}

func (d *folder) nar(f narinfo.File) (opener, error) {
	names, err := localNames(f)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (io.ReadCloser, error) {
		var first error
		for _, name := range names {
			file, err := d.open(name)
			if err == nil {
				return file, nil
			}
			if first == nil {
				first = err
			}
			if !errors.Is(err, ErrNotFound) {
				return nil, err
			}
		}
		return nil, first
	}, nil
}

func (d *folder) has(_ context.Context, f narinfo.File) bool {
	names, err := localNames(f)
	if err != nil {
		return false
	}
	for _, name := range names {
		if info, err := d.root.Stat(name); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

func (d *folder) hashParts(ctx context.Context) iter.Seq2[storepath.HashPart, error] {
	return func(yield func(storepath.HashPart, error) bool) {
		for name, err := range d.names(ctx, ".") {
			if err != nil {
				yield("", err)
				return
			}
			if h, ok := narinfoName(name); ok && !yield(h, nil) {
				return
			}
		}
	}
}

// narinfoName returns the hash part of a narinfo's file name.
func narinfoName(name string) (storepath.HashPart, bool) {
	text, ok := strings.CutSuffix(name, ".narinfo")
	if !ok {
		return "", false
	}
	h, err := storepath.ParseHashPart(text)
	return h, err == nil
}

// names lists the entries of a directory in no order, some thousand in memory at a time.
func (d *folder) names(ctx context.Context, dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f, err := d.root.Open(dir)
		if err != nil {
			yield("", fmt.Errorf("list %s: %w", filepath.Join(d.name, dir), err))
			return
		}
		defer f.Close()
		for {
			names, err := f.Readdirnames(4096)
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			if err == nil {
				if err = ctx.Err(); err != nil {
					err = context.Cause(ctx)
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield("", fmt.Errorf("list %s: %w", filepath.Join(d.name, dir), err))
				return
			}
		}
	}
}

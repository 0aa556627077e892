package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"narfold/internal/compress"
)

// Bounds on a list of store paths. The largest in the field, of a whole release of Nixpkgs, has 120 thousand lines.
const (
	maxListLine = 2048
	maxList     = 1 << 30 // bytes, expanded
	maxListFile = 256 << 20
)

// parseStorePaths reads a list of store paths, one a line; blank lines and those that begin with # are passed over.
func parseStorePaths(r io.Reader) ([]wanted, error) {
	limited := &io.LimitedReader{R: r, N: maxList + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 0, maxListLine), maxListLine)
	var items []wanted
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		w, err := parseItem(line)
		if err != nil {
			return nil, fmt.Errorf("%w: list of store paths, line %d: %w", ErrDamaged, n, err)
		}
		items = append(items, w)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: list of store paths: %w", ErrDamaged, err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("%w: list of store paths: more than %d bytes", ErrDamaged, maxList)
	}
	return items, nil
}

// parseListNamed reads a list whose name tells whether it is compressed.
func parseListNamed(name string, r io.Reader) ([]wanted, error) {
	if !strings.HasSuffix(name, ".xz") {
		return parseStorePaths(r)
	}
	z, err := compress.NewReader(compress.Xz, r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return parseStorePaths(z)
}

// readStorePaths reads the list at a file or an http(s) URL.
func readStorePaths(ctx context.Context, at string, opt Options) ([]wanted, error) {
	if !isWeb(at) {
		f, err := os.Open(at)
		if err != nil {
			return nil, fmt.Errorf("read list of store paths: %w", err)
		}
		defer f.Close()
		items, err := parseListNamed(at, f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", at, err)
		}
		return items, nil
	}
	dir, name, err := splitURL(at)
	if err != nil {
		return nil, err
	}
	w := newWeb(dir, opt)
	defer w.Close()
	return readListFrom(ctx, w, name)
}

func readListFrom(ctx context.Context, t tree, name string) ([]wanted, error) {
	text, err := t.read(ctx, name, maxListFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, t, err)
	}
	items, err := parseListNamed(name, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, t, err)
	}
	return items, nil
}

// ownList asks a cache that cannot be listed for the list that it may offer itself.
func (c *cache) ownList(ctx context.Context) ([]wanted, error) {
	for _, name := range []string{"store-paths.xz", "store-paths"} {
		items, err := readListFrom(ctx, c.tree, name)
		if err == nil && len(items) > 0 {
			return items, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("list %s: %w; it has neither store-paths.xz nor store-paths", c.tree, ErrUnlistable)
}

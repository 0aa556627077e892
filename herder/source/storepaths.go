package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// Bounds on a list of store paths. The largest in the field, of a whole release of Nixpkgs, has 120 thousand lines.
const (
	maxListLine = 2048
	maxList     = 1 << 30 // bytes, expanded
	maxListFile = 256 << 20
	// A manifest may hold a description or a file as a string.
	maxManifestString = 1 << 20
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
	for m, ending := range extensions {
		if ending == "" || !strings.HasSuffix(name, ending) {
			continue
		}
		z, err := compress.NewReader(m, r)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return parseList(z)
	}
	return parseList(r)
}

// parseList reads a list of store paths, or the manifest of a Guix profile, which begins with a bracket, or a comment before that.
func parseList(r io.Reader) ([]wanted, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(1)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%w: list of store paths: %w", ErrDamaged, err)
	}
	if len(head) > 0 && (head[0] == '(' || head[0] == ';') {
		return parseManifest(b)
	}
	return parseStorePaths(b)
}

// parseManifest reads the store items that the manifest of a Guix profile names: its strings that are store paths, or lie in a store
// item, each once. What the other words of it mean changed from version to version, and is not looked at. (Source: the files called
// manifest of Guix profiles, an s-expression of which the paths of packages are strings.)
func parseManifest(r io.Reader) ([]wanted, error) {
	limited := &io.LimitedReader{R: r, N: maxList + 1}
	in := bufio.NewReader(limited)
	var (
		items []wanted
		known = map[storepath.HashPart]bool{}
		text  []byte
		quote bool
	)
	for {
		c, err := in.ReadByte()
		switch {
		case err == io.EOF && quote:
			return nil, fmt.Errorf("%w: manifest: it ends within a string", ErrDamaged)
		case err == io.EOF && limited.N <= 0:
			return nil, fmt.Errorf("%w: manifest: more than %d bytes", ErrDamaged, maxList)
		case err == io.EOF:
			return items, nil
		case err != nil:
			return nil, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
		case c == '"' && quote:
			quote = false
			if len(text) == 0 || text[0] != '/' || len(text) > maxListLine {
				continue
			}
			if spec, ok := itemAt(path.Clean(string(text))); ok && !known[spec.Item.HashPart()] {
				known[spec.Item.HashPart()] = true
				items = append(items, wantedOf(spec))
				items[len(items)-1].dir = storepath.Dir(spec.At)
			}
		case c == '"':
			quote, text = true, text[:0]
		case !quote:
		case c == '\\':
			if c, err = in.ReadByte(); err != nil {
				continue
			}
			fallthrough
		default:
			if text = append(text, c); len(text) > maxManifestString {
				return nil, fmt.Errorf("%w: manifest: a string of more than %d bytes", ErrDamaged, maxManifestString)
			}
		}
	}
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

// List returns the hash parts of the items that are named by items and by the list at the file or URL list; without any of these, of
// what the cache at root lists itself, which fails with ErrUnlistable if it has no such list. Each comes once.
func List(ctx context.Context, root string, items []string, list string, opt Options) ([]storepath.HashPart, error) {
	opt = opt.withDefaults()
	all, err := parseItems(items)
	if err != nil {
		return nil, err
	}
	if list != "" {
		more, err := readStorePaths(ctx, list, opt)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	} else if len(items) == 0 {
		if err := checkRoot(root); err != nil {
			return nil, err
		}
		c := &cache{tree: newWeb(root, opt), opt: opt}
		defer c.Close()
		if all, err = c.ownList(ctx); err != nil {
			return nil, err
		}
	}
	known := make(map[storepath.HashPart]bool, len(all))
	var hs []storepath.HashPart
	for _, w := range all {
		if !known[w.hash] {
			known[w.hash] = true
			hs = append(hs, w.hash)
		}
	}
	return hs, nil
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"narfold/herder/publish"
	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// pair is one narinfo in a file, with its nars in the same directory or where its URLs say below that directory.
type pair struct {
	name string
	dir  *folder
	n    *narinfo.Narinfo
	opt  Options
	tally
}

func openPair(name string, opt Options) (*pair, error) {
	dir, err := openFolder(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	p := &pair{name: name, dir: dir, opt: opt}
	text, err := dir.read(context.Background(), filepath.Base(name), narinfo.MaxSize)
	if err == nil {
		p.n, err = narinfo.Parse(text)
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	p.tally.set(1, p.n.NarSize)
	return p, nil
}

// String names the narinfo's file.
func (p *pair) String() string { return p.name }

// Close closes the directory.
func (p *pair) Close() error { return p.dir.Close() }

// Dir returns the store directory of the item.
func (p *pair) Dir() storepath.Dir { return p.n.StorePath.Dir }

// Jobs yields the one item.
func (p *pair) Jobs(ctx context.Context) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) {
		forms, err := chooseForms(ctx, p.n, besideTree{p.dir, filepath.Base(p.name)})
		if err != nil {
			finish(yield, p.opt.refuse(p.n.StorePath.String(), err))
			return
		}
		yield(publish.Job{Narinfo: p.n, Sources: forms, Sign: p.opt.Sign, By: p.opt.By}, nil)
	}
}

// besideTree finds the nar of a narinfo that was taken out of its cache.
type besideTree struct {
	*folder
	narinfo string // its file name
}

// extensions are what programs append to the name of a compressed file.
var extensions = map[compress.Method]string{
	compress.None: "", compress.Zstd: ".zst", compress.Gzip: ".gz", compress.Lzip: ".lz", compress.Xz: ".xz",
	compress.Bzip2: ".bz2", compress.Brotli: ".br", compress.Lz4: ".lz4",
}

// candidates are the names under which a nar is looked for, in this order: the whole URL, the last element of the URL, the name of the
// narinfo with .nar and the extension of the compression, and with .nar alone in a folder that is named for the compression, as
// guix publish has them.
func (b besideTree) candidates(f narinfo.File) ([]string, error) {
	f.URL, _, _ = strings.Cut(f.URL, "?")
	var all []string
	if isWeb(f.URL) {
		u, err := url.Parse(f.URL)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		f.URL = u.EscapedPath()
	} else {
		names, err := localNames(f)
		if err != nil {
			return nil, err
		}
		all = names
	}
	last := path.Base(f.URL)
	all = append(all, last)
	if plain, err := url.PathUnescape(last); err == nil {
		all = append(all, plain)
	}
	stem := strings.TrimSuffix(b.narinfo, ".narinfo") + ".nar"
	all = append(all, stem+extensions[f.Compression])
	if abs, err := filepath.Abs(b.name); err == nil && filepath.Base(abs) == string(f.Compression) {
		all = append(all, stem)
	}
	all = slices.DeleteFunc(all, func(s string) bool { return s == "." || !filepath.IsLocal(s) })
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no name in it", ErrDamaged)
	}
	return all, nil
}

func (b besideTree) nar(f narinfo.File) (opener, error) {
	names, err := b.candidates(f)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (io.ReadCloser, error) {
		for _, name := range names {
			file, err := b.open(name)
			if !errors.Is(err, ErrNotFound) {
				return file, err
			}
		}
		return nil, fmt.Errorf("nar of %s: %w: looked for %s in %s", b.narinfo, ErrNotFound, strings.Join(names, ", "), b.name)
	}, nil
}

func (b besideTree) has(_ context.Context, f narinfo.File) bool {
	names, err := b.candidates(f)
	return err == nil && slices.ContainsFunc(names, func(name string) bool {
		info, err := b.root.Stat(name)
		return err == nil && info.Mode().IsRegular()
	})
}

// isNarinfoFile tells whether name is a regular file that is called a narinfo.
func isNarinfoFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && strings.HasSuffix(name, ".narinfo")
}

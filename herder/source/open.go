package source

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/narinfodb"
	"narfold/internal/nixdb"
	"narfold/internal/storepath"
)

// Kind is what a SOURCE is.
type Kind string

// The kinds of source. Each is also the word that, with a colon, stands before a SOURCE to force its kind.
const (
	Cache     Kind = "cache"      // a binary cache, as nix copy writes and substitute servers serve it
	GuixCache Kind = "guix-cache" // the directory of guix publish --cache
	Store     Kind = "store"      // a store directory, whole
	StoreItem Kind = "item"       // one item of a store directory
	Pair      Kind = "narinfo"    // a narinfo's file, with its nar beside it
	Database  Kind = "database"   // an SQLite database of narinfos, such as nar-herder's; the nars are where Options.Nars says
	kinds          = "cache:, guix-cache:, store:, item:, narinfo: or database:"
)

// Spec is a SOURCE whose kind is known.
type Spec struct {
	Kind Kind
	At   string // an absolute file name, or an http(s) or s3 URL; of a StoreItem, the store directory
	Item storepath.Base
}

// Recognise tells what a SOURCE is. By its beginning:
//
//   - cache:, guix-cache:, store:, item:, narinfo: and database: force the kind of what follows
//   - http://, https:// and s3:// are binary caches, and file:// is one in a directory
//   - anything with another scheme is refused
//
// Anything else is a file name, of which the first that fits is taken:
//
//   - a regular file called *.narinfo is a narinfo with its nar beside it
//   - a path with an element <32 characters>-<name> is, or lies in, an item of the store directory before it, also by way of a
//     symbolic link, such as the link "result" of nix-build
//   - a regular file that begins as SQLite databases do is a database of narinfos
//   - a directory with a nix-cache-info, or a <32 characters>.narinfo, is a binary cache
//   - a directory with a folder named for a compression that holds *.narinfo is a cache of guix publish
//   - a directory that holds items, or is called "store" and has a database where nixdb.PathOf says, is a store
//
// With Options.Real file names are names of the logical store, and need not exist: they are items or stores.
func Recognise(s string, opt Options) (Spec, error) {
	if word, rest, ok := strings.Cut(s, ":"); ok {
		switch k := Kind(word); k {
		case Cache, GuixCache, Store, StoreItem, Pair, Database:
			return forced(k, rest)
		}
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/.") {
		switch scheme {
		case "http", "https":
			return Spec{Kind: Cache, At: s}, checkRoot(s)
		case "s3":
			_, err := ParseS3(s)
			return Spec{Kind: Cache, At: s}, err
		case "file":
			return fileURL(rest)
		}
		return Spec{}, fmt.Errorf("%w: %q: want a file name, or file://, http://, https:// or s3://", ErrUnknown, clip(s))
	}
	name, err := absolute(s)
	if err != nil {
		return Spec{}, err
	}
	if opt.Real == "" {
		return recogniseFile(name, opt)
	}
	if spec, ok := itemAt(name); ok {
		return spec, nil
	}
	return Spec{Kind: Store, At: name}, nil
}

// forced reads what stands behind the name of a kind.
func forced(k Kind, rest string) (Spec, error) {
	if k == Cache && strings.Contains(rest, "://") {
		return Recognise(rest, Options{})
	}
	name, err := absolute(rest)
	if err != nil {
		return Spec{}, err
	}
	if k != StoreItem {
		return Spec{Kind: k, At: name}, nil
	}
	if spec, ok := itemAt(name); ok {
		return spec, nil
	}
	return Spec{}, fmt.Errorf("%w: %s: want <store directory>/<32 characters>-<name>", ErrUnknown, clip(name))
}

func absolute(s string) (string, error) {
	if s == "" || strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("%w: %q: want a file name, a URL, or one of these behind %s", ErrUnknown, clip(s), kinds)
	}
	return filepath.Abs(s)
}

// fileURL reads file://PATH as Nix does, with its parameters, which concern writing, passed over.
func fileURL(rest string) (Spec, error) {
	rest, _, _ = strings.Cut(rest, "?")
	name, err := url.PathUnescape(rest)
	if err != nil || !strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 {
		return Spec{}, fmt.Errorf("%w: %q: want file:///absolute/path", ErrUnknown, clip("file://"+rest))
	}
	return Spec{Kind: Cache, At: filepath.Clean(name)}, nil
}

// itemAt finds the outermost store item that name is or lies in.
func itemAt(name string) (Spec, bool) {
	var found Spec
	for at := name; at != "/"; at = filepath.Dir(at) {
		base, err := storepath.ParseBase(filepath.Base(at))
		if err != nil {
			continue
		}
		if _, err := storepath.ParseDir(filepath.Dir(at)); err == nil {
			found = Spec{Kind: StoreItem, At: filepath.Dir(at), Item: base}
		}
	}
	return found, found.Kind != ""
}

func recogniseFile(name string, opt Options) (Spec, error) {
	if isNarinfoFile(name) {
		return Spec{Kind: Pair, At: name}, nil
	}
	if spec, ok := itemAt(name); ok {
		return spec, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if behind, err := filepath.EvalSymlinks(name); err == nil && behind != name {
		if spec, ok := itemAt(behind); ok {
			return spec, nil
		}
	}
	if info.Mode().IsRegular() && narinfodb.Is(name) {
		return Spec{Kind: Database, At: name}, nil
	}
	if !info.IsDir() {
		return Spec{}, fmt.Errorf("%w: %s: a file must be called *.narinfo, be a database of narinfos, or be in a store", ErrUnknown, clip(name))
	}
	return recogniseFolder(name, opt)
}

// maxLook is how many entries of a directory are looked at.
const maxLook = 100_000

func recogniseFolder(name string, opt Options) (Spec, error) {
	if _, err := os.Stat(filepath.Join(name, cacheInfo)); err == nil {
		return Spec{Kind: Cache, At: name}, nil
	}
	d, err := openFolder(name)
	if err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	defer d.Close()
	narinfos, items, looked := false, false, 0
	for entry, err := range d.names(context.Background(), ".") {
		if err != nil {
			return Spec{}, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		if _, ok := narinfoName(entry); ok {
			narinfos = true
			break
		}
		if _, err := storepath.ParseBase(entry); err == nil {
			items = true
		}
		if m, err := compress.ParseMethod(entry); err == nil && holdsGuixNarinfos(d, m) {
			return Spec{Kind: GuixCache, At: name}, nil
		}
		if looked++; looked == maxLook {
			break
		}
	}
	database := opt.Database
	if database == "" {
		database = nixdb.PathOf(name, opt.State)
	}
	_, err = os.Stat(database)
	switch {
	case narinfos:
		return Spec{Kind: Cache, At: name}, nil
	case items, err == nil && (filepath.Base(name) == "store" || opt.Database != "" || opt.State != ""):
		return Spec{Kind: Store, At: name}, nil
	}
	return Spec{}, fmt.Errorf("%w: directory %s has neither nix-cache-info nor <hash part>.narinfo (a binary cache), "+
		"nor <compression>/<item>.narinfo (a cache of guix publish), nor <hash part>-<name> (a store), and there is no %s; say which it is with %s",
		ErrUnknown, clip(name), database, kinds)
}

// holdsGuixNarinfos tells whether the folder of a compression holds a narinfo.
func holdsGuixNarinfos(d *folder, m compress.Method) bool {
	if info, err := d.root.Stat(string(m)); err != nil || !info.IsDir() {
		return false
	}
	looked := 0
	for entry, err := range d.names(context.Background(), string(m)) {
		if err != nil {
			return false
		}
		if _, ok := guixNarinfoName(entry); ok {
			return true
		}
		if looked++; looked == maxLook {
			return false
		}
	}
	return false
}

// Open opens what s names, as Recognise tells, and looks at nothing but what it needs to name the store directory.
func Open(ctx context.Context, s string, opt Options) (Source, error) {
	spec, err := Recognise(s, opt)
	if err != nil {
		return nil, err
	}
	return open(ctx, spec, nil, opt.withDefaults())
}

// OpenAll opens several, and takes the items of one store together, so that what they share is listed once. The sources are in the
// order in which the first of each was given. After an error nothing is left open.
func OpenAll(ctx context.Context, specs []string, opt Options) (_ []Source, err error) {
	type group struct {
		spec  Spec
		items []wanted
	}
	var groups []*group
	for _, s := range specs {
		spec, err := Recognise(s, opt)
		if err != nil {
			return nil, err
		}
		if spec.Kind == StoreItem {
			item := wantedOf(spec)
			i := slices.IndexFunc(groups, func(g *group) bool { return g.spec.Kind == StoreItem && g.spec.At == spec.At })
			if i >= 0 {
				groups[i].items = append(groups[i].items, item)
				continue
			}
			groups = append(groups, &group{spec, []wanted{item}})
			continue
		}
		groups = append(groups, &group{spec: spec})
	}
	var sources []Source
	defer func() {
		if err != nil {
			for _, s := range sources {
				s.Close()
			}
		}
	}()
	for _, g := range groups {
		s, err := open(ctx, g.spec, g.items, opt.withDefaults())
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func wantedOf(spec Spec) wanted { return wanted{hash: spec.Item.HashPart(), base: spec.Item} }

// open opens a source of a known kind; items are those of a StoreItem's store, or nil for the one in spec.
func open(ctx context.Context, spec Spec, items []wanted, opt Options) (Source, error) {
	switch spec.Kind {
	case Pair:
		return openPair(spec.At, opt)
	case Store:
		return openStore(ctx, spec.At, nil, opt)
	case StoreItem:
		if items == nil {
			items = []wanted{wantedOf(spec)}
		}
		return openStore(ctx, spec.At, items, opt)
	}
	t, err := openTree(ctx, spec, opt)
	if err != nil {
		return nil, err
	}
	return openCache(ctx, t, opt)
}

func openTree(ctx context.Context, spec Spec, opt Options) (tree, error) {
	switch {
	case spec.Kind == GuixCache:
		return openGuixTree(ctx, spec.At)
	case spec.Kind == Database:
		return openDatabase(ctx, spec.At, opt)
	case isWeb(spec.At):
		return newWeb(spec.At, opt), nil
	case strings.HasPrefix(spec.At, "s3://"):
		at, err := ParseS3(spec.At)
		if err != nil {
			return nil, err
		}
		if opt.Bucket == nil {
			return nil, fmt.Errorf("%w: %s: buckets are not configured here", ErrUnknown, at)
		}
		b, err := opt.Bucket(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", at, err)
		}
		return &bucket{store: b, name: at.String(), workers: opt.Parallel}, nil
	}
	return openFolder(spec.At)
}

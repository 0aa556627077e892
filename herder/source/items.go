package source

import (
	"fmt"
	"strings"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// wanted is an item that somebody named.
type wanted struct {
	hash storepath.HashPart
	base storepath.Base // "" if only the hash part was given
	dir  storepath.Dir  // "" unless a path was given
}

// parseItem reads a hash part, a base name or a store path.
func parseItem(s string) (wanted, error) {
	switch {
	case strings.HasPrefix(s, "/"):
		p, err := storepath.Parse(s)
		if err != nil {
			return wanted{}, err
		}
		return wanted{hash: p.HashPart(), base: p.Base, dir: p.Dir}, nil
	case len(s) == storepath.HashLen:
		h, err := storepath.ParseHashPart(s)
		return wanted{hash: h}, err
	}
	b, err := storepath.ParseBase(s)
	if err != nil {
		return wanted{}, err
	}
	return wanted{hash: b.HashPart(), base: b}, nil
}

func parseItems(words []string) ([]wanted, error) {
	items := make([]wanted, 0, len(words))
	for _, s := range words {
		w, err := parseItem(s)
		if err != nil {
			return nil, fmt.Errorf("item to list: %w", err)
		}
		items = append(items, w)
	}
	return items, nil
}

// check reports whether n is of the item that was named, beyond its hash part.
func (w wanted) check(n *narinfo.Narinfo) error {
	if w.base != "" && n.StorePath.Base != w.base || w.dir != "" && n.StorePath.Dir != w.dir {
		return fmt.Errorf("check narinfo of %s, asked for %s: %w", n.StorePath, w, narinfo.ErrMismatch)
	}
	return nil
}

// String returns what was named.
func (w wanted) String() string {
	switch {
	case w.dir != "":
		return storepath.Path{Dir: w.dir, Base: w.base}.String()
	case w.base != "":
		return string(w.base)
	}
	return string(w.hash)
}

// orPart returns what was named, or p if nothing was.
func (w wanted) orPart(p part) string {
	if w.hash == "" {
		return string(p.hashPart())
	}
	return w.String()
}

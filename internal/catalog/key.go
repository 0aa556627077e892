package catalog

import (
	"fmt"
	"strconv"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// NarKey returns the key of a generation of a compressed nar. The first is nar/<compression>/<base>, which is the URL that Guix
// clients try by themselves; later ones, needed when that key holds other bytes, end in ";" and the number, a character that no
// store item has in its name.
func NarKey(m compress.Method, b storepath.Base, generation int) objstore.Key {
	k := "nar/" + string(m) + "/" + string(b)
	if generation > 1 {
		k += ";" + strconv.Itoa(generation)
	}
	return objstore.Key(k)
}

// ParseNarKey inverts NarKey.
func ParseNarKey(k objstore.Key) (compress.Method, storepath.Base, int, error) {
	rest, ok := strings.CutPrefix(string(k), "nar/")
	method, name, found := strings.Cut(rest, "/")
	if !ok || !found {
		return "", "", 0, fmt.Errorf("key %q: want nar/<compression>/<item>", k)
	}
	m, err := compress.ParseMethod(method)
	if err != nil {
		return "", "", 0, fmt.Errorf("key %q: %w", k, err)
	}
	generation := 1
	if base, number, ok := strings.Cut(name, ";"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 2 || strconv.Itoa(n) != number {
			return "", "", 0, fmt.Errorf("key %q: generation %q is not a number from 2", k, number)
		}
		name, generation = base, n
	}
	b, err := storepath.ParseBase(name)
	if err != nil {
		return "", "", 0, fmt.Errorf("key %q: %w", k, err)
	}
	return m, b, generation, nil
}

// FeedPrefix begins the keys of the copies of the change feed, which belong to no item.
const FeedPrefix = "feed/"

// LogKey returns the key of a build log.
func LogKey(b storepath.Base) objstore.Key { return objstore.Key("log/" + string(b)) }

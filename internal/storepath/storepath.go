// Package storepath names store items: /gnu/store/<hash part>-<name> and /nix/store/<hash part>-<name>.
//
// Every type here can be made only from text that both Guix and Nix accept as a store item, so that what holds one need not
// check again. A hash part is not a base name is not a path.
package storepath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"narfold/internal/nixbase32"
)

// ErrInvalid is wrapped by every error of this package.
var ErrInvalid = errors.New("not a store path")

// HashLen is the number of characters of a hash part: 20 bytes in nix-base32.
const HashLen = 32

// MaxName is the longest name that Nix accepts, in bytes.
const MaxName = 211

// Dir is a store directory: an absolute path without a trailing slash.
type Dir string

// The store directories that the two projects use.
const (
	Guix Dir = "/gnu/store"
	Nix  Dir = "/nix/store"
)

// ParseDir checks that s is a clean absolute path, for a store directory that a user chose.
func ParseDir(s string) (Dir, error) {
	if len(s) < 2 || s[0] != '/' || len(s) > 1024 {
		return "", fmt.Errorf("%w: store directory %q: want an absolute path such as /gnu/store", ErrInvalid, clip(s))
	}
	for _, part := range strings.Split(s[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("%w: store directory %q: want a clean path without a trailing slash", ErrInvalid, clip(s))
		}
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return "", fmt.Errorf("%w: store directory %q: has a blank or control character", ErrInvalid, clip(s))
		}
	}
	return Dir(s), nil
}

// HashPart is the 32 characters of nix-base32 with which a store item's name begins. It is what substitute servers are asked
// for: GET /<hash part>.narinfo.
type HashPart string

// ParseHashPart checks s.
func ParseHashPart(s string) (HashPart, error) {
	if len(s) != HashLen {
		return "", fmt.Errorf("%w: hash part %q: want %d characters, have %d", ErrInvalid, clip(s), HashLen, len(s))
	}
	for i := range len(s) {
		if !nixbase32.Is(s[i]) {
			return "", fmt.Errorf("%w: hash part %q: %q is not a character of nix-base32", ErrInvalid, s, s[i])
		}
	}
	return HashPart(s), nil
}

// Bytes returns the 20 bytes that h encodes: the compact form for tables.
func (h HashPart) Bytes() (b [20]byte) {
	if err := nixbase32.Decode(b[:], string(h)); err != nil {
		panic("storepath: HashPart made without ParseHashPart: " + err.Error())
	}
	return b
}

// HashPartOf returns the hash part that encodes b.
func HashPartOf(b [20]byte) HashPart { return HashPart(nixbase32.Encode(b[:])) }

// Base is the last element of a store path: <hash part>-<name>. References and derivers are written so.
type Base string

// ParseBase checks s by the rule that newer Guix and Nix clients apply: 32 characters of nix-base32, a dash, and a name of
// 1 to 211 characters of A-Z a-z 0-9 + - . _ ? = that does not begin with a dot.
func ParseBase(s string) (Base, error) {
	if len(s) < HashLen+2 || s[HashLen] != '-' {
		return "", fmt.Errorf("%w: %q: want <32 characters>-<name>", ErrInvalid, clip(s))
	}
	if _, err := ParseHashPart(s[:HashLen]); err != nil {
		return "", err
	}
	if err := checkName(s[HashLen+1:]); err != nil {
		return "", err
	}
	return Base(s), nil
}

func checkName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("%w: name %q: longer than %d bytes", ErrInvalid, clip(name), MaxName)
	}
	if name[0] == '.' {
		return fmt.Errorf("%w: name %q: begins with a dot", ErrInvalid, name)
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("+-._?=", c) >= 0:
		default:
			return fmt.Errorf("%w: name %q: character %q is not allowed", ErrInvalid, name, c)
		}
	}
	return nil
}

// HashPart returns the 32 characters that name the item.
func (b Base) HashPart() HashPart { return HashPart(b[:HashLen]) }

// Name returns what follows the hash part and its dash.
func (b Base) Name() string { return string(b[HashLen+1:]) }

// IsDerivation reports whether the item is a build recipe by its name.
func (b Base) IsDerivation() bool { return strings.HasSuffix(string(b), ".drv") }

// Path is a whole store path.
type Path struct {
	Dir  Dir
	Base Base
}

// Parse splits an absolute store path. The directory may be any, since users choose their own; a caller that serves one
// directory compares Dir.
func Parse(s string) (Path, error) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return Path{}, fmt.Errorf("%w: %q: want an absolute path", ErrInvalid, clip(s))
	}
	dir, err := ParseDir(s[:i])
	if err != nil {
		return Path{}, err
	}
	base, err := ParseBase(s[i+1:])
	if err != nil {
		return Path{}, err
	}
	return Path{Dir: dir, Base: base}, nil
}

// String returns the absolute path.
func (p Path) String() string { return string(p.Dir) + "/" + string(p.Base) }

// HashPart returns the 32 characters that name the item.
func (p Path) HashPart() HashPart { return p.Base.HashPart() }

// Name returns what follows the hash part and its dash.
func (p Path) Name() string { return p.Base.Name() }

// clip keeps hostile text from filling an error message.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// FlatFile returns the path of a fixed output that is one file with this SHA-256 of its bytes, as fetchers of source tarballs make
// it. (Source: Nix manual, "Store path"; Guix (guix derivations); checked against nix-store --print-fixed-path.)
func FlatFile(dir Dir, name string, sum [sha256.Size]byte) (Path, error) {
	inner := sha256.Sum256([]byte("fixed:out:sha256:" + hex.EncodeToString(sum[:]) + ":"))
	return derive(dir, "output:out", inner, name)
}

// derive makes a store path from its fingerprint. The hash part is the SHA-256 of the fingerprint, folded to 20 bytes by exclusive or.
func derive(dir Dir, kind string, inner [sha256.Size]byte, name string) (Path, error) {
	if name == "" {
		return Path{}, fmt.Errorf("%w: empty name", ErrInvalid)
	}
	if err := checkName(name); err != nil {
		return Path{}, err
	}
	outer := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(inner[:]) + ":" + string(dir) + ":" + name))
	var folded [20]byte
	for i, b := range outer {
		folded[i%len(folded)] ^= b
	}
	return Path{Dir: dir, Base: Base(string(HashPartOf(folded)) + "-" + name)}, nil
}

// Package digest holds the SHA-256 that names a nar, and reads every spelling in which peers write it.
package digest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"narfold/internal/nixbase32"
)

// SHA256 is a SHA-256 digest.
type SHA256 [sha256.Size]byte

// Of returns the digest of b.
func Of(b []byte) SHA256 { return sha256.Sum256(b) }

// String returns the digest as narinfos write it: "sha256:" and 52 characters of nix-base32.
func (d SHA256) String() string { return "sha256:" + nixbase32.Encode(d[:]) }

// Base32 returns the 52 characters of nix-base32 alone.
func (d SHA256) Base32() string { return nixbase32.Encode(d[:]) }

// Hex returns the 64 lower-case hexadecimal digits alone, as the daemons' protocols write it.
func (d SHA256) Hex() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d is the zero value, which stands for "not known".
func (d SHA256) IsZero() bool { return d == SHA256{} }

// Parse reads "sha256:" followed by nix-base32 or hexadecimal digits, or the "sha256-" of base64 that newer Nix writes.
// Guix accepts nix-base32 alone in a narinfo; see narinfo.Parse.
func Parse(s string) (SHA256, error) {
	var d SHA256
	switch text, ok := strings.CutPrefix(s, "sha256:"); {
	case ok && len(text) == nixbase32.EncodedLen(len(d)):
		if err := nixbase32.Decode(d[:], text); err != nil {
			return SHA256{}, fmt.Errorf("parse hash: %w", err)
		}
		return d, nil
	case ok && len(text) == hex.EncodedLen(len(d)):
		if _, err := hex.Decode(d[:], []byte(text)); err != nil {
			return SHA256{}, fmt.Errorf("parse hash %q: %w", s, err)
		}
		return d, nil
	}
	if text, ok := strings.CutPrefix(s, "sha256-"); ok && len(text) == base64.StdEncoding.EncodedLen(len(d)) {
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(b) != len(d) {
			return SHA256{}, fmt.Errorf("parse hash %q: not the base64 of 32 bytes", s)
		}
		copy(d[:], b)
		return d, nil
	}
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return SHA256{}, fmt.Errorf("parse hash %q: want sha256: and 52 nix-base32 or 64 hexadecimal digits", s)
}

// MarshalText writes d as String does, for JSON.
func (d SHA256) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what Parse reads.
func (d *SHA256) UnmarshalText(text []byte) (err error) {
	*d, err = Parse(string(text))
	return err
}

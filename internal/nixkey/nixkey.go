// Package nixkey signs narinfos for Nix and checks such signatures: Ed25519 over the fingerprint of a narinfo.
//
// Keys and signatures are text, <name>:<base64>, in which the name tells the key apart and proves nothing. The formats are those
// that nix-store --generate-binary-cache-key writes and that nix.conf has in trusted-public-keys.
package nixkey

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Errors on which callers decide.
var (
	// ErrName says that a key's name is empty, too long, or has a colon, white space or a control character.
	ErrName = errors.New("not a name for a Nix signing key")
	// ErrKey says that a text is not a key.
	ErrKey = errors.New("not a Nix signing key")
	// ErrUnsigned says that there is no signature at all.
	ErrUnsigned = errors.New("unsigned")
	// ErrMalformed says that no signature is <name>:<base64 of 64 bytes>.
	ErrMalformed = errors.New("not a Nix signature")
	// ErrUnknownKey says that no signature names a trusted key.
	ErrUnknownKey = errors.New("signed with a key that is not trusted")
	// ErrInvalid says that a signature names a trusted key that did not make it.
	ErrInvalid = errors.New("invalid signature")
)

// MaxName is the longest name of a key, in bytes.
const MaxName = 256

// maxFile bounds a key file; the largest possible key has some 350 bytes.
const maxFile = 4096

// PublicKey checks signatures. It is comparable.
type PublicKey struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

// Secret makes signatures. Formatting it with the verbs of fmt shows its name only.
type Secret struct {
	public PublicKey
	key    ed25519.PrivateKey // seed and public half, as in the key file
}

// CheckName reports ErrName unless s can name a key.
func CheckName(s string) error {
	bad := func(r rune) bool {
		return r == ':' || r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r)
	}
	if s == "" || len(s) > MaxName || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("%w: %.100q", ErrName, s)
	}
	return nil
}

// split takes a text apart into a name and exactly size bytes of base64.
func split(text string, size int) (name string, b []byte, ok bool) {
	name, packed, ok := strings.Cut(text, ":")
	if !ok || CheckName(name) != nil || len(packed) != base64.StdEncoding.EncodedLen(size) || strings.ContainsAny(packed, "\r\n") {
		return "", nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(packed)
	return name, b, err == nil && len(b) == size
}

func join(name string, b []byte) string { return name + ":" + base64.StdEncoding.EncodeToString(b) }

// ParsePublic reads <name>:<base64 of 32 bytes>, a key file or an element of trusted-public-keys. White space around it is ignored.
func ParsePublic(text []byte) (PublicKey, error) {
	if len(text) > maxFile {
		return PublicKey{}, fmt.Errorf("parse public key: %d bytes: %w", len(text), ErrKey)
	}
	name, b, ok := split(strings.TrimSpace(string(text)), ed25519.PublicKeySize)
	if !ok {
		return PublicKey{}, fmt.Errorf("parse public key: want <name>:<base64 of %d bytes>: %w", ed25519.PublicKeySize, ErrKey)
	}
	return PublicKey{name, [ed25519.PublicKeySize]byte(b)}, nil
}

// ParseSecret reads <name>:<base64 of 64 bytes>, the seed and the public half, and checks that they belong together. White space
// around it is ignored.
func ParseSecret(text []byte) (*Secret, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("parse secret key: %d bytes: %w", len(text), ErrKey)
	}
	name, b, ok := split(strings.TrimSpace(string(text)), ed25519.PrivateKeySize)
	if !ok {
		return nil, fmt.Errorf("parse secret key: want <name>:<base64 of %d bytes>: %w", ed25519.PrivateKeySize, ErrKey)
	}
	key := ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(b)) {
		return nil, fmt.Errorf("parse secret key %s: its halves do not belong together: %w", name, ErrKey)
	}
	return newSecret(name, key), nil
}

// Generate makes a key; it reads 32 bytes from rand. Nix advises names such as cache.example.org-1.
func Generate(name string, rand io.Reader) (*Secret, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("generate key %s: %w", name, err)
	}
	return newSecret(name, ed25519.NewKeyFromSeed(seed[:])), nil
}

func newSecret(name string, key ed25519.PrivateKey) *Secret {
	return &Secret{PublicKey{name, [ed25519.PublicKeySize]byte(key[ed25519.SeedSize:])}, key}
}

// Public returns the public half.
func (s *Secret) Public() PublicKey { return s.public }

// Name returns the name of the key.
func (s *Secret) Name() string { return s.public.name }

// File returns the bytes of the secret key file, without a final LF, as Nix writes it.
func (s *Secret) File() []byte { return []byte(join(s.public.name, s.key)) }

// Format shows the name, whatever the verb.
func (s *Secret) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "secret of %s", s.public.name) }

// Sign returns the value of a Sig field over a fingerprint; see narinfo.Narinfo.Fingerprint.
func (s *Secret) Sign(fingerprint string) string {
	return join(s.public.name, ed25519.Sign(s.key, []byte(fingerprint)))
}

// Name returns the name of the key.
func (p PublicKey) Name() string { return p.name }

// String returns <name>:<base64>, as in a public key file, which has no final LF, and in trusted-public-keys.
func (p PublicKey) String() string { return join(p.name, p.key[:]) }

// Verify checks one signature. The error wraps ErrMalformed, ErrUnknownKey if the signature has another name, or ErrInvalid.
func (p PublicKey) Verify(fingerprint, sig string) error {
	name, b, ok := split(sig, ed25519.SignatureSize)
	switch {
	case !ok:
		return fmt.Errorf("verify signature %.100q: %w", sig, ErrMalformed)
	case name != p.name:
		return fmt.Errorf("verify signature of %s with key %s: %w", name, p.name, ErrUnknownKey)
	case !ed25519.Verify(p.key[:], []byte(fingerprint), b):
		return fmt.Errorf("verify signature of %s: %w", name, ErrInvalid)
	}
	return nil
}

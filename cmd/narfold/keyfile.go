package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"narfold/internal/guixkey"
	"narfold/internal/nixkey"
	"narfold/internal/sexp"
)

// dialect is whose narinfos a key signs, as --dialect and the answers name it.
type dialect string

const (
	guixDialect dialect = "guix"
	nixDialect  dialect = "nix"
)

// secretKey is a secret key of one dialect; the other's field is nil.
type secretKey struct {
	guix *guixkey.Secret
	nix  *nixkey.Secret
}

// publicKey is a public key of one dialect. Its fields are those of the other kinds of key.
type publicKey struct {
	dialect dialect
	guix    *guixkey.PublicKey // nil for Nix
	nix     nixkey.PublicKey   // zero for Guix
}

func (s secretKey) public() publicKey {
	if s.guix != nil {
		return publicKey{dialect: guixDialect, guix: s.guix.Public()}
	}
	return publicKey{dialect: nixDialect, nix: s.nix.Public()}
}

// file returns the bytes of the secret's file, as the dialect's own tools write it.
func (s secretKey) file() []byte {
	if s.guix != nil {
		return s.guix.File()
	}
	return s.nix.File()
}

// mode returns the permissions of the secret's file, as the dialect's own tools set them.
func (s secretKey) mode() fs.FileMode {
	if s.guix != nil {
		return 0o400
	}
	return 0o600
}

// file returns the bytes of the public key's file, as the dialect's own tools write it: Nix's has no LF at its end.
func (p publicKey) file() []byte {
	if p.guix != nil {
		return p.guix.File()
	}
	return []byte(p.nix.String())
}

// String returns the key on one line: the point in hexadecimal for Guix, name and base64 for Nix.
func (p publicKey) String() string {
	if p.guix != nil {
		return p.guix.String()
	}
	return p.nix.String()
}

func (p publicKey) equal(o publicKey) bool {
	if p.guix != nil && o.guix != nil {
		return p.guix.Equal(o.guix)
	}
	return p.dialect == o.dialect && p.nix == o.nix
}

// readSecret reads a secret key of either dialect, which its content tells.
func readSecret(name string) (secretKey, error) {
	text, err := readSmall(name, guixkey.MaxKeyFile)
	if err != nil {
		return secretKey{}, fmt.Errorf("read secret key: %w", err)
	}
	s, err := parseSecret(text)
	if err != nil {
		return secretKey{}, fmt.Errorf("read secret key %s: %w", name, err)
	}
	return s, nil
}

func parseSecret(text []byte) (secretKey, error) {
	if isGuixFile(text) {
		s, err := guixkey.ParseSecret(text)
		return secretKey{guix: s}, err
	}
	s, err := nixkey.ParseSecret(text)
	return secretKey{nix: s}, err
}

// readPublic reads a public key of either dialect.
func readPublic(name string) (publicKey, error) {
	text, err := readSmall(name, guixkey.MaxKeyFile)
	if err != nil {
		return publicKey{}, fmt.Errorf("read public key: %w", err)
	}
	p, err := parsePublic(text)
	if err != nil {
		return publicKey{}, fmt.Errorf("read public key %s: %w", name, err)
	}
	return p, nil
}

func parsePublic(text []byte) (publicKey, error) {
	if isGuixFile(text) {
		p, err := guixkey.ParsePublic(text)
		return publicKey{dialect: guixDialect, guix: p}, err
	}
	p, err := nixkey.ParsePublic(text)
	return publicKey{dialect: nixDialect, nix: p}, err
}

// readEither reads the public half of a key file, be it of a public or of a secret key.
func readEither(name string) (publicKey, error) {
	text, err := readSmall(name, guixkey.MaxKeyFile)
	if err != nil {
		return publicKey{}, fmt.Errorf("read key: %w", err)
	}
	p, err := parsePublic(text)
	if err == nil {
		return p, nil
	}
	s, secretErr := parseSecret(text)
	if secretErr == nil {
		return s.public(), nil
	}
	return publicKey{}, fmt.Errorf("read key %s: neither a public key (%w) nor a secret one (%w)", name, err, secretErr)
}

// isGuixFile tells Guix's s-expressions from Nix's <name>:<base64>.
func isGuixFile(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), []byte("(")) }

// aclEntry returns the entry that makes an access list of Guix believe a key, without a final LF.
func aclEntry(key *guixkey.PublicKey) (string, error) {
	list, err := sexp.Parse(guixkey.Authorize(key).File())
	if err != nil {
		return "", fmt.Errorf("read back the access list of %s: %w", key, err)
	}
	entries, ok := list.Tail("acl")
	if !ok || len(entries) != 1 {
		return "", fmt.Errorf("read back the access list of %s: %d entries", key, len(entries))
	}
	return string(bytes.TrimSpace([]byte(entries[0].String()))), nil
}

var errTooLarge = errors.New("file is too large")

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, errTooLarge, limit)
	}
	return text, nil
}

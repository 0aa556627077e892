// Package guixkey signs narinfos for Guix and checks such signatures: ECDSA on the curve of Ed25519, as libgcrypt computes it.
//
// It is not EdDSA: crypto/ed25519 can neither make nor check these. Nonces follow RFC 6979, so that a signature made here has the
// same bytes as one that guix publish makes with the same key. Keys and access lists are read and written as Guix's files.
// RSA keys, which Guix knows too, may stand in an access list and authorise nothing.
package guixkey

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"filippo.io/edwards25519"

	"narfold/internal/sexp"
)

// MaxKeyFile is the number of bytes above which no key file is read.
const MaxKeyFile = 16 << 10

// ErrKey is wrapped by every error about a key that cannot be used.
var ErrKey = errors.New("not a usable Guix signing key")

// PublicKey is a point of the prime-order group or a larger one: it was checked to be on the curve and not of small order.
type PublicKey struct {
	q     [32]byte // the encoding of EdDSA: y little endian, the sign of x in the top bit
	point *edwards25519.Point
}

// Secret is a secret key. It must not be printed; String of its type names the public half only.
type Secret struct {
	public *PublicKey
	d      [32]byte             // big endian, not reduced: nonces are derived from it as it is
	scalar *edwards25519.Scalar // d mod L
}

// newPublic checks q as a point.
func newPublic(q []byte) (*PublicKey, error) {
	if len(q) != 32 {
		return nil, fmt.Errorf("%w: q has %d bytes, want 32", ErrKey, len(q))
	}
	point, err := new(edwards25519.Point).SetBytes(q)
	if err != nil || string(point.Bytes()) != string(q) {
		return nil, fmt.Errorf("%w: q is not the encoding of a point", ErrKey)
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("%w: q has small order, anybody could sign for it", ErrKey)
	}
	return &PublicKey{q: [32]byte(q), point: point}, nil
}

func newSecret(d [32]byte) (*Secret, error) {
	s := &Secret{d: d, scalar: reduce(d)}
	if s.scalar.Equal(edwards25519.NewScalar()) == 1 {
		return nil, fmt.Errorf("%w: d is a multiple of the group's order", ErrKey)
	}
	public, err := newPublic(new(edwards25519.Point).ScalarBaseMult(s.scalar).Bytes())
	if err != nil {
		return nil, err
	}
	s.public = public
	return s, nil
}

// Generate makes a key as libgcrypt's (genkey (ecdsa (curve Ed25519) (flags rfc6979))) does: 256 random bits as a big-endian number
// whose bit 255 is cleared, bit 254 set, and low three bits cleared. It reads 32 bytes from rand.
func Generate(rand io.Reader) (*Secret, error) {
	var d [32]byte
	if _, err := io.ReadFull(rand, d[:]); err != nil {
		return nil, fmt.Errorf("generate Guix signing key: %w", err)
	}
	d[0] = d[0]&0x7f | 0x40
	d[31] &= 0xf8
	return newSecret(d)
}

// ParsePublic reads the bytes of a signing-key.pub.
func ParsePublic(file []byte) (*PublicKey, error) {
	s, err := parseFile(file, MaxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return publicFrom(s)
}

// publicFrom takes the key from (public-key (ecc (curve Ed25519) (q #..#))).
func publicFrom(s sexp.Sexp) (*PublicKey, error) {
	fields, err := eccFields(s, "public-key", 2)
	if err != nil {
		return nil, err
	}
	return newPublic(fields[0])
}

// eccFields takes q, and d if want is 3, from (head (ecc (curve Ed25519) (q #..#) (d #..#))).
func eccFields(s sexp.Sexp, head string, want int) ([][]byte, error) {
	bad := fmt.Errorf("%w: want (%s (ecc (curve Ed25519) ...))", ErrKey, head)
	outer, ok := s.Tail(head)
	if !ok || len(outer) != 1 {
		return nil, bad
	}
	inner, ok := outer[0].Tail("ecc")
	if !ok || len(inner) != want {
		return nil, bad
	}
	if curve, ok := inner[0].Tail("curve"); !ok || len(curve) != 1 || !curve[0].Is("Ed25519") {
		return nil, bad
	}
	var out [][]byte
	for i, name := range []string{"q", "d"}[:want-1] {
		b, ok := named(inner[i+1], name)
		if !ok {
			return nil, bad
		}
		out = append(out, b)
	}
	return out, nil
}

// named takes the bytes of (name bytes).
func named(s sexp.Sexp, name string) ([]byte, bool) {
	tail, ok := s.Tail(name)
	if !ok || len(tail) != 1 || tail[0].IsList() {
		return nil, false
	}
	return tail[0].Bytes(), true
}

// ParseSecret reads the bytes of a signing-key.sec and checks that its public half belongs to its secret half.
func ParseSecret(file []byte) (*Secret, error) {
	s, err := parseFile(file, MaxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, withoutText(err))
	}
	fields, err := eccFields(s, "private-key", 3)
	if err != nil {
		return nil, err
	}
	d := fields[1]
	if len(d) > 32 {
		return nil, fmt.Errorf("%w: d has %d bytes, want at most 32", ErrKey, len(d))
	}
	var full [32]byte
	copy(full[32-len(d):], d)
	key, err := newSecret(full)
	if err != nil {
		return nil, err
	}
	if string(fields[0]) != string(key.public.q[:]) {
		return nil, fmt.Errorf("%w: q does not belong to d", ErrKey)
	}
	return key, nil
}

// withoutText keeps characters of a secret file out of error messages.
func withoutText(err error) error {
	if at, ok := errors.AsType[*sexp.SyntaxError](err); ok {
		return fmt.Errorf("not an s-expression at byte %d", at.Offset)
	}
	return err
}

// parseFile reads an expression from text as Guix does: UTF-8 whose characters are the bytes of the expression.
func parseFile(file []byte, limit int) (sexp.Sexp, error) {
	if len(file) > limit {
		return sexp.Sexp{}, fmt.Errorf("%d bytes, limit %d: %w", len(file), limit, sexp.ErrTooLarge)
	}
	latin, err := toLatin1(file)
	if err != nil {
		return sexp.Sexp{}, err
	}
	return sexp.Parse(latin)
}

// Public returns the public half.
func (s *Secret) Public() *PublicKey { return s.public }

// File returns the bytes of a signing-key.sec, as Guix writes it.
func (s *Secret) File() []byte {
	return toUTF8(sexp.List(sexp.Token("private-key"), eccSexp(s.public.q[:], s.d[:])).Append(nil))
}

// String names the key by its public half.
func (s *Secret) String() string { return "secret of " + s.public.String() }

// GoString keeps the secret out of %#v.
func (s *Secret) GoString() string { return s.String() }

// File returns the bytes of a signing-key.pub, as Guix writes it.
func (p *PublicKey) File() []byte { return toUTF8(p.sexp().Append(nil)) }

// Bytes returns the point as 32 bytes.
func (p *PublicKey) Bytes() [32]byte { return p.q }

// Equal reports whether both are the same key.
func (p *PublicKey) Equal(o *PublicKey) bool { return p.q == o.q }

// String returns q in hexadecimal, as it stands in the file.
func (p *PublicKey) String() string { return fmt.Sprintf("%X", p.q[:]) }

func (p *PublicKey) sexp() sexp.Sexp {
	return sexp.List(sexp.Token("public-key"), eccSexp(p.q[:], nil))
}

func eccSexp(q, d []byte) sexp.Sexp {
	items := []sexp.Sexp{
		sexp.Token("ecc"),
		sexp.List(sexp.Token("curve"), sexp.Token("Ed25519")),
		sexp.List(sexp.Token("q"), sexp.Atom(q)),
	}
	if d != nil {
		items = append(items, sexp.List(sexp.Token("d"), sexp.Atom(d)))
	}
	return sexp.List(items...)
}

// toLatin1 takes UTF-8 for the bytes that its characters number. Guix hands text to libgcrypt so.
func toLatin1(text []byte) ([]byte, error) {
	ascii := true
	for _, c := range text {
		if c >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return text, nil
	}
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r > 0xff {
			return nil, fmt.Errorf("character %q is not in Latin-1", r)
		}
		out = append(out, byte(r))
	}
	return out, nil
}

// toUTF8 is the inverse of toLatin1.
func toUTF8(latin []byte) []byte {
	var b strings.Builder
	b.Grow(len(latin))
	for _, c := range latin {
		b.WriteRune(rune(c))
	}
	return []byte(b.String())
}

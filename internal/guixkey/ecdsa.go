package guixkey

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"filippo.io/edwards25519"
)

// The group is edwards25519 with its order L of 253 bits. Numbers travel big endian; the scalars of the library are little endian.

// reduce returns a big-endian number of 256 bits mod L.
func reduce(b [32]byte) *edwards25519.Scalar {
	slices.Reverse(b[:])
	return reduceLittle(b[:])
}

func reduceLittle(b []byte) *edwards25519.Scalar {
	var wide [64]byte
	copy(wide[:], b)
	s, err := edwards25519.NewScalar().SetUniformBytes(wide[:])
	if err != nil {
		panic("guixkey: 64 bytes are not enough for a scalar: " + err.Error())
	}
	return s
}

// bigEndian returns the 32 bytes of s.
func bigEndian(s *edwards25519.Scalar) [32]byte {
	b := [32]byte(s.Bytes())
	slices.Reverse(b[:])
	return b
}

// shift3 divides a big-endian number by 8: a hash of 256 bits has 3 more than L.
func shift3(b [32]byte) [32]byte {
	var out [32]byte
	carry := byte(0)
	for i, c := range b {
		out[i] = c>>3 | carry
		carry = c << 5
	}
	return out
}

// xOf returns the affine x coordinate of p mod L.
func xOf(p *edwards25519.Point) *edwards25519.Scalar {
	x, _, z, _ := p.ExtendedCoordinates()
	x.Multiply(x, z.Invert(z))
	return reduceLittle(x.Bytes())
}

var zero = edwards25519.NewScalar()

// sign computes r and s over the hash of a body.
func (key *Secret) sign(hash [32]byte) (r, s *edwards25519.Scalar) {
	z := reduce(shift3(hash))
	for candidates := newNonces(key.d, bigEndian(z)); ; {
		k := candidates.next()
		r = xOf(new(edwards25519.Point).ScalarBaseMult(k))
		s = edwards25519.NewScalar().MultiplyAdd(r, key.scalar, z)
		s.Multiply(s, edwards25519.NewScalar().Invert(k))
		if r.Equal(zero) == 0 && s.Equal(zero) == 0 {
			return r, s
		}
	}
}

// verify reports whether r and s, already known to be within 1..L-1, sign hash.
func (p *PublicKey) verify(hash [32]byte, r, s *edwards25519.Scalar) bool {
	w := edwards25519.NewScalar().Invert(s)
	u1 := reduce(shift3(hash))
	u1.Multiply(u1, w)
	u2 := w.Multiply(w, r)
	point := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(u2, p.point, u1)
	return xOf(point).Equal(r) == 1
}

// scalarWithin reads a big-endian number of any length that must be within 1..L-1.
func scalarWithin(b []byte) (*edwards25519.Scalar, bool) {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 32 {
		return nil, false
	}
	var little [32]byte
	for i, c := range b {
		little[len(b)-1-i] = c
	}
	s, err := edwards25519.NewScalar().SetCanonicalBytes(little[:])
	return s, err == nil
}

// nonces is the generator of RFC 6979, section 3.2, with HMAC-SHA256 and qlen 253.
type nonces struct {
	k, v  [32]byte
	tried bool
}

// newNonces seeds the generator. As in libgcrypt, d is the secret as the key file has it, which is larger than L; with d mod L the
// signatures would be valid and differ.
func newNonces(d, z [32]byte) *nonces {
	n := new(nonces)
	for i := range n.v {
		n.v[i] = 1
	}
	for _, round := range []byte{0, 1} {
		n.k = n.mac(n.v[:], []byte{round}, d[:], z[:])
		n.v = n.mac(n.v[:])
	}
	return n
}

func (n *nonces) mac(parts ...[]byte) [32]byte {
	h := hmac.New(sha256.New, n.k[:])
	for _, p := range parts {
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// next returns the next candidate that is within 1..L-1.
func (n *nonces) next() *edwards25519.Scalar {
	for {
		if n.tried {
			n.k = n.mac(n.v[:], []byte{0})
			n.v = n.mac(n.v[:])
		}
		n.tried = true
		n.v = n.mac(n.v[:])
		candidate := shift3(n.v)
		if k, ok := scalarWithin(candidate[:]); ok {
			return k
		}
	}
}

package guixkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/edwards25519"

	"narfold/internal/sexp"
)

// The verdicts of a check, in the order in which Guix comes to them. Every error of Verify wraps exactly one.
var (
	ErrUnsigned     = errors.New("unsigned")
	ErrBadField     = errors.New("the Signature field does not have three parts")
	ErrVersion      = errors.New("unsupported version of signature")
	ErrMissingField = errors.New("the signature does not cover a mandatory field")
	ErrCorrupt      = errors.New("corrupt signature")
	ErrUnauthorized = errors.New("signed with a key that is not authorised")
	ErrHashMismatch = errors.New("the signature is of another text")
	ErrInvalid      = errors.New("invalid signature")
)

// ErrHost says that a host name cannot stand in a signature, ErrBody that a text cannot be signed.
var (
	ErrHost = errors.New("a host name with a semicolon, a control character, or not in UTF-8")
	ErrBody = errors.New("text cannot be signed as a narinfo")
)

const marker = "Signature:"

// maxField bounds the value of a Signature field: Guix writes some 700 bytes.
const maxField = 64 << 10

// Sign returns the value of the Signature field for body, the narinfo's lines up to and with the LF before that field:
// 1;<host>;<base64>. The host is free text that Guix ignores; it may be empty.
func (s *Secret) Sign(body []byte, host string) (string, error) {
	if strings.ContainsFunc(host, func(r rune) bool { return r == ';' || r == utf8.RuneError || unicode.IsControl(r) }) {
		return "", fmt.Errorf("sign for host %q: %w", host, ErrHost)
	}
	if bytes.Contains(body, []byte(marker)) {
		return "", fmt.Errorf("sign: has %q, where clients would cut it off: %w", marker, ErrBody)
	}
	if len(body) == 0 || body[len(body)-1] != '\n' {
		return "", fmt.Errorf("sign: the last line is not ended: %w", ErrBody)
	}
	text := toUTF8(s.signature(sha256.Sum256(body)).Append(nil))
	return "1;" + host + ";" + base64.StdEncoding.EncodeToString(text), nil
}

func (s *Secret) signature(hash [32]byte) sexp.Sexp {
	r, v := s.sign(hash)
	pair := func(name string, items ...sexp.Sexp) sexp.Sexp {
		return sexp.List(append([]sexp.Sexp{sexp.Token(name)}, items...)...)
	}
	number := func(n *edwards25519.Scalar) sexp.Sexp {
		b := bigEndian(n)
		return sexp.Atom(bytes.TrimLeft(b[:], "\x00"))
	}
	return pair("signature",
		pair("data",
			pair("flags", sexp.Token("rfc6979")),
			pair("hash", sexp.Token("sha256"), sexp.Atom(hash[:]))),
		pair("sig-val",
			pair("ecdsa", pair("r", number(r)), pair("s", number(v)))),
		s.public.sexp())
}

// Verify checks the signature of a whole narinfo and returns the key that made it, which is one of the list. The body is all
// before the first "Signature:"; what follows the signature is not looked at. The order of checks is Guix's, so that the verdict is
// the same where several are true. Only what Guix accepts is accepted.
func Verify(narinfo []byte, acl *ACL) (*PublicKey, error) {
	return verify(narinfo, acl.authorized)
}

// Signer returns the key that made the signature of a narinfo, which it checks as Verify does, by the key that the signature brings
// along. It tells forged and damaged narinfos from whole ones; it does not tell whether the signer is to be believed. A key that is
// not on the curve of Ed25519 is ErrKey in place of a verdict.
func Signer(narinfo []byte) (*PublicKey, error) {
	return verify(narinfo, publicFrom)
}

// verify checks a narinfo whose key authorized knows.
func verify(narinfo []byte, authorized func(sexp.Sexp) (*PublicKey, error)) (*PublicKey, error) {
	at := bytes.Index(narinfo, []byte(marker))
	if at < 0 {
		return nil, fmt.Errorf("verify narinfo: %w", ErrUnsigned)
	}
	if at > 0 && narinfo[at-1] != '\n' {
		return nil, fmt.Errorf("verify narinfo: %q is not at the beginning of a line: %w", marker, ErrUnsigned)
	}
	value, _, _ := bytes.Cut(narinfo[at+len(marker):], []byte("\n"))
	return verifyBody(narinfo[:at], string(bytes.TrimSpace(value)), authorized)
}

// VerifyBody does what Verify does, given the body and the value of the Signature field.
func VerifyBody(body []byte, value string, acl *ACL) (*PublicKey, error) {
	return verifyBody(body, value, acl.authorized)
}

func verifyBody(body []byte, value string, authorized func(sexp.Sexp) (*PublicKey, error)) (*PublicKey, error) {
	fail := func(err error) (*PublicKey, error) { return nil, fmt.Errorf("verify narinfo: %w", err) }
	if value == "" {
		return fail(ErrUnsigned)
	}
	part := strings.Split(clipField(value), ";")
	if len(part) != 3 {
		return fail(fmt.Errorf("have %d: %w", len(part), ErrBadField))
	}
	if part[0] != "1" {
		return fail(fmt.Errorf("%.20q: %w", part[0], ErrVersion))
	}
	for _, name := range []string{"StorePath: ", "NarHash: ", "References: "} {
		if !hasLine(body, name) {
			return fail(fmt.Errorf("%s%w", name, ErrMissingField))
		}
	}
	sig, err := parseSignature(part[2])
	if err != nil {
		return fail(err)
	}
	key, err := authorized(sig.key)
	if err != nil {
		return fail(err)
	}
	hash := sha256.Sum256(body)
	if !bytes.Equal(sig.hash, hash[:]) {
		return fail(fmt.Errorf("of %x and not of %x: %w", sig.hash, hash, ErrHashMismatch))
	}
	r, okR := scalarWithin(sig.r)
	s, okS := scalarWithin(sig.s)
	if !okR || !okS || !key.verify(hash, r, s) {
		return fail(ErrInvalid)
	}
	return key, nil
}

// clipField bounds the work on a hostile field; a clipped one fails as corrupt.
func clipField(value string) string { return value[:min(len(value), maxField)] }

func hasLine(body []byte, name string) bool {
	for len(body) > 0 {
		if bytes.HasPrefix(body, []byte(name)) {
			return true
		}
		end := bytes.IndexByte(body, '\n')
		if end < 0 {
			return false
		}
		body = body[end+1:]
	}
	return false
}

// parts is what a signature's expression holds.
type parts struct {
	hash, r, s []byte
	key        sexp.Sexp
}

// parseSignature reads the base64 of (signature (data ..) (sig-val ..) (public-key ..)), with the three in any order. Guix
// looks for them at any depth and takes the first; that nobody else can be meant is demanded here.
func parseSignature(packed string) (parts, error) {
	corrupt := func(what string) (parts, error) { return parts{}, fmt.Errorf("%s: %w", what, ErrCorrupt) }
	text, err := base64.StdEncoding.Strict().DecodeString(packed)
	if err != nil || strings.ContainsAny(packed, "\r\n") {
		return corrupt("not base64")
	}
	s, err := parseFile(text, maxField)
	if err != nil {
		return corrupt(err.Error())
	}
	items, ok := s.Tail("signature")
	if !ok || len(items) != 3 {
		return corrupt("want (signature (data ..) (sig-val ..) (public-key ..))")
	}
	var p parts
	var data, value, key bool
	for _, item := range items {
		switch {
		case !data && p.setData(item):
			data = true
		case !value && p.setValue(item):
			value = true
		case !key && isHeaded(item, "public-key"):
			p.key, key = item, true
		default:
			return corrupt("a part is not of the expected form")
		}
	}
	return p, nil
}

func isHeaded(s sexp.Sexp, head string) bool {
	_, ok := s.Tail(head)
	return ok
}

// setData takes the hash from (data (flags rfc6979) (hash sha256 #..#)).
func (p *parts) setData(s sexp.Sexp) bool {
	items, ok := s.Tail("data")
	if !ok || len(items) != 2 {
		return false
	}
	flags, ok := items[0].Tail("flags")
	if !ok || len(flags) != 1 || !flags[0].Is("rfc6979") {
		return false
	}
	hash, ok := items[1].Tail("hash")
	if !ok || len(hash) != 2 || !hash[0].Is("sha256") || hash[1].IsList() {
		return false
	}
	p.hash = hash[1].Bytes()
	return true
}

// setValue takes r and s from (sig-val (ecdsa (r #..#) (s #..#))). Values of other algorithms are kept for the verdict
// that their key is not authorised.
func (p *parts) setValue(s sexp.Sexp) bool {
	items, ok := s.Tail("sig-val")
	if !ok || len(items) != 1 || !items[0].IsList() {
		return false
	}
	pair, ok := items[0].Tail("ecdsa")
	if !ok || len(pair) != 2 {
		return true
	}
	p.r, _ = named(pair[0], "r")
	p.s, _ = named(pair[1], "s")
	return true
}

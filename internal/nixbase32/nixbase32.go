// Package nixbase32 reads and writes the base-32 text that Nix and Guix use for hashes.
//
// The bytes are taken as one little-endian integer; the character i places from the right is its bits 5i to 5i+4. The
// alphabet leaves out e, o, t and u. There is no padding: n bytes are ceil(8n/5) characters, and the unused high bits of the
// first character are zero. (Source: the Nix manual, "Nix32"; checked against nix-hash and Guix.)
package nixbase32

import "fmt"

const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// value holds the number of each character, or 0xff for a byte outside the alphabet.
var value = func() (v [256]byte) {
	for i := range v {
		v[i] = 0xff
	}
	for i := range alphabet {
		v[alphabet[i]] = byte(i)
	}
	return v
}()

// EncodedLen returns the number of characters that encode n bytes.
func EncodedLen(n int) int { return (n*8 + 4) / 5 }

// DecodedLen returns the number of bytes that n characters encode.
func DecodedLen(n int) int { return n * 5 / 8 }

// Is reports whether c is in the alphabet.
func Is(c byte) bool { return value[c] != 0xff }

// Encode returns src as text.
func Encode(src []byte) string { return string(Append(nil, src)) }

// Append appends the text of src to dst.
func Append(dst, src []byte) []byte {
	for n := EncodedLen(len(src)) - 1; n >= 0; n-- {
		bit := n * 5
		i, shift := bit/8, bit%8
		c := src[i] >> shift
		if shift > 3 && i+1 < len(src) {
			c |= src[i+1] << (8 - shift)
		}
		dst = append(dst, alphabet[c&0x1f])
	}
	return dst
}

// Decode fills dst from text, which must be exactly EncodedLen(len(dst)) characters of the alphabet with zero unused bits.
func Decode(dst []byte, text string) error {
	if len(text) != EncodedLen(len(dst)) {
		return fmt.Errorf("decode base-32 %q: want %d characters for %d bytes, have %d", clip(text), EncodedLen(len(dst)), len(dst), len(text))
	}
	clear(dst)
	for n := range len(text) {
		c := value[text[len(text)-1-n]]
		if c == 0xff {
			return fmt.Errorf("decode base-32 %q: character %q is not in the alphabet", clip(text), text[len(text)-1-n])
		}
		bit := n * 5
		i, shift := bit/8, bit%8
		dst[i] |= c << shift
		if shift > 3 {
			carry := c >> (8 - shift)
			if i+1 < len(dst) {
				dst[i+1] |= carry
			} else if carry != 0 {
				return fmt.Errorf("decode base-32 %q: the first character has bits beyond %d bytes", clip(text), len(dst))
			}
		}
	}
	return nil
}

// clip keeps hostile text from filling an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

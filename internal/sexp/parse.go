package sexp

import (
	"encoding/base64"
	"fmt"
)

// Parse reads one list in the advanced form: tokens, "strings" with the escapes of C, #hexadecimal#, |base64|, separated by any
// white space. White space may surround the list and nothing else may. Refused, though libgcrypt takes some of it: a token that
// begins with a digit, length prefixes, [display hints], and what is not a list.
func Parse(text []byte) (Sexp, error) {
	if len(text) > MaxSize {
		return Sexp{}, &SyntaxError{MaxSize, ErrTooLarge}
	}
	p := parser{text: text}
	p.blanks()
	if !p.have('(') {
		return Sexp{}, p.fail("want a list")
	}
	s, err := p.list(1)
	if err != nil {
		return Sexp{}, err
	}
	p.blanks()
	if p.at != len(p.text) {
		return Sexp{}, p.fail("something follows the list")
	}
	return s, nil
}

type parser struct {
	text  []byte
	at    int
	items int
}

func (p *parser) fail(format string, args ...any) error {
	return &SyntaxError{p.at, fmt.Errorf(format, args...)}
}

func (p *parser) have(c byte) bool { return p.at < len(p.text) && p.text[p.at] == c }

func (p *parser) blanks() {
	for p.at < len(p.text) && isBlank(p.text[p.at]) {
		p.at++
	}
}

// list reads a list from its opening parenthesis; depth counts it.
func (p *parser) list(depth int) (Sexp, error) {
	if depth > MaxDepth {
		return Sexp{}, &SyntaxError{p.at, ErrTooDeep}
	}
	p.at++
	var items []Sexp
	for {
		p.blanks()
		if p.at == len(p.text) {
			return Sexp{}, p.fail("a list is not closed")
		}
		if p.have(')') {
			p.at++
			return Sexp{items: items, list: true}, nil
		}
		if p.items++; p.items > MaxItems {
			return Sexp{}, &SyntaxError{p.at, ErrTooLarge}
		}
		var s Sexp
		var err error
		if p.have('(') {
			s, err = p.list(depth + 1)
		} else {
			s.atom, err = p.atom()
		}
		if err != nil {
			return Sexp{}, err
		}
		items = append(items, s)
	}
}

func (p *parser) atom() ([]byte, error) {
	switch c := p.text[p.at]; {
	case c == '"':
		return p.quoted()
	case c == '#':
		return p.hex()
	case c == '|':
		return p.base64()
	case isDigit(c):
		return nil, p.fail("a token begins with a digit, or a length stands before it")
	case !isToken(c):
		return nil, p.fail("unexpected character %q", c)
	}
	start := p.at
	for p.at < len(p.text) && isToken(p.text[p.at]) {
		p.at++
	}
	return p.text[start:p.at:p.at], nil
}

func (p *parser) hex() ([]byte, error) {
	p.at++
	var out []byte
	high, half := byte(0), false
	for ; p.at < len(p.text); p.at++ {
		c := p.text[p.at]
		if c == '#' {
			if half {
				return nil, p.fail("odd number of hexadecimal digits")
			}
			p.at++
			return out, nil
		}
		if isBlank(c) {
			continue
		}
		v, ok := unhex(c)
		if !ok {
			return nil, p.fail("%q is not a hexadecimal digit", c)
		}
		if out == nil {
			out = make([]byte, 0, 32)
		}
		if half {
			out = append(out, high<<4|v)
		} else {
			high = v
		}
		half = !half
	}
	return nil, p.fail("hexadecimal digits are not closed")
}

func (p *parser) base64() ([]byte, error) {
	p.at++
	var packed []byte
	for start := p.at; p.at < len(p.text); p.at++ {
		c := p.text[p.at]
		if c == '|' {
			out := make([]byte, base64.StdEncoding.DecodedLen(len(packed)))
			n, err := base64.StdEncoding.Strict().Decode(out, packed)
			if err != nil {
				p.at = start
				return nil, p.fail("base64: %w", err)
			}
			p.at++
			return out[:n], nil
		}
		if !isBlank(c) {
			packed = append(packed, c)
		}
	}
	return nil, p.fail("base64 is not closed")
}

func (p *parser) quoted() ([]byte, error) {
	p.at++
	out := []byte{}
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch c {
		case '"':
			return out, nil
		case '\\':
			b, skip, err := p.escape()
			if err != nil {
				return nil, err
			}
			if !skip {
				out = append(out, b)
			}
		default:
			out = append(out, c)
		}
	}
	return nil, p.fail("a string is not closed")
}

// escape reads what follows a backslash. An escaped end of line stands for nothing.
func (p *parser) escape() (b byte, skip bool, err error) {
	if p.at == len(p.text) {
		return 0, false, p.fail("a string is not closed")
	}
	c := p.text[p.at]
	p.at++
	switch c {
	case 'b':
		return '\b', false, nil
	case 't':
		return '\t', false, nil
	case 'v':
		return '\v', false, nil
	case 'n':
		return '\n', false, nil
	case 'f':
		return '\f', false, nil
	case 'r':
		return '\r', false, nil
	case '"', '\'', '\\':
		return c, false, nil
	case '\r':
		if p.have('\n') {
			p.at++
		}
		return 0, true, nil
	case '\n':
		if p.have('\r') {
			p.at++
		}
		return 0, true, nil
	case 'x':
		return p.digits(2, 16)
	}
	if '0' <= c && c <= '3' {
		p.at--
		return p.digits(3, 8)
	}
	p.at--
	return 0, false, p.fail("unknown escape %q", c)
}

func (p *parser) digits(count, base int) (byte, bool, error) {
	if p.at+count > len(p.text) {
		return 0, false, p.fail("a string is not closed")
	}
	n := 0
	for range count {
		v, ok := unhex(p.text[p.at])
		if !ok || int(v) >= base {
			return 0, false, p.fail("want %d digits of base %d in an escape", count, base)
		}
		n = n*base + int(v)
		p.at++
	}
	return byte(n), false, nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isBlank(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isToken reports whether c may be part of a token; it may begin one if it is no digit.
func isToken(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', isDigit(c):
		return true
	}
	switch c {
	case '-', '.', '/', '_', ':', '*', '+', '=':
		return true
	}
	return false
}

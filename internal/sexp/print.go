package sexp

const upperHex = "0123456789ABCDEF"

// Append appends the text of s in the layout of libgcrypt's advanced format: a blank after each atom that is not the last of its
// list, a list within a list on a line of its own, indented by its depth, and one LF at the end.
//
// An atom is a token if it may be one, #HEX# if it begins with a zero byte or a byte above 7F or has a byte that is
// neither printable nor escapable, and a "string" otherwise. Bytes A1 to FF in a string stand as they are, so that the
// text of a string can be other than ASCII, as about one of 10,000 random numbers of 32 bytes shows: Guix takes the text for
// Latin-1 then. One difference is meant: an atom of letters and NUL is printed as a string, since libgcrypt's token with
// a NUL could not be read back.
func (s Sexp) Append(dst []byte) []byte {
	if !s.list {
		return append(appendAtom(dst, s.atom), '\n')
	}
	return append(appendList(dst, s.items, 0), '\n')
}

// String returns what Append appends.
func (s Sexp) String() string { return string(s.Append(nil)) }

func appendList(dst []byte, items []Sexp, depth int) []byte {
	if depth > 0 {
		dst = newline(dst, depth)
	}
	dst = append(dst, '(')
	for i, item := range items {
		last := i == len(items)-1
		if !item.list {
			dst = appendAtom(dst, item.atom)
			if !last {
				dst = append(dst, ' ')
			}
			continue
		}
		dst = appendList(dst, item.items, depth+1)
		if last || !items[i+1].list {
			dst = newline(dst, depth+1)
		}
	}
	return append(dst, ')')
}

func newline(dst []byte, depth int) []byte {
	dst = append(dst, '\n')
	for range depth {
		dst = append(dst, ' ')
	}
	return dst
}

func appendAtom(dst, b []byte) []byte {
	switch form(b) {
	case asToken:
		return append(dst, b...)
	case asHex:
		dst = append(dst, '#')
		for _, c := range b {
			dst = append(dst, upperHex[c>>4], upperHex[c&15])
		}
		return append(dst, '#')
	}
	dst = append(dst, '"')
	for _, c := range b {
		switch c {
		case '\b':
			dst = append(dst, `\b`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\v':
			dst = append(dst, `\v`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '"', '\'', '\\':
			dst = append(dst, '\\', c)
		case 0: // the only other that form lets through
			dst = append(dst, `\x00`...)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

type atomForm int

const (
	asToken atomForm = iota
	asHex
	asString
)

// form chooses as libgcrypt does. That a NUL inside does not call for hexadecimal is its doing too.
func form(b []byte) atomForm {
	if len(b) == 0 {
		return asString
	}
	if b[0] == 0 || b[0] >= 0x80 {
		return asHex
	}
	token := !isDigit(b[0])
	for _, c := range b {
		if !isToken(c) {
			token = false
		}
		control := c < ' ' || 0x7f <= c && c <= 0xa0
		if control && c != 0 && (c < '\b' || c > '\r') {
			return asHex
		}
	}
	if token {
		return asToken
	}
	return asString
}

package httpfront

import "bytes"

// verdict is what becomes of the bytes at the beginning of a connection's input.
type verdict uint8

const (
	partial verdict = iota // the header is not complete yet
	plain                  // one complete request that Plain may be asked
	once                   // one complete request without a body, for net/http; the connection comes back afterwards
	forGood                // anything else: from here on the connection is net/http's
)

// parsed is one request header. The slices point into the input.
type parsed struct {
	size  int // bytes of the whole header with the empty line; set for plain and once
	head  bool
	close bool // the client wants no more after this
	path  []byte
	host  []byte
}

// Characters, by what they may be part of. The sets are RFC 9110's token and field-value, RFC 3986's path, and the host names,
// addresses and ports that occur in practice; what is not in them is not wrong, only net/http's to judge.
const (
	tokenChar = 1 << iota
	valueChar
	pathChar
	hostChar
)

var chars = func() (t [256]uint8) {
	for c := range 256 {
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= valueChar
		}
	}
	for c := range 256 {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			t[c] |= tokenChar | pathChar | hostChar
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= tokenChar
	}
	for _, c := range []byte("-._~!$&'()*+,;=:@/%") {
		t[c] |= pathChar
	}
	for _, c := range []byte("-._:[]") {
		t[c] |= hostChar
	}
	return t
}()

func all[S ~string | ~[]byte](s S, class uint8) bool {
	for i := range len(s) {
		if chars[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

var (
	getSlash  = []byte("GET /")
	headSlash = []byte("HEAD /")
	endOfLine = []byte(" HTTP/1.1\r")
)

// memo remembers the header fields of the connection's last plain request, everything after the request line. Clients send the
// same ones again with every request of a connection, and comparing is cheaper than parsing.
type memo struct {
	fields [256]byte
	n      int // 0: nothing remembered
	host   [2]int
	close  bool
}

// parse reads one request header from the beginning of b into p.
func parse(b []byte, p *parsed, m *memo) verdict {
	start := 4
	p.head = false
	switch {
	case bytes.HasPrefix(b, getSlash):
	case bytes.HasPrefix(b, headSlash):
		start = 5
		p.head = true
	case bytes.HasPrefix(getSlash, b) || bytes.HasPrefix(headSlash, b):
		return partial
	default:
		return forGood
	}
	nl := bytes.IndexByte(b, '\n')
	if nl < 0 {
		return partial
	}
	line := b[start:nl]
	if !bytes.HasSuffix(line, endOfLine) {
		return forGood
	}
	p.path = line[:len(line)-len(endOfLine)]
	v := judgePath(p.path)
	if v == forGood {
		return forGood
	}
	fields := b[nl+1:]
	if m.n > 0 && len(fields) >= m.n && bytes.Equal(fields[:m.n], m.fields[:m.n]) {
		p.size = nl + 1 + m.n
		p.host = fields[m.host[0]:m.host[1]]
		p.close = m.close
		return v
	}
	n, hv := parseFields(fields, p)
	if hv == partial || hv == forGood {
		return hv
	}
	p.size = nl + 1 + n
	if hv == plain && n <= len(m.fields) {
		m.n = copy(m.fields[:], fields[:n])
		at := cap(fields) - cap(p.host)
		m.host = [2]int{at, at + len(p.host)}
		m.close = p.close
	}
	return max(v, hv)
}

// judgePath says plain for a path that can name something prepared, once for other targets in origin form that still frame a
// request without doubt, and forGood for the rest.
func judgePath(path []byte) verdict {
	v := plain
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return forGood
			}
			i += 2
			continue
		}
		if chars[c]&pathChar != 0 {
			continue
		}
		if c <= ' ' || c >= 0x7f {
			return forGood
		}
		v = once
	}
	return v
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// parseFields reads header fields up to and with the empty line. n is their length.
func parseFields(b []byte, p *parsed) (n int, v verdict) {
	v = plain
	p.close = false
	p.host = nil
	hosts, connections := 0, 0
	for {
		nl := bytes.IndexByte(b[n:], '\n')
		if nl < 0 {
			return n, partial
		}
		line := b[n : n+nl]
		n += nl + 1
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return n, forGood // a bare LF: net/http takes it for a line end, others may not
		}
		line = line[:len(line)-1]
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !all(line[:colon], tokenChar) {
			return n, forGood // also a folded line, which begins with a blank
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !all(value, valueChar) {
			return n, forGood
		}
		switch kindOf(name) {
		case fieldHost:
			hosts++
			if len(value) == 0 || !all(value, hostChar) {
				return n, forGood
			}
			p.host = value
		case fieldConnection:
			connections++
			switch {
			case equalFold(value, "close"):
				p.close = true
			case equalFold(value, "keep-alive"):
			default:
				return n, forGood
			}
		case fieldFraming:
			return n, forGood
		case fieldCondition:
			v = once
		}
	}
	if hosts != 1 || connections > 1 {
		return n, forGood
	}
	return n, v
}

// trim removes optional white space, RFC 9110's OWS.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

type fieldKind uint8

const (
	fieldOther fieldKind = iota
	fieldHost
	fieldConnection
	fieldFraming   // may change where the message ends, or what is spoken afterwards
	fieldCondition // may change the answer
)

// kindOf tells the fields that matter, by length first, since most do not.
func kindOf(name []byte) fieldKind {
	switch len(name) {
	case 4:
		if equalFold(name, "Host") {
			return fieldHost
		}
	case 5:
		if equalFold(name, "Range") {
			return fieldCondition
		}
	case 6:
		if equalFold(name, "Expect") {
			return fieldFraming
		}
	case 7:
		if equalFold(name, "Upgrade") || equalFold(name, "Trailer") {
			return fieldFraming
		}
	case 8:
		if equalFold(name, "If-Match") || equalFold(name, "If-Range") {
			return fieldCondition
		}
	case 10:
		if equalFold(name, "Connection") {
			return fieldConnection
		}
	case 13:
		if equalFold(name, "If-None-Match") || equalFold(name, "Authorization") {
			return fieldCondition
		}
	case 14:
		if equalFold(name, "Content-Length") || equalFold(name, "HTTP2-Settings") {
			return fieldFraming
		}
	case 17:
		if equalFold(name, "Transfer-Encoding") {
			return fieldFraming
		}
		if equalFold(name, "If-Modified-Since") {
			return fieldCondition
		}
	case 19:
		if equalFold(name, "If-Unmodified-Since") {
			return fieldCondition
		}
	}
	return fieldOther
}

// equalFold compares ASCII without regard to case; want is a constant of letters, digits and hyphens.
func equalFold(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i := range len(want) {
		x, y := b[i], want[i]
		if x != y && (x|0x20 != y|0x20 || y|0x20 < 'a' || y|0x20 > 'z') {
			return false
		}
	}
	return true
}

// ended says whether a header that was partial when it had from bytes may be complete now.
func ended(b []byte, from int) bool {
	b = b[max(0, from-3):]
	for {
		nl := bytes.IndexByte(b, '\n')
		if nl < 0 {
			return false
		}
		b = b[nl+1:]
		if len(b) > 0 && b[0] == '\n' || len(b) > 1 && b[0] == '\r' && b[1] == '\n' {
			return true
		}
	}
}

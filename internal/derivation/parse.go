package derivation

import (
	"bytes"
	"fmt"
	"strings"

	"narfold/internal/storepath"
)

// Parse reads the bytes of a .drv. It is as strict as the projects' printers are: no white space, the escapes \\ \" \n \r \t where
// they are needed and nowhere else, and no second output, input or variable of a name. Output names must be able to end a store
// item's name. The newer form DrvWithVersion("...", ...) of Nix is ErrVersion.
func Parse(raw []byte) (*Derivation, error) {
	if len(raw) > MaxSize {
		return nil, &SyntaxError{MaxSize, ErrTooLarge}
	}
	if bytes.HasPrefix(raw, []byte("DrvWithVersion(")) {
		return nil, &SyntaxError{0, ErrVersion}
	}
	p := parser{text: string(raw)}
	d := new(Derivation)
	p.want("Derive(")
	d.Outputs = list(&p, (*parser).output)
	p.want(",")
	d.InputDrvs = list(&p, (*parser).input)
	p.want(",")
	d.InputSrcs = list(&p, (*parser).path)
	p.want(",")
	d.System = p.str()
	p.want(",")
	d.Builder = p.str()
	p.want(",")
	d.Args = list(&p, (*parser).str)
	p.want(",")
	d.Env = list(&p, (*parser).variable)
	p.want(")")
	if p.err == nil && p.at != len(p.text) {
		p.fail("something follows the derivation")
	}
	if p.err == nil && len(d.Outputs) == 0 {
		p.fail("no outputs")
	}
	unique(&p, "output", d.Outputs, func(o Output) string { return o.Name })
	unique(&p, "input derivation", d.InputDrvs, func(in Input) storepath.Path { return in.Path })
	unique(&p, "input source", d.InputSrcs, func(s storepath.Path) storepath.Path { return s })
	unique(&p, "variable", d.Env, func(v Variable) string { return v.Name })
	if p.err != nil {
		return nil, p.err
	}
	return d, nil
}

// parser keeps the first error; after it, every method does nothing and returns a zero value.
type parser struct {
	text    string
	at      int
	strings int
	err     error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = &SyntaxError{p.at, fmt.Errorf(format, args...)}
	}
}

func (p *parser) want(s string) {
	if p.err != nil {
		return
	}
	if !strings.HasPrefix(p.text[p.at:], s) {
		p.fail("want %q", s)
		return
	}
	p.at += len(s)
}

func (p *parser) have(s string) bool { return p.err == nil && strings.HasPrefix(p.text[p.at:], s) }

func list[T any](p *parser, element func(*parser) T) []T {
	p.want("[")
	var all []T
	for p.err == nil && !p.have("]") {
		if len(all) > 0 {
			p.want(",")
		}
		all = append(all, element(p))
	}
	p.want("]")
	return all
}

func unique[T any, K comparable](p *parser, what string, all []T, key func(T) K) {
	if p.err != nil || len(all) < 2 {
		return
	}
	seen := make(map[K]struct{}, len(all))
	for _, one := range all {
		k := key(one)
		if _, twice := seen[k]; twice {
			p.fail("%s %.200v is given twice", what, k)
			return
		}
		seen[k] = struct{}{}
	}
}

func (p *parser) str() string {
	p.want(`"`)
	if p.err != nil {
		return ""
	}
	if p.strings++; p.strings > MaxStrings {
		p.err = &SyntaxError{p.at, ErrTooLarge}
		return ""
	}
	// Most strings have no escapes and are a part of the text.
	start := p.at
	end := strings.IndexAny(p.text[start:], "\"\\\n\r\t")
	if end >= 0 && p.text[start+end] == '"' {
		p.at += end + 1
		return p.text[start : start+end]
	}
	return p.escaped()
}

func (p *parser) escaped() string {
	var b strings.Builder
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch c {
		case '"':
			return b.String()
		case '\n', '\r', '\t':
			p.at--
			p.fail("%q must be escaped", c)
			return ""
		case '\\':
			if p.at == len(p.text) {
				break
			}
			plain, ok := unescape(p.text[p.at])
			if !ok {
				p.fail("unknown escape %q", p.text[p.at])
				return ""
			}
			b.WriteByte(plain)
			p.at++
		default:
			b.WriteByte(c)
		}
	}
	p.fail("a string is not closed")
	return ""
}

func unescape(c byte) (byte, bool) {
	switch c {
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case '"', '\\':
		return c, true
	}
	return 0, false
}

func (p *parser) path() storepath.Path {
	at := p.at
	s := p.str()
	if p.err != nil {
		return storepath.Path{}
	}
	path, err := storepath.Parse(s)
	if err != nil {
		p.at = at
		p.fail("%w", err)
	}
	return path
}

func (p *parser) output() (o Output) {
	p.want("(")
	at := p.at
	o.Name = p.str()
	if p.err == nil && !isOutputName(o.Name) {
		p.at = at
		p.fail("%.100q cannot name an output", o.Name)
	}
	p.want(",")
	if p.have(`""`) {
		p.str()
	} else {
		o.Path = p.path()
	}
	p.want(",")
	o.HashAlgo = p.str()
	p.want(",")
	o.Hash = p.str()
	p.want(")")
	return o
}

// isOutputName reports whether s may be part of the name of a store item.
func isOutputName(s string) bool {
	_, err := storepath.ParseBase("00000000000000000000000000000000-x-" + s)
	return s != "" && err == nil
}

func (p *parser) input() (in Input) {
	p.want("(")
	at := p.at
	in.Path = p.path()
	if p.err == nil && !in.Path.Base.IsDerivation() {
		p.at = at
		p.fail("input %s is not a derivation", in.Path)
	}
	p.want(",")
	in.Outputs = list(p, (*parser).str)
	unique(p, "output of an input", in.Outputs, func(s string) string { return s })
	p.want(")")
	return in
}

func (p *parser) variable() (v Variable) {
	p.want("(")
	v.Name = p.str()
	p.want(",")
	v.Value = p.str()
	p.want(")")
	return v
}

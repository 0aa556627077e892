package narinfo

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nixbase32"
	"narfold/internal/storepath"
)

// Parse reads a narinfo of either dialect. It keeps a copy of raw.
//
// What it refuses beyond the limits of this package: any line that is not "Name: value" and LF; control characters; a missing
// StorePath, NarHash, NarSize, References or URL; a field given twice where the two clients would not choose the same one; names
// that are no store items; a reference listed twice; sizes that are not plain decimal numbers, and a NarSize of 0; URLs that
// are neither relative nor http(s), or that climb with dot segments; URLs with Compression, FileHash or FileSize for some and
// not for all; in Guix's dialect a NarHash in anything but nix-base32 and a URL without Compression; and a signature that does not
// cover StorePath, NarHash, NarSize and References. It does not check signatures.
func Parse(raw []byte) (*Narinfo, error) {
	if len(raw) > MaxSize {
		return nil, fault("", 0, ErrTooLarge, fmt.Errorf("%d bytes, limit %d", len(raw), MaxSize))
	}
	p := parser{n: &Narinfo{Raw: bytes.Clone(raw), signedLen: -1}}
	if err := p.lines(string(p.n.Raw)); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.n, nil
}

type parser struct {
	n       *Narinfo
	line    int
	seen    map[string]int // line on which a single field stands
	narHash string         // as written
	groups  []group
	loose   group // attributes before the first URL
}

// group is what stands between one URL and the next.
type group struct {
	url, compression, fileHash, fileSize         string
	urlLine, compressionLine, hashLine, sizeLine int
}

func fault(field string, line int, kind, cause error) error {
	return &FieldError{Field: field, Line: line, Kind: kind, Cause: cause}
}

func (p *parser) fault(field string, kind, cause error) error {
	return fault(field, p.line, kind, cause)
}

func (p *parser) lines(text string) error {
	if text == "" {
		return fault("StorePath", 0, ErrMissing, nil)
	}
	for at := 0; at < len(text); {
		p.line++
		if p.line > MaxLines {
			return fault("", p.line, ErrTooLarge, fmt.Errorf("more than %d lines", MaxLines))
		}
		end := strings.IndexByte(text[at:], '\n')
		if end < 0 {
			return p.fault("", ErrLine, errors.New("the last line is not ended"))
		}
		if err := p.field(text[at:at+end], at); err != nil {
			return err
		}
		at += end + 1
	}
	return p.marker(text)
}

// marker checks that the first "Signature:" of the text, where Guix cuts off the signed part, is the field of that name.
func (p *parser) marker(text string) error {
	if first := strings.Index(text, marker); first != p.n.signedLen {
		return fault("Signature", 1+strings.Count(text[:max(first, 0)], "\n"), ErrUncovered, errors.New("the word \"Signature:\" stands elsewhere before it"))
	}
	return nil
}

const marker = "Signature:"

func (p *parser) field(line string, at int) error {
	if line == "" {
		return p.fault("", ErrLine, errors.New("blank line"))
	}
	if line[len(line)-1] == '\r' {
		return p.fault("", ErrLine, errors.New("ended by CR and LF"))
	}
	if !clean(line) {
		return p.fault("", ErrControl, nil)
	}
	name, value, ok := strings.Cut(line, ": ")
	if !ok || !isName(name) {
		return p.fault("", ErrLine, fmt.Errorf("have %q", clip(line)))
	}
	n := p.n
	switch name {
	case "URL":
		if len(p.groups) == MaxFiles {
			return p.fault(name, ErrTooLarge, fmt.Errorf("more than %d", MaxFiles))
		}
		p.groups = append(p.groups, group{url: value, urlLine: p.line})
		return nil
	case "Compression", "FileHash", "FileSize":
		return p.attribute(name, value)
	case "Sig":
		n.Sigs = append(n.Sigs, value)
		return nil
	case "StorePath", "NarHash", "NarSize", "References", "Deriver", "System", "CA", "Signature":
	default:
		n.Unknown = append(n.Unknown, Field{name, value})
		return nil
	}
	if first, twice := p.seen[name]; twice {
		return p.fault(name, ErrDuplicate, fmt.Errorf("first on line %d", first))
	}
	if p.seen == nil {
		p.seen = make(map[string]int, 8)
	}
	p.seen[name] = p.line
	return p.single(name, value, at)
}

// attribute notes a line that belongs to the URL above it. A narinfo with one URL may have its attributes in any order.
func (p *parser) attribute(name, value string) error {
	g := &p.loose
	if len(p.groups) > 0 {
		g = &p.groups[len(p.groups)-1]
	}
	text, line := &g.compression, &g.compressionLine
	switch name {
	case "FileHash":
		text, line = &g.fileHash, &g.hashLine
	case "FileSize":
		text, line = &g.fileSize, &g.sizeLine
	}
	if *line != 0 {
		return p.fault(name, ErrGroups, fmt.Errorf("a second one for the same URL, first on line %d", *line))
	}
	*text, *line = value, p.line
	return nil
}

func (p *parser) single(name, value string, at int) (err error) {
	n := p.n
	switch name {
	case "StorePath":
		if n.StorePath, err = storepath.Parse(value); err != nil {
			return p.fault(name, ErrPath, err)
		}
	case "NarHash":
		p.narHash = value
		if n.NarHash, err = digest.Parse(value); err != nil {
			return p.fault(name, ErrHash, err)
		}
	case "NarSize":
		if n.NarSize, err = parseSize(value); err != nil {
			return p.fault(name, ErrSize, err)
		}
		if n.NarSize == 0 {
			return p.fault(name, ErrSize, errors.New("no nar is empty"))
		}
	case "References":
		return p.references(value)
	case "Deriver":
		if value == "" || value == "unknown-deriver" { // the second is Nix's word for it
			return nil
		}
		if n.Deriver, err = storepath.ParseBase(value); err != nil {
			return p.fault(name, ErrPath, err)
		}
	case "System":
		n.System = value
	case "CA":
		n.CA = value
	case "Signature":
		if value == "" {
			return p.fault(name, ErrMissing, errors.New("no value"))
		}
		n.Signature, n.signedLen = value, at
	}
	return nil
}

func (p *parser) references(value string) error {
	if value == "" {
		return nil
	}
	count := 1 + strings.Count(value, " ")
	if count > MaxReferences {
		return p.fault("References", ErrTooLarge, fmt.Errorf("%d items, limit %d", count, MaxReferences))
	}
	refs := make([]storepath.Base, 0, count)
	ascending := true
	for word := range strings.SplitSeq(value, " ") {
		ref, err := storepath.ParseBase(word)
		if err != nil {
			return p.fault("References", ErrPath, err)
		}
		if len(refs) > 0 && ref <= refs[len(refs)-1] {
			ascending = false
		}
		refs = append(refs, ref)
	}
	if !ascending { // as both projects write them, so that the set is rarely needed
		set := make(map[storepath.Base]struct{}, len(refs))
		for _, ref := range refs {
			if _, twice := set[ref]; twice {
				return p.fault("References", ErrDuplicate, fmt.Errorf("%s", ref))
			}
			set[ref] = struct{}{}
		}
	}
	p.n.References = refs
	return nil
}

// finish checks what only the whole text can tell.
func (p *parser) finish() error {
	n := p.n
	for _, name := range []string{"StorePath", "NarHash", "NarSize", "References"} {
		line := p.seen[name]
		if line == 0 {
			return fault(name, 0, ErrMissing, nil)
		}
		if signature := p.seen["Signature"]; signature != 0 && line > signature {
			return fault(name, line, ErrUncovered, fmt.Errorf("stands below the signature of line %d", signature))
		}
	}
	if n.IsGuix() && len(p.narHash) != len("sha256:")+nixbase32.EncodedLen(len(n.NarHash)) {
		return fault("NarHash", p.seen["NarHash"], ErrHash, errors.New("Guix reads nix-base32 only"))
	}
	return p.files()
}

func (p *parser) files() error {
	if len(p.groups) == 0 {
		return fault("URL", 0, ErrMissing, nil)
	}
	first := &p.groups[0]
	if p.loose != (group{}) {
		if err := p.adopt(first); err != nil {
			return err
		}
	}
	p.n.Files = make([]File, len(p.groups))
	for i := range p.groups {
		g := &p.groups[i]
		if (g.compressionLine == 0) != (first.compressionLine == 0) {
			return fault("Compression", g.urlLine, ErrGroups, errors.New("given for some URLs and not for all"))
		}
		if (g.hashLine == 0) != (first.hashLine == 0) {
			return fault("FileHash", g.urlLine, ErrGroups, errors.New("given for some URLs and not for all"))
		}
		if (g.sizeLine == 0) != (first.sizeLine == 0) {
			return fault("FileSize", g.urlLine, ErrGroups, errors.New("given for some URLs and not for all"))
		}
		f, err := g.file(p.n.IsGuix())
		if err != nil {
			return err
		}
		p.n.Files[i] = f
	}
	return nil
}

// adopt gives the only URL the attributes that stand above it.
func (p *parser) adopt(only *group) error {
	above := p.loose
	clash := above.compressionLine != 0 && only.compressionLine != 0 || above.hashLine != 0 && only.hashLine != 0 || above.sizeLine != 0 && only.sizeLine != 0
	if len(p.groups) > 1 || clash {
		line := max(above.compressionLine, above.hashLine, above.sizeLine)
		return fault("URL", line, ErrGroups, errors.New("an attribute stands above the first URL"))
	}
	if above.compressionLine != 0 {
		only.compression, only.compressionLine = above.compression, above.compressionLine
	}
	if above.hashLine != 0 {
		only.fileHash, only.hashLine = above.fileHash, above.hashLine
	}
	if above.sizeLine != 0 {
		only.fileSize, only.sizeLine = above.fileSize, above.sizeLine
	}
	return nil
}

func (g *group) file(guix bool) (f File, err error) {
	f = File{URL: g.url, Compression: compress.Method(g.compression), FileSize: UnknownSize}
	if err := CheckURL(g.url); err != nil {
		return File{}, fault("URL", g.urlLine, ErrURL, err)
	}
	if g.compressionLine == 0 {
		if guix {
			return File{}, fault("Compression", g.urlLine, ErrMissing, errors.New("for this URL"))
		}
		f.Compression = compress.Bzip2 // what Nix takes it for
	} else if !isToken(g.compression) {
		return File{}, fault("Compression", g.compressionLine, ErrGroups, fmt.Errorf("have %q", clip(g.compression)))
	}
	if g.hashLine != 0 {
		if f.FileHash, err = digest.Parse(g.fileHash); err != nil {
			return File{}, fault("FileHash", g.hashLine, ErrHash, err)
		}
	}
	if g.sizeLine != 0 {
		if f.FileSize, err = parseSize(g.fileSize); err != nil {
			return File{}, fault("FileSize", g.sizeLine, ErrSize, err)
		}
	}
	return f, nil
}

// parseSize reads a decimal number as both projects write it: digits, no sign, no leading zero, below 2^63.
func parseSize(s string) (int64, error) {
	if s == "" || len(s) > 19 || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("have %q", clip(s))
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("have %q", clip(s))
		}
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is 2^63 or more", s)
	}
	return v, nil
}

// isName reports whether s may stand before the colon: what Guix and Nix both take for a field's name.
func isName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '_') {
			return false
		}
	}
	return true
}

// isToken reports whether s may be the name of a compression.
func isToken(s string) bool {
	if s == "" || len(s) > 40 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' && c != '+' {
			return false
		}
	}
	return true
}

// clean reports whether s is UTF-8 without control characters.
func clean(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return cleanUTF8(s)
		}
	}
	return true
}

func cleanUTF8(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return false
		}
	}
	return true
}

// clip keeps hostile text from filling an error message.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

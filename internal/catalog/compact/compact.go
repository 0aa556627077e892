// Package compact stores a narinfo in a tenth of its bytes and gives back exactly those bytes, which signatures cover.
//
// Nearly all of a narinfo is known to a catalogue anyhow, or is the same in a million others. Split divides the text into a template, of
// which a catalogue has some dozens and keeps each once, and the bytes that are this narinfo's own: the hash part of its
// deriver and the 64 bytes of its signature, mostly. What the catalogue knows (path, nar, references, files) has marks in the
// template. Join puts all together again. A text that would not come out the same is not split.
package compact

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/nixbase32"
	"narfold/internal/storepath"
)

// Facts are what a catalogue knows of an item beside its narinfo.
type Facts struct {
	Path       storepath.Path
	NarHash    digest.SHA256
	NarSize    int64
	References []storepath.Base // ascending, each once, without the item itself
	Files      []File
}

// File is a compressed form of the nar.
type File struct {
	Compression compress.Method
	Size        int64
	SHA256      digest.SHA256
}

// ErrCorrupt says that a template and its bytes do not belong together, or not to these facts.
var ErrCorrupt = errors.New("compact narinfo is damaged")

// A mark is markByte and one of these. The arguments come one after the other in the order of their marks.
const (
	markByte = 1 // which no narinfo may contain

	markPath       = 'P' // the whole store path
	markBase       = 'E' // the base name as URLs have it
	markNarHash    = 'H'
	markNarSize    = 'N'
	markOthers     = 'R' // the references
	markReferences = 'r' // the references and the item itself
	markDeriver    = 'D' // argument: 20 bytes of a hash part; the name is the item's and ".drv"
	markNamed      = 'd' // argument: 20 bytes of a hash part, and the name like a literal
	markLiteral    = 'L' // argument: a length in uvarint, and so many bytes
	markNumber     = 'U' // argument: an uvarint
	markFileHash   = 'F' // and the name of a compression and ';': that file's SHA256 in nix-base32
	markFileSize   = 'Z' // likewise
	markHash       = 'X' // argument: 32 bytes, shown in nix-base32
	markSameHash   = 'x' // the last of these again
	markSignature  = 'S' // argument: 64 bytes, shown in base64
	markSexp       = 'G' // what follows until markSexpEnd is shown in base64
	markSexpEnd    = 'g'
	markDigest     = 'h' // within it: the SHA-256 of the text before the line, in hexadecimal
	markInteger    = 'i' // within it: argument: a byte with the length, and so many bytes, shown in hexadecimal
)

// Split divides text, which is the narinfo of an item with these facts. It reports false if Join would not give the same bytes.
func Split(text []byte, f Facts) (template string, own []byte, ok bool) {
	s := splitter{facts: f}
	for at := 0; at < len(text); {
		end := bytes.IndexByte(text[at:], '\n')
		if end < 0 {
			return "", nil, false
		}
		s.line(string(text[at:at+end]), text[:at])
		s.template = append(s.template, '\n')
		at += end + 1
	}
	template = string(s.template)
	again, err := Join(make([]byte, 0, len(text)), template, s.own, f)
	if err != nil || !bytes.Equal(again, text) {
		return "", nil, false
	}
	return template, s.own, true
}

type splitter struct {
	facts    Facts
	template []byte
	own      []byte

	method compress.Method // of the group of lines that is being read
	hash   digest.SHA256   // the last argument of markHash
	hashed bool
}

func (s *splitter) constant(text string) { s.template = append(s.template, text...) }

func (s *splitter) mark(code byte) { s.template = append(s.template, markByte, code) }

func (s *splitter) literal(text string) {
	s.mark(markLiteral)
	s.argument(text)
}

// argument adds a string of any length.
func (s *splitter) argument(text string) {
	s.own = binary.AppendUvarint(s.own, uint64(len(text)))
	s.own = append(s.own, text...)
}

// line divides one line; before is the text above it.
func (s *splitter) line(line string, before []byte) {
	name, value, ok := strings.Cut(line, ": ")
	if !ok {
		s.literal(line)
		return
	}
	from := len(s.template)
	s.constant(name + ": ")
	f := &s.facts
	switch {
	case name == "StorePath" && value == f.Path.String():
		s.mark(markPath)
	case name == "NarHash" && value == f.NarHash.String():
		s.mark(markNarHash)
	case name == "NarSize" && value == strconv.FormatInt(f.NarSize, 10):
		s.mark(markNarSize)
	case name == "References" && value == string(appendReferences(nil, f, false)):
		s.mark(markOthers)
	case name == "References" && value == string(appendReferences(nil, f, true)):
		s.mark(markReferences)
	case name == "Deriver" && s.deriver(value):
	case name == "System" && len(value) <= 40 && !strings.Contains(value, " "):
		s.constant(value)
	case name == "URL" && s.url(value):
	case name == "Compression" && knownMethod(value):
		s.method = compress.Method(value)
		s.constant(value)
	case name == "FileHash" && s.fileHash(value):
	case name == "FileSize" && s.fileSize(value):
	case name == "Sig" && s.sig(value):
	case name == "Signature" && s.signature(value, before):
	case name == "References", name == "Deriver", name == "URL", name == "FileHash", name == "Sig", name == "Signature", name == "CA":
		s.literal(value)
	default:
		// A name that nobody knows may be another one in each narinfo.
		s.template = s.template[:from]
		s.literal(line)
	}
}

func knownMethod(name string) bool {
	_, err := compress.ParseMethod(name)
	return err == nil
}

func (s *splitter) deriver(value string) bool {
	b, err := storepath.ParseBase(value)
	if err != nil {
		return false
	}
	hash := b.HashPart().Bytes()
	code := byte(markNamed)
	if b.Name() == s.facts.Path.Name()+".drv" {
		code = markDeriver
	}
	s.mark(code)
	s.own = append(s.own, hash[:]...)
	if code == markNamed {
		s.argument(b.Name())
	}
	return true
}

// url knows what servers of the field write: a folder, and the item's name or the hash of the file.
func (s *splitter) url(value string) bool {
	if rest, ok := strings.CutSuffix(value, narinfo.EscapeBase(s.facts.Path.Base)); ok && len(rest) <= 100 {
		s.constant(rest)
		s.mark(markBase)
		return true
	}
	const digits = 52
	slash := strings.LastIndexByte(value, '/') + 1
	if len(value) < slash+digits || slash > 100 || len(value) > slash+digits+20 {
		return false
	}
	var hash digest.SHA256
	if nixbase32.Decode(hash[:], value[slash:slash+digits]) != nil {
		return false
	}
	s.constant(value[:slash])
	s.sha256(hash)
	s.constant(value[slash+digits:])
	return true
}

// sha256 marks the hash of a file.
func (s *splitter) sha256(hash digest.SHA256) {
	for _, f := range s.facts.Files {
		if f.SHA256 == hash {
			s.mark(markFileHash)
			s.constant(string(f.Compression) + ";")
			return
		}
	}
	if s.hashed && s.hash == hash {
		s.mark(markSameHash)
		return
	}
	s.hash, s.hashed = hash, true
	s.mark(markHash)
	s.own = append(s.own, hash[:]...)
}

func (s *splitter) fileHash(value string) bool {
	hash, err := digest.Parse(value)
	if err != nil || value != hash.String() {
		return false
	}
	s.constant("sha256:")
	s.sha256(hash)
	return true
}

func (s *splitter) fileSize(value string) bool {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil || value != strconv.FormatUint(n, 10) {
		return false
	}
	for _, f := range s.facts.Files {
		if f.Compression == s.method && uint64(f.Size) == n {
			s.mark(markFileSize)
			s.constant(string(f.Compression) + ";")
			return true
		}
	}
	s.mark(markNumber)
	s.own = binary.AppendUvarint(s.own, n)
	return true
}

// sig divides a signature as Nix makes it: the name of a key, and 64 bytes.
func (s *splitter) sig(value string) bool {
	name, text, ok := strings.Cut(value, ":")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) != 64 || len(name) > 200 {
		return false
	}
	s.constant(name + ":")
	s.mark(markSignature)
	s.own = append(s.own, raw...)
	return true
}

// signature divides one as Guix makes it: a version, a host and an s-expression in base64, of which the hash of the text above and
// the two integers r and s are this narinfo's own, and the public key and all else the signer's.
func (s *splitter) signature(value string, before []byte) bool {
	at := strings.LastIndexByte(value, ';') + 1
	sexp, err := base64.StdEncoding.DecodeString(value[at:])
	if err != nil || at > 300 || len(sexp) > 2000 || bytes.IndexByte(sexp, markByte) >= 0 {
		return false
	}
	s.constant(value[:at])
	s.mark(markSexp)
	hash := digest.Of(before)
	above := strings.ToUpper(hex.EncodeToString(hash[:]))
	for i, part := range strings.Split(string(sexp), "#") {
		if i > 0 {
			s.constant("#")
		}
		opened := s.template[:len(s.template)-min(1, i)]
		integer := bytes.HasSuffix(opened, []byte("(r ")) || bytes.HasSuffix(opened, []byte("(s "))
		raw, err := hex.DecodeString(part)
		switch {
		case part == above:
			s.mark(markDigest)
		case i%2 == 1 && integer && err == nil && len(raw) < 256:
			s.mark(markInteger)
			s.own = append(append(s.own, byte(len(raw))), raw...)
		default:
			s.constant(part)
		}
	}
	s.mark(markSexpEnd)
	return true
}

func appendReferences(b []byte, f *Facts, self bool) []byte {
	from := len(b)
	put := func(r storepath.Base) {
		if len(b) > from {
			b = append(b, ' ')
		}
		b = append(b, r...)
	}
	for _, r := range f.References {
		if self && r > f.Path.Base {
			put(f.Path.Base)
			self = false
		}
		put(r)
	}
	if self {
		put(f.Path.Base)
	}
	return b
}

// References returns the references of the text that was split into template, in its order and with the item itself if it has it. It
// reports false if they are among the bytes that are the narinfo's own; then parse what Join gives.
func References(template string, f Facts) (refs []storepath.Base, ok bool) {
	switch {
	case strings.Contains(template, "References: \x01R\n"):
		return f.References, true
	case strings.Contains(template, "References: \x01r\n"):
		i, _ := slices.BinarySearch(f.References, f.Path.Base)
		return slices.Insert(slices.Clone(f.References), i, f.Path.Base), true
	}
	return nil, false
}

// Join appends the text that was split to dst.
func Join(dst []byte, template string, own []byte, f Facts) ([]byte, error) {
	j := joiner{facts: f, text: dst, from: len(dst), own: own}
	for rest := template; rest != ""; {
		at := strings.IndexByte(rest, markByte)
		if at < 0 {
			j.constant(rest)
			break
		}
		j.constant(rest[:at])
		if len(rest) < at+2 {
			return dst, fmt.Errorf("%w: the template ends in a mark", ErrCorrupt)
		}
		var err error
		if rest, err = j.mark(rest[at+1], rest[at+2:]); err != nil {
			return dst, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	if len(j.own) > 0 || j.inSexp {
		return dst, fmt.Errorf("%w: %d bytes are left, or an s-expression has no end", ErrCorrupt, len(j.own))
	}
	return j.text, nil
}

type joiner struct {
	facts Facts
	text  []byte
	from  int // where this narinfo begins in text
	own   []byte

	hash   digest.SHA256
	inSexp bool
	sexp   int // where it begins
}

func (j *joiner) constant(text string) { j.text = append(j.text, text...) }

var (
	errShort  = errors.New("an argument is missing")
	errNoFile = errors.New("there is no such file")
)

// take cuts n bytes from the arguments.
func (j *joiner) take(n uint64) ([]byte, error) {
	if uint64(len(j.own)) < n {
		return nil, errShort
	}
	b := j.own[:n]
	j.own = j.own[n:]
	return b, nil
}

func (j *joiner) number() (uint64, error) {
	n, size := binary.Uvarint(j.own)
	if size <= 0 {
		return 0, errShort
	}
	j.own = j.own[size:]
	return n, nil
}

func (j *joiner) argument() error {
	n, err := j.number()
	if err != nil {
		return err
	}
	b, err := j.take(n)
	j.text = append(j.text, b...)
	return err
}

// mark puts in what a mark stands for, and returns the template after it.
func (j *joiner) mark(code byte, rest string) (string, error) {
	f := &j.facts
	switch code {
	case markPath:
		j.constant(string(f.Path.Dir))
		j.constant("/")
		j.constant(string(f.Path.Base))
	case markBase:
		j.constant(narinfo.EscapeBase(f.Path.Base))
	case markNarHash:
		j.constant("sha256:")
		j.base32(f.NarHash[:])
	case markNarSize:
		j.text = strconv.AppendInt(j.text, f.NarSize, 10)
	case markOthers, markReferences:
		j.text = appendReferences(j.text, f, code == markReferences)
	case markDeriver, markNamed:
		hash, err := j.take(20)
		if err != nil {
			return rest, err
		}
		j.base32(hash)
		j.constant("-")
		if code == markNamed {
			return rest, j.argument()
		}
		j.constant(f.Path.Name())
		j.constant(".drv")
	case markLiteral:
		return rest, j.argument()
	case markNumber:
		n, err := j.number()
		j.text = strconv.AppendUint(j.text, n, 10)
		return rest, err
	case markFileHash, markFileSize:
		method, after, _ := strings.Cut(rest, ";")
		i := slices.IndexFunc(f.Files, func(f File) bool { return string(f.Compression) == method })
		if i < 0 {
			return rest, errNoFile
		}
		if code == markFileSize {
			j.text = strconv.AppendInt(j.text, f.Files[i].Size, 10)
		} else {
			j.base32(f.Files[i].SHA256[:])
		}
		return after, nil
	case markHash:
		hash, err := j.take(32)
		if err != nil {
			return rest, err
		}
		copy(j.hash[:], hash)
		j.base32(j.hash[:])
	case markSameHash:
		j.base32(j.hash[:])
	case markSignature:
		raw, err := j.take(64)
		j.text = base64.StdEncoding.AppendEncode(j.text, raw)
		return rest, err
	case markSexp:
		j.sexp, j.inSexp = len(j.text), true
	case markSexpEnd:
		if !j.inSexp {
			return rest, errors.New("an s-expression ends that did not begin")
		}
		sexp := slices.Clone(j.text[j.sexp:])
		j.text, j.inSexp = base64.StdEncoding.AppendEncode(j.text[:j.sexp], sexp), false
	case markDigest:
		line := max(bytes.LastIndexByte(j.text[:min(j.sexp, len(j.text))], '\n')+1, j.from)
		sum := digest.Of(j.text[j.from:line])
		j.hex(sum[:])
	case markInteger:
		n, err := j.take(1)
		if err != nil {
			return rest, err
		}
		raw, err := j.take(uint64(n[0]))
		j.hex(raw)
		return rest, err
	default:
		return rest, fmt.Errorf("mark %q is not known", code)
	}
	return rest, nil
}

func (j *joiner) base32(b []byte) { j.constant(nixbase32.Encode(b)) }

func (j *joiner) hex(b []byte) {
	const digits = "0123456789ABCDEF"
	for _, c := range b {
		j.text = append(j.text, digits[c>>4], digits[c&15])
	}
}

package sexp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func ExampleSexp_String() {
	key, err := Parse([]byte(`(public-key(ecc(curve "Ed25519")(q #ff01#)))`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(strings.ReplaceAll(key.String(), " \n", "\n"))
	// Output:
	// (public-key
	//  (ecc
	//   (curve Ed25519)
	//   (q #FF01#)
	//   )
	//  )
}

// What each text is printed as was seen with libgcrypt 1.10.1.
func TestEverySpellingPrintsAsLibgcryptPrintsIt(t *testing.T) {
	for text, want := range map[string]string{
		"(a |YWJj| b)":                 "(a abc b)\n",
		"(a #61002062#)":               "(a \"a\\x00 b\")\n",
		"(a #41A1B2C3#)":               "(a \"A\xa1\xb2\xc3\")\n",
		"(a #417f#)":                   "(a #417F#)\n",
		"(a ##)":                       "(a \"\")\n",
		`(a "")`:                       "(a \"\")\n",
		"()":                           "()\n",
		"(a #6 1#)":                    "(a a)\n",
		"(a \"x\\\ny\")":               "(a xy)\n",
		"(a \"x\\\r\ny\")":             "(a xy)\n",
		"(a \"x\\\n\ry\")":             "(a xy)\n",
		`(a b"c"d#61#e)`:               "(a b c d a e)\n",
		"(a #30#)":                     "(a \"0\")\n",
		"(a #3161#)":                   "(a \"1a\")\n",
		"(a -x)":                       "(a -x)\n",
		"(a\vb\fc)":                    "(a b c)\n",
		"(a \"b\nc\")":                 "(a \"b\\nc\")\n",
		"((a))":                        "(\n (a)\n )\n",
		`("a" (b c) d (e))`:            "(a \n (b c)\n d \n (e)\n )\n",
		"(a () b)":                     "(a \n ()\n b)\n",
		" \n(a)\n ":                    "(a)\n",
		"(a #09#)":                     "(a \"\\t\")\n",
		"(a #61270a#)":                 "(a \"a\\'\\n\")\n",
		`(a "\x41\101\b\'\"\\")`:       "(a \"AA\\b\\'\\\"\\\\\")\n",
		`(a "\t\v\f\r\n")`:             "(a \"\\t\\v\\f\\r\\n\")\n",
		"(a \"x\" \"y\")":              "(a x y)\n",
		"(a #61#62#63#)":               "", // the digits between are a token that begins with one
		"(a #00ff#)":                   "(a #00FF#)\n",
		"(a \"\xff\")":                 "(a #FF#)\n",
		"(A-./_:*+=9 " + `"a~b"` + ")": "(A-./_:*+=9 \"a~b\")\n",
	} {
		s, err := Parse([]byte(text))
		if want == "" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, %v", text, s, err)
			}
			continue
		}
		if err != nil || s.String() != want {
			t.Errorf("%s: %q, %v", text, s, err)
		}
	}
}

func TestOtherTextIsRefused(t *testing.T) {
	for _, text := range []string{
		"", " ", "x", "(a", "a)", "(a))", "(a) x", "(a)(b)", "(a 1b)", "(a 3:abc)", "(a 03:abc)", "(a 3#616263#)", "(9:signature)",
		"(a #61 6#)", "(a #6", "(a #6g#)", "(a #61;62#)", `(a "\q")`, `(a "\x4")`, `(a "\19")`, `(a "\400")`, `(a "`, `(a "\`, `(a "\x`, `(a "\0`,
		"(a |YW|)", "(a |YWJj", "(a |Y!==|)", "(a [text/plain]b)", "(a ~)", "(a {b})", "(a $b)", "(a 'b)", "(a &b)", "(a \\b)", "(a ;c\n b)",
		"(a \xe9)", "(a \x00)",
	} {
		s, err := Parse([]byte(text))
		var at *SyntaxError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &at) || at.Offset > len(text) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
	deep := strings.Repeat("(", MaxDepth) + strings.Repeat(")", MaxDepth)
	if _, err := Parse([]byte(deep)); err != nil {
		t.Errorf("%d lists: %v", MaxDepth, err)
	}
	if _, err := Parse([]byte("(" + deep + ")")); !errors.Is(err, ErrTooDeep) {
		t.Errorf("%d lists: %v", MaxDepth+1, err)
	}
	if _, err := Parse([]byte("(" + strings.Repeat("a ", MaxItems+1) + ")")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many items: %v", err)
	}
	if _, err := Parse(bytes.Repeat([]byte(" "), MaxSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
}

func TestEqualLooksAtTheStructure(t *testing.T) {
	parse := func(text string) Sexp {
		s, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := parse("(a (b #63#) ())")
	if !a.Equal(parse(`("a"(|Yg==| c)())`)) || !a.Equal(List(Token("a"), List(Atom([]byte("b")), Token("c")), List())) {
		t.Error("other spellings are not equal")
	}
	for _, text := range []string{"(a (b c) d)", "(a (b c))", "(a (b c) () ())", "(a (b d) ())", `(a (b c) "")`, "((a) (b c) ())"} {
		if a.Equal(parse(text)) || parse(text).Equal(a) {
			t.Errorf("%s is equal", text)
		}
	}
	if tail, ok := a.Tail("a"); !ok || len(tail) != 2 || !tail[0].IsList() || tail[0].Bytes() != nil || len(tail[0].Items()) != 2 {
		t.Errorf("tail is %v, %v", tail, ok)
	}
	if _, ok := Token("a").Tail("a"); ok {
		t.Error("an atom has a tail")
	}
}

// random makes an expression of bytes that bring out all three forms of atoms.
func random(r *rand.Rand, depth int) Sexp {
	if depth > 0 && r.IntN(3) == 0 || depth == 5 {
		items := make([]Sexp, r.IntN(5))
		for i := range items {
			items[i] = random(r, depth-1)
		}
		return List(items...)
	}
	alphabet := []string{"abcXYZ019-./_:*+=", "a b\"'\\\n\t\r\f\v\b~", "a\xa1\xff\xa0", "a\x01\x7f\x80", "\x00 \xa1"}[r.IntN(5)]
	b := make([]byte, r.IntN(12))
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return Atom(b)
}

func TestPrintingEqualsLibgcrypt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var in bytes.Buffer
	var ours []Sexp
	for range 3000 {
		s := random(r, 5)
		if tokenWithNUL(s) {
			continue // printed otherwise by intent
		}
		ours = append(ours, s)
		fmt.Fprintln(&in, hex.EncodeToString([]byte(hexForm(s))))
	}
	guile, err := exec.LookPath("guile")
	if err != nil {
		t.Fatal("want the Debian packages guile-3.0 and guile-gcrypt: ", err)
	}
	cmd := exec.CommandContext(t.Context(), guile, "--no-auto-compile", "testdata/reprint.scm")
	cmd.Stdin = &in
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("guile (Debian packages guile-3.0, guile-gcrypt): %v: %s", err, &problems)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(ours) {
		t.Fatalf("%d answers to %d expressions", len(lines), len(ours))
	}
	for i, s := range ours {
		if got := hex.EncodeToString(s.Append(nil)); got != lines[i] {
			theirs, _ := hex.DecodeString(lines[i])
			t.Errorf("%s:\n ours   %q\n theirs %q", hexForm(s), s, theirs)
		}
	}
}

// hexForm spells every atom in hexadecimal.
func hexForm(s Sexp) string {
	if !s.IsList() {
		return fmt.Sprintf("#%x#", s.Bytes())
	}
	var b strings.Builder
	for _, item := range s.Items() {
		b.WriteString(hexForm(item))
	}
	return "(" + b.String() + ")"
}

func tokenWithNUL(s Sexp) bool {
	b := bytes.ReplaceAll(s.Bytes(), []byte{0}, []byte("a"))
	if !s.IsList() && bytes.IndexByte(s.Bytes(), 0) > 0 && form(b) == asToken {
		return true
	}
	for _, item := range s.Items() {
		if tokenWithNUL(item) {
			return true
		}
	}
	return false
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"(a |YWJj| b)", "(signature \n (data \n  (flags rfc6979)\n  (hash sha256 #00FF#)\n  )\n )\n", `("a\x00\101\
b" (c) () d#61#)`, "((((()))))", "(a \"\xa1\xff\")", "(a 3:abc)", "(#6100#)"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		printed := s.Append(nil)
		if len(printed) > MaxSize {
			return
		}
		back, err := Parse(printed)
		if err != nil || !back.Equal(s) {
			t.Fatalf("%q printed as %q reads back as %v, %v", text, printed, back, err)
		}
		if again := back.Append(nil); !bytes.Equal(again, printed) {
			t.Fatalf("%q printed anew as %q", printed, again)
		}
	})
}

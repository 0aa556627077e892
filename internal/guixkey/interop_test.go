package guixkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// guile runs a script of testdata and returns its standard output. A verdict other than success is its exit status 1.
func guile(t testing.TB, stdin []byte, script string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("guile")
	if err != nil {
		t.Fatal("want the Debian packages guile-3.0 and guile-gcrypt: ", err)
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"--no-auto-compile", filepath.Join("testdata", script)}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil && problems.Len() > 0 {
		t.Fatalf("guile (Debian packages guile-3.0, guile-gcrypt): %v: %s", err, &problems)
	}
	return string(out), err
}

func h(b []byte) string { return hex.EncodeToString(b) }

// randomBody makes a narinfo's signed part.
func randomBody(r *rand.Rand) []byte {
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0123456789abcdfghijklmnpqrsvwxyz"[r.IntN(32)]
		}
		return string(b)
	}
	var refs []string
	for range r.IntN(30) {
		refs = append(refs, fmt.Sprintf("%s-package-%d", digits(32), r.IntN(1000)))
	}
	return fmt.Appendf(nil, "StorePath: /gnu/store/%s-item\nNarHash: sha256:0%s\nNarSize: %d\nReferences: %s\n",
		digits(32), digits(51), 1+r.Int64N(1<<40), strings.Join(refs, " "))
}

type made struct {
	secret *Secret
	body   []byte
	value  string
}

// search makes signatures until the expression is of the wanted kind.
func search(t *testing.T, r *rand.Rand, secret *Secret, wanted func(text []byte) bool) made {
	t.Helper()
	for range 1_000_000 {
		body := randomBody(r)
		text := secret.signature(sha256.Sum256(body)).Append(nil)
		if wanted(text) {
			return made{secret, body, mustSign(t, secret, body, "h")}
		}
	}
	t.Fatal("no such signature in a million")
	return made{}
}

// TestLibgcryptAndWeAgree gives one Guile process 240 keys of ours and has it make 60 of its own.
func TestLibgcryptAndWeAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	random := rand.NewChaCha8([32]byte{7})
	generate := func() *Secret {
		s, err := Generate(random)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var ours []made
	short := 0
	for i := range 240 {
		m := made{secret: generate(), body: randomBody(r)}
		m.value = mustSign(t, m.secret, m.body, fmt.Sprintf("host-%d.example", i))
		p, err := parseSignature(m.value[strings.LastIndexByte(m.value, ';')+1:])
		if err != nil {
			t.Fatal(err)
		}
		if len(p.r) < 32 || len(p.s) < 32 {
			short++
		}
		ours = append(ours, m)
	}
	if short == 0 {
		t.Error("no r or s begins with a zero byte: want more tries")
	}
	// The rare forms: a hash, an r or s, and a key that libgcrypt prints as a string.
	ours = append(ours, search(t, r, ours[0].secret, func(text []byte) bool { return bytes.Contains(text, []byte(`sha256 "`)) }))
	ours = append(ours, search(t, r, ours[0].secret, func(text []byte) bool {
		return bytes.Contains(text, []byte(`(r "`)) || bytes.Contains(text, []byte(`(s "`))
	}))
	for {
		s := generate()
		if bytes.Contains(s.Public().File(), []byte(`(q "`)) {
			m := made{secret: s, body: randomBody(r)}
			m.value = mustSign(t, s, m.body, "h")
			ours = append(ours, m)
			break
		}
	}

	var in bytes.Buffer
	for _, m := range ours {
		_, rest, _ := strings.Cut(m.value, ";")
		host, packed, _ := strings.Cut(rest, ";")
		pub, sec := h(m.secret.Public().File()), h(m.secret.File())
		fmt.Fprintln(&in, "sign", pub, sec, host, h(m.body))
		fmt.Fprintln(&in, "check", pub, h(m.body), packed)
		fmt.Fprintln(&in, "check", pub, h(append([]byte("X: y\n"), m.body...)), packed)
		fmt.Fprintln(&in, "acl", pub, h(ours[0].secret.Public().File()))
	}
	const theirs = 60
	bodies := make([][]byte, theirs)
	for i := range bodies {
		bodies[i] = randomBody(r)
		fmt.Fprintln(&in, "make", "their.example", h(bodies[i]))
	}
	out, err := guile(t, in.Bytes(), "batch.scm")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if want := 4*len(ours) + theirs; len(lines) != want {
		t.Fatalf("%d answers, want %d", len(lines), want)
	}
	for i, m := range ours {
		signed, valid, invalid, acl := lines[4*i], lines[4*i+1], lines[4*i+2], lines[4*i+3]
		if signed != m.value {
			t.Errorf("key %s: they sign\n%s\nwe\n%s", m.secret.Public(), plain(signed), plain(m.value))
		}
		if valid != "valid" || invalid != "invalid" {
			t.Errorf("key %s: their verdicts are %s and %s", m.secret.Public(), valid, invalid)
		}
		list := Authorize(m.secret.Public(), ours[0].secret.Public())
		if want := h(list.File()); i > 0 && acl != want {
			t.Errorf("their access list is %s, ours %s", acl, want)
		}
		if _, err := VerifyBody(m.body, signed, list); err != nil {
			t.Error(err)
		}
	}
	for i, line := range lines[4*len(ours):] {
		word := strings.Fields(line)
		pub, sec := unhex(t, word[0]), unhex(t, word[1])
		secret := mustSecret(t, sec)
		if !bytes.Equal(secret.File(), sec) || !bytes.Equal(secret.Public().File(), pub) {
			t.Errorf("their key is written otherwise:\n%s%s", pub, sec)
		}
		if got := mustSign(t, secret, bodies[i], "their.example"); got != word[2] {
			t.Errorf("key %s: they sign\n%s\nwe\n%s", secret.Public(), plain(word[2]), plain(got))
		}
		if _, err := VerifyBody(bodies[i], word[2], Authorize(secret.Public())); err != nil {
			t.Error(err)
		}
	}
}

func plain(value string) string {
	text, err := base64.StdEncoding.DecodeString(value[strings.LastIndexByte(value, ';')+1:])
	if err != nil {
		return value
	}
	return string(text)
}

// TestFilesPassBothWays goes through files, as an administrator would.
func TestFilesPassBothWays(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := guile(t, nil, "verify-narinfo.scm", "genkey", dir); err != nil {
		t.Fatal(err)
	}
	theirs := mustSecret(t, read(t, dir, "signing-key.sec"))
	our, err := Generate(rand.NewChaCha8([32]byte{9}))
	if err != nil {
		t.Fatal(err)
	}
	ourPub, ourSec := write("our.pub", our.Public().File()), write("our.sec", our.File())
	list, err := guile(t, nil, "verify-narinfo.scm", "genacl", filepath.Join(dir, "signing-key.pub"), ourPub)
	if err != nil {
		t.Fatal(err)
	}
	if want := Authorize(theirs.Public(), our.Public()).File(); list != string(want) {
		t.Errorf("their access list:\n%s\nours:\n%s", list, want)
	}
	acl := mustACL(t, []byte(list))

	body := randomBody(rand.New(rand.NewPCG(5, 6)))
	for _, s := range []*Secret{theirs, our} {
		signed := fmt.Appendf(bytes.Clone(body), "Signature: %s\n", mustSign(t, s, body, "our.example"))
		text := append(bytes.Clone(signed), "URL: nar/x\nCompression: none\n"...)
		verdict, err := guile(t, nil, "verify-narinfo.scm", "verify", write("acl", acl.File()), write("x.narinfo", text))
		if err != nil || verdict != "valid\n" {
			t.Errorf("their verdict on ours: %s%v", verdict, err)
		}
		changed := bytes.Replace(text, []byte("NarSize: "), []byte("NarSize: 1"), 1)
		verdict, err = guile(t, nil, "verify-narinfo.scm", "verify", write("acl", acl.File()), write("x.narinfo", changed))
		if err == nil || verdict != "hash-mismatch\n" {
			t.Errorf("their verdict on a changed one: %s%v", verdict, err)
		}
	}
	signed, err := guile(t, body, "verify-narinfo.scm", "sign", ourPub, ourSec, "our.example")
	if err != nil {
		t.Fatal(err)
	}
	if want := string(body) + "Signature: " + mustSign(t, our, body, "our.example") + "\n"; signed != want {
		t.Errorf("they sign with our key:\n%s\nwe:\n%s", signed, want)
	}
	if key, err := Verify([]byte(signed), acl); err != nil || !key.Equal(our.Public()) {
		t.Errorf("our verdict on theirs: %v, %v", key, err)
	}
}

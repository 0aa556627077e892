package guixkey

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/sexp"
)

const vectors = "testdata/guix-vectors/"

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustSecret(t testing.TB, file []byte) *Secret {
	t.Helper()
	s, err := ParseSecret(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	return s
}

func mustACL(t testing.TB, file []byte) *ACL {
	t.Helper()
	a, err := ParseACL(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	return a
}

func mustSign(t testing.TB, s *Secret, body []byte, host string) string {
	t.Helper()
	value, err := s.Sign(body, host)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func ExampleSecret_Sign() {
	secret, err := Generate(zeroes{}) // crypto/rand.Reader, in earnest
	if err != nil {
		fmt.Println(err)
		return
	}
	body := []byte("StorePath: /gnu/store/gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-x\nNarHash: sha256:0sj5qcgm2vkk3zjjl7l1z9jg1s2ch8xzxyp0n7lrd3npbvsn7h55\nNarSize: 9\nReferences: \n")
	value, err := secret.Sign(body, "ci.example")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(value[:28])
	key, err := VerifyBody(body, value, Authorize(secret.Public()))
	fmt.Println(key.Equal(secret.Public()), err)
	// Output:
	// 1;ci.example;KHNpZ25hdHVyZSA
	// true <nil>
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestVectorsAreSignedByteForByteAndVerify(t *testing.T) {
	for _, v := range []string{"v1", "v2", "v3", "v4", "v5"} {
		dir := vectors + v
		secret := mustSecret(t, read(t, dir, "signing-key.sec"))
		acl := mustACL(t, read(t, dir, "acl"))
		body, signed := read(t, dir, "body.txt"), read(t, dir, "signed.narinfo")
		line := strings.TrimPrefix(strings.TrimPrefix(string(signed), string(body)), marker+" ")
		host := strings.Split(line, ";")[1]
		if got := mustSign(t, secret, body, host); got+"\n" != line {
			t.Errorf("%s: signed\n%s\nwant\n%s", v, got, line)
		}
		for _, file := range []string{"signed.narinfo", "full.narinfo"} {
			if key, err := Verify(read(t, dir, file), acl); err != nil || !key.Equal(secret.Public()) {
				t.Errorf("%s/%s: %v, %v", v, file, key, err)
			}
		}
		public, err := ParsePublic(read(t, dir, "signing-key.pub"))
		if err != nil || !public.Equal(secret.Public()) {
			t.Errorf("%s: the two key files differ: %v", v, err)
		}
		for name, printed := range map[string][]byte{"signing-key.pub": public.File(), "signing-key.sec": secret.File(), "acl": acl.File()} {
			if want := read(t, dir, name); !bytes.Equal(printed, want) {
				t.Errorf("%s/%s printed\n%s\nwant\n%s", v, name, printed, want)
			}
		}
		if got := secret.signature([32]byte(unhex(t, string(read(t, dir, "body.sha256"))))).String(); got != string(read(t, dir, "signature.sexp")) {
			t.Errorf("%s: expression\n%s", v, got)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Fields(s)[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNoncesAreThoseOfLibgcrypt(t *testing.T) {
	var all []struct{ Name, D, SHA256, Z, K, R, S string }
	if err := json.Unmarshal(read(t, vectors, "vectors.json"), &all); err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	for _, v := range all {
		d := [32]byte(unhex(t, v.D))
		z := shift3([32]byte(unhex(t, v.SHA256)))
		if hex.EncodeToString(z[:]) != v.Z {
			t.Errorf("%s: z is %x", v.Name, z)
		}
		k := bigEndian(newNonces(d, bigEndian(reduce(z))).next())
		if hex.EncodeToString(k[:]) != v.K {
			t.Errorf("%s: k is %x, want %s", v.Name, k, v.K)
		}
	}
}

// mass-400.txt has 400 signatures that libgcrypt made.
func TestFourHundredSignaturesAreTheSameBytes(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(string(read(t, vectors, "mass-400.txt"))), "\n")
	if len(lines) != 400 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		part := strings.Split(line, "|")
		hash := [32]byte(unhex(t, part[0]))
		secret := mustSecret(t, []byte(part[2]))
		want, err := sexp.Parse([]byte(part[3]))
		if err != nil {
			t.Fatal(err)
		}
		if got := secret.signature(hash).Items()[2]; !got.Equal(want) {
			t.Errorf("over %x: %s\nwant %s", hash, got, want)
		}
		var p parts
		if !p.setValue(want) {
			t.Fatalf("cannot read %s", want)
		}
		r, okR := scalarWithin(p.r)
		s, okS := scalarWithin(p.s)
		public, err := ParsePublic([]byte(part[1]))
		if err != nil || !okR || !okS || !public.verify(hash, r, s) {
			t.Errorf("over %x: not valid: %v", hash, err)
		}
		hash[31] ^= 8 // the lowest bit that counts
		if public.verify(hash, r, s) {
			t.Errorf("over %x: valid for another hash", hash)
		}
	}
}

func TestVerdictsAreThoseOfGuix(t *testing.T) {
	acl := mustACL(t, read(t, vectors, "v1", "acl"))
	other := mustACL(t, read(t, vectors, "v3", "acl"))
	whole := read(t, vectors, "v1", "full.narinfo")
	replace := func(old, with string) []byte {
		if !bytes.Contains(whole, []byte(old)) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return bytes.Replace(whole, []byte(old), []byte(with), 1)
	}
	for _, c := range []struct {
		claim string
		text  []byte
		acl   *ACL
		want  error
	}{
		{"valid", whole, acl, nil},
		{"what is not signed may change", read(t, vectors, "neg", "valid-unsigned-part-changed.narinfo"), acl, nil},
		{"another hash", read(t, vectors, "neg", "hash-mismatch.narinfo"), acl, ErrHashMismatch},
		{"another s", read(t, vectors, "neg", "invalid-signature.narinfo"), acl, ErrInvalid},
		{"no References", read(t, vectors, "neg", "missing-mandatory.narinfo"), acl, ErrMissingField},
		{"no signature", read(t, vectors, "neg", "unsigned.narinfo"), acl, ErrUnsigned},
		{"version 2", read(t, vectors, "neg", "unsupported-version.narinfo"), acl, ErrVersion},
		{"another key", whole, other, ErrUnauthorized},
		{"no list", whole, nil, ErrUnauthorized},
		{"an empty list", whole, Authorize(), ErrUnauthorized},
		{"a key that is not listed comes before the hash", read(t, vectors, "neg", "hash-mismatch.narinfo"), other, ErrUnauthorized},
		{"four parts", replace("vectors.example;", "vectors;example;"), acl, ErrBadField},
		{"two parts", replace("vectors.example;", ""), acl, ErrBadField},
		{"no value", append(read(t, vectors, "v1", "body.txt"), "Signature:\n"...), acl, ErrUnsigned},
		{"not base64", replace("KHNpZ25", "KHNp!25"), acl, ErrCorrupt},
		{"cut off", whole[:bytes.LastIndex(whole, []byte("KQogKQo"))], acl, ErrCorrupt},
		{"the word within a line", replace("Signature:", "X: Signature:"), acl, ErrUnsigned},
		{"nothing", nil, acl, ErrUnsigned},
		{"the host is not signed", replace("vectors.example", ""), acl, nil},
		{"no final LF", bytes.TrimSuffix(read(t, vectors, "v1", "signed.narinfo"), []byte("\n")), acl, nil},
	} {
		key, err := Verify(c.text, c.acl)
		if !errors.Is(err, c.want) || (err == nil) != (key != nil) {
			t.Errorf("%s: %v, %v; want %v", c.claim, key, err, c.want)
		}
	}
}

// compact is the one-line form, which real Guix accepts too.
const compact = "(signature(data(flags rfc6979)(hash sha256 #%x#))(sig-val(ecdsa(r #%064x#)(s #%064x#)))(public-key(ecc(curve Ed25519)(q #%x#))))"

func TestSpellingsOfASignature(t *testing.T) {
	dir := vectors + "v1"
	secret, acl, body := mustSecret(t, read(t, dir, "signing-key.sec")), mustACL(t, read(t, dir, "acl")), read(t, dir, "body.txt")
	hash := [32]byte(unhex(t, string(read(t, dir, "body.sha256"))))
	rs, ss := secret.sign(hash)
	r, s := bigEndian(rs), bigEndian(ss)
	q := secret.public.q
	good := fmt.Sprintf(compact, hash, r, s, q)
	l := unhex(t, "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed")
	negative := bigEndian(zeroScalar().Subtract(zeroScalar(), ss))
	for _, c := range []struct {
		claim, text string
		want        error
	}{
		{"one line, lower case, padded", good, nil},
		{"blanks everywhere", strings.NewReplacer("(", "\t(\n", ")", " )\r\n", "#)", " # )").Replace(good), nil},
		{"in base64", strings.Replace(good, fmt.Sprintf("#%x#", q), "|"+base64.StdEncoding.EncodeToString(q[:])+"|", 1), nil},
		{"quoted words", strings.Replace(good, "sha256", `"sha256"`, 1), nil},
		{"parts in another order", "(signature" + good[strings.Index(good, "(public-key"):len(good)-1] + good[len("(signature"):strings.Index(good, "(public-key")] + ")", nil},
		{"33 bytes with a zero", strings.Replace(good, "(s #", "(s #00", 1), nil},
		{"the negative of s: points of opposite sign differ in x on this curve", fmt.Sprintf(compact, hash, r, negative, q), ErrInvalid},
		{"r is 0", fmt.Sprintf(compact, hash, [32]byte{}, s, q), ErrInvalid},
		{"s is 0", fmt.Sprintf(compact, hash, r, [32]byte{}, q), ErrInvalid},
		{"r is L", fmt.Sprintf(compact, hash, l, s, q), ErrInvalid},
		{"s is L", fmt.Sprintf(compact, hash, r, l, q), ErrInvalid},
		{"s is all ones", fmt.Sprintf(compact, hash, r, bytes.Repeat([]byte{0xff}, 32), q), ErrInvalid},
		{"r and s exchanged", fmt.Sprintf(compact, hash, s, r, q), ErrInvalid},
		{"s of 33 bytes", strings.Replace(good, "(s #", "(s #01", 1), ErrInvalid},
		{"no s", strings.Replace(good, "(s #", "(t #", 1), ErrInvalid},
		{"not ECDSA", strings.Replace(good, "(ecdsa", "(eddsa", 1), ErrInvalid},
		{"another hash", fmt.Sprintf(compact, r, r, s, q), ErrHashMismatch},
		{"a short hash", strings.Replace(good, "sha256 #", "sha256 ##(x #", 1), ErrCorrupt},
		{"an empty hash", strings.Replace(good, fmt.Sprintf("sha256 #%x#", hash), "sha256 ##", 1), ErrHashMismatch},
		{"another algorithm", strings.Replace(good, "sha256", "sha512", 1), ErrCorrupt},
		{"no flags", strings.Replace(good, "(flags rfc6979)", "", 1), ErrCorrupt},
		{"other flags", strings.Replace(good, "rfc6979", "raw", 1), ErrCorrupt},
		{"another key", fmt.Sprintf(compact, hash, r, s, r), ErrUnauthorized},
		{"a short key", fmt.Sprintf(compact, hash, r, s, q[:31]), ErrUnauthorized},
		{"another curve", strings.Replace(good, "Ed25519", "Ed448", 1), ErrUnauthorized},
		{"RSA", strings.Replace(good, "(ecc(curve Ed25519)(q ", "(rsa(e #010001#)(n ", 1), ErrUnauthorized},
		{"no key", good[:strings.Index(good, "(public-key")] + ")", ErrCorrupt},
		{"no data", "(signature" + good[strings.Index(good, "(sig-val"):], ErrCorrupt},
		{"no value", strings.Replace(good, "(sig-val", "(sig-var", 1), ErrCorrupt},
		{"data twice", strings.Replace(good, "(sig-val", "(data(flags rfc6979)(hash sha256 #00#))(sig-val", 1), ErrCorrupt},
		{"data hidden deeper", strings.Replace(good, "(signature(data", "(signature(x(data(flags rfc6979)(hash sha256 #00#)))(data", 1), ErrCorrupt},
		{"something after it", good + good, ErrCorrupt},
		{"canonical form", fmt.Sprintf("(9:signature(4:data(5:flags7:rfc6979)(4:hash6:sha25632:%s)))", hash), ErrCorrupt},
		{"not Latin-1", strings.Replace(good, "(signature", "(signature \"Ā\"", 1), ErrCorrupt},
		{"empty", "", ErrCorrupt},
	} {
		value := "1;h;" + base64.StdEncoding.EncodeToString([]byte(c.text))
		if _, err := VerifyBody(body, value, acl); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.claim, err, c.want)
		}
	}
	if _, err := VerifyBody(body, "1;h;"+strings.Repeat("A", maxField), acl); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an enormous field: %v", err)
	}
}

func TestWhatCannotBeSignedIsRefused(t *testing.T) {
	secret, err := Generate(rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a;b", "a\nb", "\x00", "\xff", "\u0085"} {
		if v, err := secret.Sign([]byte("a\n"), host); !errors.Is(err, ErrHost) {
			t.Errorf("host %q: %q, %v", host, v, err)
		}
	}
	for _, body := range []string{"", "a", "a: Signature: x\n"} {
		if v, err := secret.Sign([]byte(body), "h"); !errors.Is(err, ErrBody) {
			t.Errorf("body %q: %q, %v", body, v, err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	secret, body := mustSecret(b, read(b, vectors, "v1", "signing-key.sec")), read(b, vectors, "v1", "body.txt")
	b.ReportAllocs()
	for b.Loop() {
		mustSign(b, secret, body, "h")
	}
}

func BenchmarkVerify(b *testing.B) {
	acl, text := mustACL(b, read(b, vectors, "v1", "acl")), read(b, vectors, "v1", "full.narinfo")
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Verify(text, acl); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := Verify(text, acl); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("parsing", func(b *testing.B) {
		_, packed, _ := strings.Cut(string(text), "vectors.example;")
		packed, _, _ = strings.Cut(packed, "\n")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := parseSignature(packed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

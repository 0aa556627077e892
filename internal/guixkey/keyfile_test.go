package guixkey

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"filippo.io/edwards25519"
)

func zeroScalar() *edwards25519.Scalar { return edwards25519.NewScalar() }

func TestGeneratedKeysAreClampedAsLibgcryptClamps(t *testing.T) {
	for seed := range byte(50) {
		secret, err := Generate(rand.NewChaCha8([32]byte{seed}))
		if err != nil {
			t.Fatal(err)
		}
		d := secret.d
		if d[0]&0xc0 != 0x40 || d[31]&7 != 0 {
			t.Errorf("d is %x", d)
		}
		if back := mustSecret(t, secret.File()); back.d != d || !back.public.Equal(secret.public) {
			t.Errorf("the file gives another key:\n%s", secret.File())
		}
		if public, err := ParsePublic(secret.Public().File()); err != nil || !public.Equal(secret.public) {
			t.Errorf("the public file gives %v, %v", public, err)
		}
	}
	if s, err := Generate(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Errorf("31 random bytes make %v", s)
	}
}

func TestASecretIsNotPrinted(t *testing.T) {
	secret := mustSecret(t, read(t, vectors, "v1", "signing-key.sec"))
	digits := hex.EncodeToString(secret.d[:8])
	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%x"} {
		if text := strings.ToLower(fmt.Sprintf(format, secret)); strings.Contains(text, digits) {
			t.Errorf("%s prints %s", format, text)
		}
	}
	_, err := ParseSecret([]byte("(private-key (ecc (curve Ed25519) (q #00#) (d #5F5A~~~#)))"))
	if err == nil || strings.Contains(err.Error(), "5F5A") || strings.Contains(err.Error(), "~") {
		t.Errorf("the error tells the secret: %v", err)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	pub := "(public-key (ecc (curve Ed25519) (q #%s#)))"
	good := string(read(t, vectors, "v1", "signing-key.pub"))
	for claim, text := range map[string]string{
		"empty":                  "",
		"text":                   "hello",
		"short":                  fmt.Sprintf(pub, "00"),
		"off the curve":          fmt.Sprintf(pub, "02"+strings.Repeat("00", 31)),
		"the identity":           fmt.Sprintf(pub, "01"+strings.Repeat("00", 31)),
		"order 2":                fmt.Sprintf(pub, "EC"+strings.Repeat("FF", 30)+"7F"),
		"order 4":                fmt.Sprintf(pub, strings.Repeat("00", 32)),
		"order 8":                fmt.Sprintf(pub, "26E8958FC2B227B045C3F489F2EF98F0D5DFAC05D3C63339B13802886D53FC05"),
		"y of p+1":               fmt.Sprintf(pub, "EE"+strings.Repeat("FF", 30)+"7F"),
		"a secret key":           string(read(t, vectors, "v1", "signing-key.sec")),
		"an access list":         string(read(t, vectors, "v1", "acl")),
		"another curve":          strings.Replace(good, "Ed25519", "NIST P-256", 1),
		"flags":                  strings.Replace(good, "(q", "(flags eddsa) (q", 1),
		"two keys":               good + good,
		"a list as q":            "(public-key (ecc (curve Ed25519) (q (x))))",
		"larger than a key file": good + strings.Repeat(" ", MaxKeyFile),
		"not UTF-8":              "(public-key \"\xff\")",
	} {
		if k, err := ParsePublic([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, %v", claim, k, err)
		}
	}
	sec := string(read(t, vectors, "v1", "signing-key.sec"))
	for claim, text := range map[string]string{
		"a public key":       good,
		"d of another key":   strings.Replace(sec, "#44066BE8", "#44066BE9", 1),
		"d is 0":             strings.Replace(sec, "(d #", "(d ##) (x #", 1),
		"d is a multiple":    "(private-key (ecc (curve Ed25519) (q #01#) (d #80000000000000000000000000000000A6F7CEF517BCE6B2C09318D2E7AE9F68#)))",
		"d of 33 bytes":      strings.Replace(sec, "(d #", "(d #00", 1),
		"characters outside": sec + "ÿ",
	} {
		if k, err := ParseSecret([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("secret, %s: %v, %v", claim, k, err)
		}
	}
}

func TestAccessLists(t *testing.T) {
	entry := func(key string) string { return "(entry " + key + " (tag (guix import)))" }
	ed := string(read(t, vectors, "v1", "signing-key.pub"))
	rsa := "(public-key (rsa (n #00C0FFEE#) (e #010001#)))"
	a := mustACL(t, []byte("(acl "+entry(ed)+entry(rsa)+entry(ed)+entry(string(read(t, vectors, "v3", "signing-key.pub")))+")"))
	if a.Len() != 4 || len(a.Keys()) != 2 {
		t.Errorf("%d entries, %d keys", a.Len(), len(a.Keys()))
	}
	if again := mustACL(t, a.File()); !bytes.Equal(again.File(), a.File()) || !bytes.Contains(a.File(), []byte("(n #00C0FFEE#)")) {
		t.Errorf("printed:\n%s", a.File())
	}
	if _, err := Verify(read(t, vectors, "v1", "full.narinfo"), a); err != nil {
		t.Error(err)
	}
	one := mustACL(t, read(t, vectors, "v1", "acl"))
	if made := Authorize(one.Keys()...).File(); !bytes.Equal(made, one.File()) {
		t.Errorf("made:\n%s", made)
	}
	if none := mustACL(t, []byte("(acl)")); none.Len() != 0 || string(none.File()) != "(acl)\n" {
		t.Errorf("an empty list: %s", none.File())
	}
	var nobody *ACL
	if nobody.Len() != 0 || nobody.Keys() != nil {
		t.Error("no list has keys")
	}
	for claim, text := range map[string]string{
		"empty":              "",
		"a key":              ed,
		"a key as entry":     "(acl " + ed + ")",
		"no tag":             "(acl (entry " + ed + "))",
		"another tag":        "(acl (entry " + ed + " (tag (guix export))))",
		"two tags":           "(acl (entry " + ed + " (tag (guix import)) (tag (guix import))))",
		"a secret key":       "(acl " + entry(string(read(t, vectors, "v1", "signing-key.sec"))) + ")",
		"an atom":            "(acl x)",
		"one bad among good": "(acl " + entry(ed) + "(entry))",
		"a point of order 4": "(acl " + entry("(public-key (ecc (curve Ed25519) (q #"+strings.Repeat("00", 32)+"#)))") + ")",
	} {
		if a, err := ParseACL([]byte(text)); !errors.Is(err, ErrACL) {
			t.Errorf("%s: %v, %v", claim, a, err)
		}
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add(read(f, vectors, "v1", "signing-key.pub"))
	f.Add([]byte(`(public-key(ecc(curve "Ed25519")(q #` + strings.Repeat("00", 32) + `#)))`))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := ParsePublic(file)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if back, err := ParsePublic(k.File()); err != nil || !back.Equal(k) {
			t.Fatalf("%s reads back as %v, %v", k.File(), back, err)
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	f.Add(read(f, vectors, "v1", "signing-key.sec"))
	f.Add([]byte("(private-key(ecc(curve Ed25519)(q #5866666666666666666666666666666666666666666666666666666666666666#)(d #01#)))"))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := ParseSecret(file)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if back, err := ParseSecret(k.File()); err != nil || back.d != k.d {
			t.Fatalf("%s reads back as %v, %v", k.File(), back, err)
		}
	})
}

func FuzzParseACL(f *testing.F) {
	f.Add(read(f, vectors, "v1", "acl"))
	f.Add([]byte("(acl(entry(public-key(rsa(n #00#)(e #03#)))(tag(guix import))))"))
	f.Add([]byte("(acl (entry (public-key \"\u00e9\") (tag (guix import))))"))
	f.Fuzz(func(t *testing.T, file []byte) {
		a, err := ParseACL(file)
		if err != nil {
			if !errors.Is(err, ErrACL) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		back, err := ParseACL(a.File())
		if err != nil || back.Len() != a.Len() || len(back.Keys()) != len(a.Keys()) || !bytes.Equal(back.File(), a.File()) {
			t.Fatalf("%s reads back as %v", a.File(), err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	for _, name := range []string{"v1/full.narinfo", "v3/full.narinfo", "neg/hash-mismatch.narinfo", "neg/invalid-signature.narinfo"} {
		f.Add(read(f, vectors, name))
	}
	key, acl := read(f, vectors, "v1", "signing-key.sec"), mustACL(f, read(f, vectors, "v1", "acl"))
	secret := mustSecret(f, key)
	verdicts := []error{ErrUnsigned, ErrBadField, ErrVersion, ErrMissingField, ErrCorrupt, ErrUnauthorized, ErrHashMismatch, ErrInvalid}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := Verify(text, acl)
		found := 0
		for _, verdict := range verdicts {
			if errors.Is(err, verdict) {
				found++
			}
		}
		if err != nil && found != 1 {
			t.Fatalf("%d verdicts in %v", found, err)
		}
		if err == nil {
			// Only the holder of the secret makes a valid signature, and one body has one nonce.
			body, _, _ := bytes.Cut(text, []byte(marker))
			if _, err := VerifyBody(body, mustSign(t, secret, body, ""), acl); err != nil {
				t.Fatalf("accepted what cannot be signed: %v", err)
			}
		}
	})
}

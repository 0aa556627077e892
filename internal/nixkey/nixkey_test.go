package nixkey

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const fingerprint = "1;/nix/store/gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-x;sha256:0sj5qcgm2vkk3zjjl7l1z9jg1s2ch8xzxyp0n7lrd3npbvsn7h55;9;"

func generate(t testing.TB, name string, seed byte) *Secret {
	t.Helper()
	s, err := Generate(name, rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ExampleTrust_Verify() {
	secret, err := Generate("cache.example-1", rand.NewChaCha8([32]byte{})) // crypto/rand.Reader, in earnest
	if err != nil {
		fmt.Println(err)
		return
	}
	sig := secret.Sign(fingerprint)
	key, err := TrustIn(secret.Public()).Verify(fingerprint, []string{"other-1:AAAA", sig})
	fmt.Println(key.Name(), err)
	_, err = TrustIn(secret.Public()).Verify(fingerprint+"x", []string{sig})
	fmt.Println(errors.Is(err, ErrInvalid))
	// Output:
	// cache.example-1 <nil>
	// true
}

func TestKeysSurviveTheirFiles(t *testing.T) {
	s := generate(t, "a-1", 1)
	back, err := ParseSecret(append(s.File(), " \n"...))
	if err != nil || !bytes.Equal(back.File(), s.File()) || back.Name() != "a-1" {
		t.Errorf("%v, %v", back, err)
	}
	p, err := ParsePublic([]byte("\n" + s.Public().String() + "\n"))
	if err != nil || p != s.Public() || p.Name() != "a-1" {
		t.Errorf("%v, %v", p, err)
	}
}

func TestASecretIsNotPrinted(t *testing.T) {
	s := generate(t, "a-1", 1)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(format, s); got != "secret of a-1" {
			t.Errorf("%s prints %s", format, got)
		}
	}
	if _, err := ParseSecret(s.File()[:60]); err == nil || strings.Contains(err.Error(), string(s.File()[5:20])) {
		t.Errorf("the error is %v", err)
	}
}

func TestWhatIsNoKeyIsRefused(t *testing.T) {
	s := generate(t, "a", 1)
	pub, sec := s.Public().String(), string(s.File())
	for _, text := range []string{"", "a", "a:", ":" + pub[2:], "a b" + pub[1:], "a\t" + pub[1:], "a\x00" + pub[1:], "\xff" + pub[1:],
		"a:" + pub, pub[:len(pub)-1], pub[:len(pub)-4] + "AAA=", pub[:20] + "\n" + pub[21:], pub + "=", sec, strings.Repeat("a", MaxName+1) + pub[1:],
		pub + strings.Repeat(" ", maxFile), "a:" + base64.StdEncoding.EncodeToString(make([]byte, 31))} {
		// The case that ends in AAA= is 32 bytes too, of another key.
		if p, err := ParsePublic([]byte(text)); !errors.Is(err, ErrKey) && p.String() != text {
			t.Errorf("ParsePublic(%q) = %v, %v", text, p, err)
		}
	}
	swapped := "a:" + base64.StdEncoding.EncodeToString(append(append([]byte{}, s.key[32:]...), s.key[:32]...))
	for _, text := range []string{"", "a:", pub, swapped, sec + "A", ":" + sec[2:], sec + strings.Repeat("\n", maxFile)} {
		if p, err := ParseSecret([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("ParseSecret(%q) = %v, %v", text, p, err)
		}
	}
	for _, name := range []string{"", "a:b", "a b", "a\u00a0b", "a\nb", "a\x7fb", "a\xffb", strings.Repeat("x", MaxName+1)} {
		if s, err := Generate(name, rand.NewChaCha8([32]byte{})); !errors.Is(err, ErrName) {
			t.Errorf("Generate(%q) = %v, %v", name, s, err)
		}
	}
	if s, err := Generate("a", strings.NewReader("short")); err == nil {
		t.Errorf("5 random bytes make %v", s)
	}
}

func TestOneGoodSignatureIsEnough(t *testing.T) {
	a, b, again, stranger := generate(t, "a", 1), generate(t, "b", 2), generate(t, "a", 3), generate(t, "s", 4)
	trust := TrustIn(a.Public(), b.Public(), again.Public(), a.Public())
	if len(trust.Keys()) != 3 {
		t.Errorf("keys are %v", trust.Keys())
	}
	good, forged := a.Sign(fingerprint), "a:"+strings.SplitN(stranger.Sign(fingerprint), ":", 2)[1]
	for _, c := range []struct {
		claim string
		sigs  []string
		key   PublicKey
		want  error
	}{
		{"one", []string{good}, a.Public(), nil},
		{"among others", []string{"junk", stranger.Sign(fingerprint), forged, b.Sign(fingerprint)}, b.Public(), nil},
		{"of the second key with a name", []string{again.Sign(fingerprint)}, again.Public(), nil},
		{"none", nil, PublicKey{}, ErrUnsigned},
		{"junk", []string{"junk", ":x"}, PublicKey{}, ErrMalformed},
		{"of a stranger", []string{"junk", stranger.Sign(fingerprint)}, PublicKey{}, ErrUnknownKey},
		{"forged", []string{forged, stranger.Sign(fingerprint), "junk"}, PublicKey{}, ErrInvalid},
		{"of another text", []string{a.Sign(fingerprint + "x")}, PublicKey{}, ErrInvalid},
		{"cut short", []string{good[:len(good)-4]}, PublicKey{}, ErrInvalid},
		{"with a line end", []string{good[:20] + "\n" + good[20:]}, PublicKey{}, ErrInvalid},
	} {
		if key, err := trust.Verify(fingerprint, c.sigs); key != c.key || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.claim, key, err, c.want)
		}
	}
	if _, err := (Trust{}).Verify(fingerprint, []string{good}); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("trust in nobody: %v", err)
	}
	for sig, want := range map[string]error{good: nil, b.Sign(fingerprint): ErrUnknownKey, "a:AAAA": ErrMalformed, forged: ErrInvalid} {
		if err := a.Public().Verify(fingerprint, sig); !errors.Is(err, want) {
			t.Errorf("%s: %v", sig, err)
		}
	}
}

func TestTrustIsReadAsInNixConf(t *testing.T) {
	a, b := generate(t, "a", 1).Public(), generate(t, "b", 2).Public()
	trust, err := ParseTrust("  " + b.String() + "\t\n" + a.String() + " ")
	if err != nil || len(trust.Keys()) != 2 || trust.Keys()[0] != a || trust.Keys()[1] != b {
		t.Errorf("%v, %v", trust, err)
	}
	if trust, err := ParseTrust(a.String() + " x"); !errors.Is(err, ErrKey) {
		t.Errorf("%v, %v", trust, err)
	}
}

func FuzzParse(f *testing.F) {
	s := generate(f, "cache.example-1", 1)
	f.Add(s.Public().String())
	f.Add(string(s.File()))
	f.Add(s.Sign(fingerprint))
	f.Add("a:b:AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePublic([]byte(text)); err == nil {
			if p.String() != strings.TrimSpace(text) {
				t.Fatalf("%q became %q", text, p)
			}
		} else if !errors.Is(err, ErrKey) {
			t.Fatalf("error of another kind: %v", err)
		}
		if k, err := ParseSecret([]byte(text)); err == nil {
			if string(k.File()) != strings.TrimSpace(text) || k.Public().Verify("x", k.Sign("x")) != nil {
				t.Fatalf("%q became %q", text, k.File())
			}
		} else if !errors.Is(err, ErrKey) {
			t.Fatalf("error of another kind: %v", err)
		}
		if key, err := TrustIn(s.Public()).Verify(fingerprint, []string{text}); err == nil && text != s.Sign(fingerprint) {
			t.Fatalf("%q passes for a signature of %v", text, key)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s := generate(b, "a", 1)
	for b.Loop() {
		s.Sign(fingerprint)
	}
}

func BenchmarkVerify(b *testing.B) {
	s := generate(b, "a", 1)
	trust, sigs := TrustIn(s.Public()), []string{s.Sign(fingerprint)}
	for b.Loop() {
		if _, err := trust.Verify(fingerprint, sigs); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
)

func guixSecret(t testing.TB, seed byte) *guixkey.Secret {
	t.Helper()
	s, err := guixkey.Generate(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSigningForGuixKeepsEveryLine(t *testing.T) {
	// The order in which guix publish wrote until 2022, with lines that nobody knows.
	const text = `StorePath: /gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
URL: nar/lzip/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
Compression: lzip
FileSize: 3
URL: nar/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
Compression: none
FileSize: 4
Colour: green
NarHash: sha256:1lxjhhvvwj68i1dkgzpcjn5dnvx5p4ba14lvs8jz4h3q0x1yj4ja
NarSize: 1040
References: 
System: x86_64-linux
Sig: a-1:xyz
`
	n, err := narinfo.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	key := guixSecret(t, 1)
	signed, err := withSignature(n, key, "h")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSigned(signed, secretKey{guix: key}); err != nil {
		t.Error(err)
	}
	before, rest, _ := strings.Cut(string(signed), "Signature: 1;h;")
	_, after, _ := strings.Cut(rest, "\n")
	const wantBefore = `StorePath: /gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
NarHash: sha256:1lxjhhvvwj68i1dkgzpcjn5dnvx5p4ba14lvs8jz4h3q0x1yj4ja
NarSize: 1040
References: 
`
	const wantAfter = `URL: nar/lzip/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
Compression: lzip
FileSize: 3
URL: nar/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60
Compression: none
FileSize: 4
Colour: green
System: x86_64-linux
Sig: a-1:xyz
`
	if before != wantBefore || after != wantAfter {
		t.Errorf("signed\n%s", signed)
	}
}

func TestClaimedSigner(t *testing.T) {
	key := guixSecret(t, 2)
	value, err := key.Sign([]byte("StorePath: x\n"), "example.org")
	if err != nil {
		t.Fatal(err)
	}
	if signer, host, err := claimedSigner(value); err != nil || host != "example.org" || !signer.Equal(key.Public()) {
		t.Errorf("%v, %q, %v", signer, host, err)
	}
	for value, want := range map[string]error{
		"":                             guixkey.ErrBadField,
		"1;h":                          guixkey.ErrBadField,
		"1;h;x;y":                      guixkey.ErrBadField,
		"1;h;!!":                       guixkey.ErrCorrupt,
		"1;h;KCk=":                     guixkey.ErrCorrupt, // ()
		"1;h;KHB1YmxpYy1rZXkp":         guixkey.ErrCorrupt, // (public-key), not inside a signature
		"1;h;KGEgKHB1YmxpYy1rZXkpKQ==": guixkey.ErrKey,     // (a (public-key))
	} {
		if _, _, err := claimedSigner(value); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", value, err, want)
		}
	}
}

// FuzzNothingIsTrustedWithoutAKey gives hostile narinfos to a user who believes nobody.
func FuzzNothingIsTrustedWithoutAKey(f *testing.F) {
	value, err := guixSecret(f, 3).Sign([]byte("x\n"), "h")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(unsignedForGuix))
	f.Add([]byte(unsignedForGuix + "Sig: a:b\n"))
	f.Add([]byte(strings.Replace(unsignedForGuix, "URL:", "Signature: "+value+"\nURL:", 1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v narinfoVerdict
		narinfoTrust{}.judge(raw, &v)
		if v.Verdict == trusted || v.Verdict == "" {
			t.Errorf("verdict %q", v.Verdict)
		}
		var shown bytes.Buffer
		v.print(&shown)
		if lines := strings.Count(shown.String(), "\n"); lines != 1+len(v.Signatures) {
			t.Errorf("%d lines on %d signatures:\n%q", lines, len(v.Signatures), &shown)
		}
	})
}

package digest

import (
	"strings"
	"testing"
)

func TestEverySpellingIsTheSameHash(t *testing.T) {
	want := Of([]byte("narfold"))
	for _, s := range []string{want.String(), "sha256:" + want.Hex(), "sha256:" + strings.ToUpper(want.Hex())} {
		got, err := Parse(s)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %v, %v", s, got, err)
		}
	}
	// printf '' | openssl dgst -sha256 -binary | base64
	got, err := Parse("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	if err != nil || got != Of(nil) {
		t.Errorf("the base64 spelling gives %v, %v", got, err)
	}
}

func TestOtherTextIsRefused(t *testing.T) {
	for _, s := range []string{"", "sha256:", "md5:00", "sha512:" + Of(nil).Base32(), Of(nil).Base32(), Of(nil).String() + "0",
		"sha256:" + strings.Repeat("e", 52), "sha256:" + strings.Repeat("g", 64), "sha256-" + strings.Repeat("!", 44)} {
		if d, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v", s, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	f.Add(Of(nil).String())
	f.Add("sha256:" + Of(nil).Hex())
	f.Fuzz(func(t *testing.T, s string) {
		d, err := Parse(s)
		if err != nil {
			return
		}
		if back, err := Parse(d.String()); err != nil || back != d {
			t.Fatalf("%q parsed to %v, which does not read back: %v", s, d, err)
		}
	})
}

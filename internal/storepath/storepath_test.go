package storepath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const hash = "gpr97dmy8mpg1w10hbkg3cwmx4c1spc7"

const wantFixed = "/nix/store/8hwq5kd39qzwg87928n3nlzbfhkgl12c-hello.tar.gz"

func ExampleParse() {
	p, err := Parse("/gnu/store/gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-hello-2.12.1")
	fmt.Println(p.Dir, p.HashPart(), p.Name(), err)
	// Output: /gnu/store gpr97dmy8mpg1w10hbkg3cwmx4c1spc7 hello-2.12.1 <nil>
}

func TestNamesThatAClientRefusesAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "/", "gnu/store/" + hash + "-x", "/gnu/store/" + hash, "/gnu/store/" + hash + "-", "/gnu/store/" + hash + "-.x",
		"/gnu/store/" + hash + "-a b", "/gnu/store/" + hash + "-a/b", "/gnu/store/" + hash + "-a\n", "/gnu/store/" + hash + "-é",
		"/gnu/store/" + strings.Replace(hash, "g", "e", 1) + "-x", "/gnu//store/" + hash + "-x", "/gnu/../store/" + hash + "-x",
		"//" + hash + "-x", "/" + hash + "-x", "/gnu/store/" + hash + "-" + strings.Repeat("x", MaxName+1), "/gnu/st ore/" + hash + "-x",
	} {
		if p, err := Parse(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse(%q) = %v, %v", s, p, err)
		}
	}
}

func TestNamesThatClientsAcceptAreAccepted(t *testing.T) {
	for _, s := range []string{
		"/gnu/store/" + hash + "-gtk+-3.24", "/nix/store/" + hash + "-a", "/tmp/nixt/store/" + hash + "-a?b=c_D",
		"/gnu/store/" + hash + "-" + strings.Repeat("x", MaxName), "/nix/store/" + hash + "--x",
	} {
		p, err := Parse(s)
		if err != nil || p.String() != s {
			t.Errorf("Parse(%q) = %v, %v", s, p, err)
		}
	}
}

func TestHashPartsSurviveTheCompactForm(t *testing.T) {
	h, err := ParseHashPart(hash)
	if err != nil {
		t.Fatal(err)
	}
	if got := HashPartOf(h.Bytes()); got != h {
		t.Errorf("%s became %s", h, got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/gnu/store/" + hash + "-hello")
	f.Add("/nix/store/" + hash + "-a/../b")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if p.String() != s {
			t.Fatalf("%q became %q", s, p)
		}
		if HashPartOf(p.HashPart().Bytes()) != p.HashPart() {
			t.Fatalf("hash part of %q does not survive", s)
		}
	})
}

// nix-store --print-fixed-path sha256 $(printf narfold | sha256sum | cut -c1-64) hello.tar.gz
func TestFlatFileIsWhereNixPutsIt(t *testing.T) {
	p, err := FlatFile(Nix, "hello.tar.gz", sha256.Sum256([]byte("narfold")))
	if err != nil || p.String() != wantFixed {
		t.Errorf("FlatFile = %v, %v", p, err)
	}
	if p, err := FlatFile(Nix, "", [32]byte{}); err == nil {
		t.Errorf("a path without a name: %v", p)
	}
}

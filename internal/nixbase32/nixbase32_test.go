package nixbase32

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func ExampleEncode() {
	sum, _ := hex.DecodeString("da8f2d72774de477dc39911a0859fa71b7f8d17e471b3be38e3c2f9fea2ff322")
	fmt.Println(Encode(sum))
	// Output: 08pk5zm9ybrwivikn6s7gv8zidviz9chh6li77f7gr2dfxr2v3ys
}

func TestDecodeRefusesWhatEncodeNeverWrites(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("0", 31),
		strings.Repeat("0", 33),
		strings.Repeat("0", 31) + "e",
		strings.Repeat("0", 31) + "A",
		"",
	} {
		if err := Decode(make([]byte, 20), text); err == nil {
			t.Errorf("Decode accepted %q", text)
		}
	}
	if err := Decode(make([]byte, 32), strings.Repeat("z", 52)); err == nil {
		t.Error("Decode accepted bits beyond the 256th")
	}
}

func FuzzDecodeInvertsEncode(f *testing.F) {
	f.Add([]byte("x"))
	f.Add(make([]byte, 20))
	f.Add(bytes.Repeat([]byte{0xff}, 32))
	f.Fuzz(func(t *testing.T, src []byte) {
		text := Encode(src)
		back := make([]byte, len(src))
		if err := Decode(back, text); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(src, back) {
			t.Fatalf("%x became %x by way of %s", src, back, text)
		}
		// Foreign text: what is accepted must be the one encoding of what it decodes to.
		foreign := string(src)
		out := make([]byte, DecodedLen(len(foreign)))
		if Decode(out, foreign) == nil && Encode(out) != foreign {
			t.Fatalf("two texts for %x: %q and %q", out, foreign, Encode(out))
		}
	})
}

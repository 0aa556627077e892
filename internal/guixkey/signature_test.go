package guixkey

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
)

func TestSignerChecksByTheKeyInTheSignature(t *testing.T) {
	whole := read(t, vectors+"v1/full.narinfo")
	key, err := Signer(whole)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ParsePublic(read(t, vectors+"v1/signing-key.pub"))
	if err != nil || !key.Equal(want) {
		t.Errorf("Signer = %v, want %v (%v)", key, want, err)
	}
	for name, want := range map[string]error{"hash-mismatch": ErrHashMismatch, "invalid-signature": ErrInvalid, "unsigned": ErrUnsigned} {
		if key, err := Signer(read(t, vectors+"neg/"+name+".narinfo")); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", name, key, err)
		}
	}
	body, rsa := read(t, vectors+"v1/body.txt"), "(signature(data(flags rfc6979)(hash sha256 #00#))(sig-val(rsa(s #01#)))(public-key(rsa(n #03#)(e #03#))))"
	text := fmt.Appendf(body, "Signature: 1;h;%s\n", base64.StdEncoding.EncodeToString([]byte(rsa)))
	if key, err := Signer(text); !errors.Is(err, ErrKey) {
		t.Errorf("a key of another kind: %v, %v", key, err)
	}
}

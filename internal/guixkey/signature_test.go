package guixkey

import (
	"errors"
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
}

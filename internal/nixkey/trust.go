package nixkey

import (
	"fmt"
	"slices"
	"strings"
)

// Trust is a set of keys whose signatures are believed. The zero value believes nobody. It is not changed once made, so that
// goroutines may share it.
type Trust struct {
	keys map[string][]PublicKey // by name; two keys may have one name
}

// TrustIn returns the set of keys.
func TrustIn(keys ...PublicKey) Trust {
	t := Trust{make(map[string][]PublicKey, len(keys))}
	for _, k := range keys {
		if !slices.Contains(t.keys[k.name], k) {
			t.keys[k.name] = append(t.keys[k.name], k)
		}
	}
	return t
}

// ParseTrust reads public keys separated by white space, the value of trusted-public-keys in nix.conf.
func ParseTrust(text string) (Trust, error) {
	var keys []PublicKey
	for word := range strings.FieldsSeq(text) {
		k, err := ParsePublic([]byte(word))
		if err != nil {
			return Trust{}, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		keys = append(keys, k)
	}
	return TrustIn(keys...), nil
}

// Keys returns the keys in the order of their texts.
func (t Trust) Keys() []PublicKey {
	var out []PublicKey
	for _, keys := range t.keys {
		out = append(out, keys...)
	}
	slices.SortFunc(out, func(a, b PublicKey) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// Verify returns a trusted key that signed the fingerprint: one signature is enough, whatever the others are. Without one the error
// wraps what came nearest to it: ErrInvalid, else ErrUnknownKey, else ErrMalformed, else ErrUnsigned.
func (t Trust) Verify(fingerprint string, sigs []string) (PublicKey, error) {
	kind, culprit := ErrUnsigned, ""
	for _, sig := range sigs {
		name, _, ok := strings.Cut(sig, ":")
		if !ok || CheckName(name) != nil {
			if kind == ErrUnsigned {
				kind, culprit = ErrMalformed, sig
			}
			continue
		}
		keys := t.keys[name]
		if len(keys) == 0 && kind != ErrInvalid {
			kind, culprit = ErrUnknownKey, name
		}
		for _, k := range keys {
			if k.Verify(fingerprint, sig) == nil {
				return k, nil
			}
			kind, culprit = ErrInvalid, name
		}
	}
	if culprit == "" {
		return PublicKey{}, fmt.Errorf("verify narinfo: %w", kind)
	}
	return PublicKey{}, fmt.Errorf("verify narinfo: signature of %.100q: %w", culprit, kind)
}

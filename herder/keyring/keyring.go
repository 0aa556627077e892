// Package keyring holds the keys with which an operator signs, and those whose signatures he trusts.
//
// What is dumped from a store here, or comes from somebody with the right to publish, is signed by the operator's keys. What comes
// from elsewhere keeps its signatures, byte for byte, and is held to the trusted keys if there are any. A signature by a known key
// that does not verify is a forgery, and is refused whatever the policy says.
package keyring

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/storepath"
)

// ErrSignature says that a narinfo carries a signature that does not verify, or none by a trusted key where one is demanded.
var ErrSignature = errors.New("signature is not acceptable")

// Ring is a set of keys. It is not changed after it is in use.
type Ring struct {
	// Host is what Guix signatures name as their host; clients ignore it.
	Host string

	guix  *guixkey.Secret
	nix   []*nixkey.Secret
	acl   []*guixkey.PublicKey // trusted, without our own
	known []nixkey.PublicKey   // trusted, and our own
	// demand is set when a trusted key was added: then narinfos from elsewhere need a signature by one.
	demand bool

	trustGuix *guixkey.ACL
	trustNix  map[string]nixkey.PublicKey
}

// Load reads key files: secret keys sign; public keys and Guix acls are trusted. Each may be of either dialect, told by its content.
func Load(host string, files ...string) (*Ring, error) {
	r := &Ring{Host: host}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		if err := r.add(text); err != nil {
			return nil, fmt.Errorf("read key %s: %w", name, err)
		}
	}
	r.trustGuix = guixkey.Authorize(r.acl...)
	if r.guix != nil {
		r.trustGuix = guixkey.Authorize(append(r.acl, r.guix.Public())...)
	}
	r.trustNix = make(map[string]nixkey.PublicKey, len(r.known))
	for _, k := range r.known {
		if other, ok := r.trustNix[k.Name()]; ok && other != k {
			return nil, fmt.Errorf("two keys are named %q", k.Name())
		}
		r.trustNix[k.Name()] = k
	}
	return r, nil
}

// add tells what text is: s-expressions are Guix's, all else is tried as Nix's, whose secret keys are the longer ones.
func (r *Ring) add(text []byte) error {
	text = bytes.TrimSpace(text)
	switch {
	case bytes.HasPrefix(text, []byte("(private-key")):
		k, err := guixkey.ParseSecret(text)
		if err != nil {
			return err
		}
		if r.guix != nil && !r.guix.Public().Equal(k.Public()) {
			return errors.New("a second Guix secret key: a narinfo has room for one Guix signature")
		}
		r.guix = k
		return nil
	case bytes.HasPrefix(text, []byte("(public-key")):
		k, err := guixkey.ParsePublic(text)
		if err != nil {
			return err
		}
		r.acl, r.demand = append(r.acl, k), true
		return nil
	case bytes.HasPrefix(text, []byte("(")):
		acl, err := guixkey.ParseACL(text)
		if err != nil {
			return err
		}
		r.acl, r.demand = append(r.acl, acl.Keys()...), true
		return nil
	}
	if k, err := nixkey.ParseSecret(text); err == nil {
		r.nix = append(r.nix, k)
		r.known = append(r.known, k.Public())
		return nil
	}
	// The words of trusted-public-keys: one key, or several.
	trust, err := nixkey.ParseTrust(string(text))
	if err != nil || len(trust.Keys()) == 0 {
		return errors.New("not a key of Guix or of Nix, nor a Guix acl")
	}
	r.known, r.demand = append(r.known, trust.Keys()...), true
	return nil
}

// Signs reports whether clients of dir's kind would find a signature of this ring that they understand: Guix reads its own only,
// and Nix its own only.
func (r *Ring) Signs(dir storepath.Dir) bool {
	if dir == storepath.Guix {
		return r.guix != nil
	}
	return len(r.nix) > 0
}

// HasSecret reports whether the ring signs anything.
func (r *Ring) HasSecret() bool { return r.guix != nil || len(r.nix) > 0 }

// Demands reports whether narinfos from elsewhere need a signature by a trusted key.
func (r *Ring) Demands() bool { return r.demand }

// Check refuses forgeries, and with demand, if there are trusted keys, what none of them signed.
func (r *Ring) Check(n *narinfo.Narinfo, demand bool) error {
	trusted := false
	if n.Signature != "" {
		// The key is in the signature: whether it belongs to this text can be told without knowing it.
		if _, err := guixkey.Signer(n.Raw); err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
		_, err := guixkey.Verify(n.Raw, r.trustGuix)
		trusted = err == nil
	}
	for _, sig := range n.Sigs {
		name, _, _ := bytes.Cut([]byte(sig), []byte(":"))
		key, known := r.trustNix[string(name)]
		if !known {
			continue
		}
		if err := key.Verify(n.Fingerprint(), sig); err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
		trusted = true
	}
	if demand && r.demand && !trusted {
		return fmt.Errorf("%w: none is by a trusted key", ErrSignature)
	}
	return nil
}

// Seal returns the narinfo as it is kept: as it came, or, with sign, with the signatures of this ring added. A narinfo that was not
// parsed is rendered in its dialect: Guix's for items of /gnu/store and wherever only a Guix key signs, else Nix's.
func (r *Ring) Seal(n *narinfo.Narinfo, sign bool) ([]byte, error) {
	out := *n
	var sigs []string
	guix := false
	if sign {
		for _, k := range r.nix {
			sigs = append(sigs, k.Sign(n.Fingerprint()))
		}
		guix = r.guix != nil && n.Signature == "" && (n.StorePath.Dir == storepath.Guix || len(r.nix) == 0)
	}
	if guix {
		signature, err := r.guix.Sign(narinfo.GuixBody(n), r.Host)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", n.StorePath, err)
		}
		out.Signature = signature
	}
	if n.Raw != nil && !guix {
		return narinfo.WithFiles(n, nil, sigs), nil
	}
	have := make(map[string]bool)
	for _, s := range out.Sigs {
		have[s] = true
	}
	out.Sigs = append([]string(nil), out.Sigs...)
	for _, s := range sigs {
		if !have[s] {
			out.Sigs = append(out.Sigs, s)
		}
	}
	if guix || n.IsGuix() {
		return narinfo.Guix(&out), nil
	}
	return narinfo.Nix(&out), nil
}

// GuixPublic returns the public key file of the Guix key that signs, or nil.
func (r *Ring) GuixPublic() []byte {
	if r.guix == nil {
		return nil
	}
	return r.guix.Public().File()
}

// NixPublic returns the public keys of the Nix keys that sign.
func (r *Ring) NixPublic() (keys []string) {
	for _, k := range r.nix {
		keys = append(keys, k.Public().String())
	}
	return keys
}

// Pair is a new key, as files.
type Pair struct {
	Name           string // of the files, without ending
	Secret, Public []byte
}

// Generate makes a key that signs items of dir: Guix's for /gnu/store, else Nix's, named after the host.
func Generate(dir storepath.Dir, host string) (Pair, error) {
	if dir == storepath.Guix {
		k, err := guixkey.Generate(rand.Reader)
		if err != nil {
			return Pair{}, fmt.Errorf("make key: %w", err)
		}
		return Pair{"guix", k.File(), k.Public().File()}, nil
	}
	k, err := nixkey.Generate(host+"-1", rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key: %w", err)
	}
	return Pair{"nix", k.File(), append([]byte(k.Public().String()), '\n')}, nil
}

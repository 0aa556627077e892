package guixkey

import (
	"errors"
	"fmt"

	"narfold/internal/sexp"
)

// ErrACL is wrapped by every error about an access list that cannot be used.
var ErrACL = errors.New("not a valid Guix access list")

// ACL is a list of keys whose signatures are believed, as in /etc/guix/acl. A nil ACL believes nobody. It is not changed once
// made, so that goroutines may share it.
type ACL struct {
	entries []sexp.Sexp // public keys, as found
	keys    map[[32]byte]*PublicKey
	order   []*PublicKey
}

// Authorize returns a list of keys.
func Authorize(keys ...*PublicKey) *ACL {
	a := &ACL{keys: make(map[[32]byte]*PublicKey, len(keys))}
	for _, k := range keys {
		a.entries = append(a.entries, k.sexp())
		a.add(k)
	}
	return a
}

func (a *ACL) add(k *PublicKey) {
	if _, have := a.keys[k.q]; !have {
		a.keys[k.q] = k
		a.order = append(a.order, k)
	}
}

// ParseACL reads the bytes of an access list: (acl (entry (public-key ..) (tag (guix import))) ..). Guix refuses a list if any
// entry has another shape, and so does this. Entries with keys of other kinds, such as RSA, are kept and authorise nothing;
// an entry with an unusable key on the curve of Ed25519 is an error.
func ParseACL(file []byte) (*ACL, error) {
	s, err := parseFile(file, sexp.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrACL, err)
	}
	items, ok := s.Tail("acl")
	if !ok {
		return nil, fmt.Errorf("%w: want (acl (entry ..) ..)", ErrACL)
	}
	a := &ACL{entries: make([]sexp.Sexp, 0, len(items)), keys: make(map[[32]byte]*PublicKey)}
	tag := entryTag()
	for i, item := range items {
		entry, ok := item.Tail("entry")
		if !ok || len(entry) != 2 || !isHeaded(entry[0], "public-key") || !entry[1].Equal(tag) {
			return nil, fmt.Errorf("%w: entry %d: want (entry (public-key ..) (tag (guix import)))", ErrACL, i+1)
		}
		a.entries = append(a.entries, entry[0])
		if _, err := eccFields(entry[0], "public-key", 2); err != nil {
			continue
		}
		key, err := publicFrom(entry[0])
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrACL, i+1, err)
		}
		a.add(key)
	}
	return a, nil
}

func entryTag() sexp.Sexp {
	return sexp.List(sexp.Token("tag"), sexp.List(sexp.Token("guix"), sexp.Token("import")))
}

// File returns the bytes of the list as Guix writes it, with all entries in their order.
func (a *ACL) File() []byte {
	items := []sexp.Sexp{sexp.Token("acl")}
	for _, e := range a.entries {
		items = append(items, sexp.List(sexp.Token("entry"), e, entryTag()))
	}
	return toUTF8(sexp.List(items...).Append(nil))
}

// Keys returns the keys that can be checked here, each once, in the order of the list.
func (a *ACL) Keys() []*PublicKey {
	if a == nil {
		return nil
	}
	return append([]*PublicKey(nil), a.order...)
}

// Len returns the number of entries, those that authorise nothing here among them.
func (a *ACL) Len() int {
	if a == nil {
		return 0
	}
	return len(a.entries)
}

// authorized returns the key of the list that s is, compared by structure.
func (a *ACL) authorized(s sexp.Sexp) (*PublicKey, error) {
	if a == nil {
		return nil, fmt.Errorf("the access list is empty: %w", ErrUnauthorized)
	}
	fields, err := eccFields(s, "public-key", 2)
	if err != nil {
		return nil, fmt.Errorf("a key of another kind: %w", ErrUnauthorized)
	}
	if len(fields[0]) == 32 {
		if key := a.keys[[32]byte(fields[0])]; key != nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("key %.64X: %w", fields[0], ErrUnauthorized)
}

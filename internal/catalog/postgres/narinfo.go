package postgres

// pack returns the form in which a narinfo is kept.
func pack(narinfo []byte) []byte { return notNull(narinfo) }

// unpack inverts pack.
func unpack(kept []byte) ([]byte, error) { return kept, nil }

// notNull makes empty bytes of none, which would be NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

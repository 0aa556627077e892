// Package compress reads and writes the compressions in which substitute servers keep nars, and tells whether bytes that came
// compressed from elsewhere may be served unchanged to every Guix and Nix client.
//
// Readers are strict: checksums, sizes and the end of the input are verified, damage and truncation are typed errors, and memory
// stays bounded whatever the input claims. Writers are deterministic: the same input, options and version give the same bytes.
package compress

import "fmt"

// Method is a compression as narinfos name it.
type Method string

// The methods that clients of substitute servers know. Narfold writes the first five and reads all.
const (
	None   Method = "none"
	Zstd   Method = "zstd"
	Gzip   Method = "gzip"
	Lzip   Method = "lzip"
	Xz     Method = "xz"
	Bzip2  Method = "bzip2"
	Brotli Method = "br"
	Lz4    Method = "lz4"
)

// ParseMethod reads the value of a Compression field.
func ParseMethod(s string) (Method, error) {
	switch m := Method(s); m {
	case None, Zstd, Gzip, Lzip, Xz, Bzip2, Brotli, Lz4:
		return m, nil
	}
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return "", fmt.Errorf("compression %q is not known", s)
}

// Writable reports whether Narfold writes m.
func (m Method) Writable() bool {
	switch m {
	case None, Zstd, Gzip, Lzip, Xz:
		return true
	}
	return false
}

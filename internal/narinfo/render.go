package narinfo

import (
	"slices"
	"strconv"
)

// GuixBody returns the bytes that a Guix signature of n covers, in the order of guix publish since February 2022: StorePath,
// NarHash, NarSize, References and, if known, Deriver. Put the signature of these bytes into n.Signature and call Guix.
func GuixBody(n *Narinfo) []byte {
	b := make([]byte, 0, 256+60*len(n.References))
	b = line(b, "StorePath", n.StorePath.String())
	b = line(b, "NarHash", n.NarHash.String())
	b = line(b, "NarSize", strconv.FormatInt(n.NarSize, 10))
	b = references(b, n)
	if n.Deriver != "" {
		b = line(b, "Deriver", string(n.Deriver))
	}
	return b
}

// Guix renders n as guix publish does: GuixBody, Signature (if not empty), then a group of URL, Compression and FileSize for each
// file, which may change without signing anew. Sigs follow the Signature, for Nix clients of a /gnu/store. Neither System nor CA
// nor FileHash is written: Guix ignores them.
func Guix(n *Narinfo) []byte {
	b := GuixBody(n)
	if n.Signature != "" {
		b = line(b, "Signature", n.Signature)
	}
	for _, sig := range n.Sigs {
		b = line(b, "Sig", sig)
	}
	return appendFiles(b, n.Files, false)
}

// Nix renders n in the order of nix copy: StorePath, URL, Compression, FileHash, FileSize, NarHash, NarSize, References, Deriver,
// Sig, CA. Nix knows one file for each nar and takes the last group, so that the one for it must be last in n.Files.
func Nix(n *Narinfo) []byte {
	b := make([]byte, 0, 512+60*len(n.References))
	b = line(b, "StorePath", n.StorePath.String())
	b = appendFiles(b, n.Files, true)
	b = line(b, "NarHash", n.NarHash.String())
	b = line(b, "NarSize", strconv.FormatInt(n.NarSize, 10))
	b = references(b, n)
	if n.Deriver != "" {
		b = line(b, "Deriver", string(n.Deriver))
	}
	for _, sig := range n.Sigs {
		b = line(b, "Sig", sig)
	}
	if n.CA != "" {
		b = line(b, "CA", n.CA)
	}
	return b
}

// appendFiles writes the groups. Guix matches sizes to URLs by position and Nix takes the last of each field, so that a
// field is written for all files or for none.
func appendFiles(b []byte, files []File, hashes bool) []byte {
	sizes := !slices.ContainsFunc(files, func(f File) bool { return f.FileSize < 0 })
	hashes = hashes && !slices.ContainsFunc(files, func(f File) bool { return f.FileHash.IsZero() })
	for _, f := range files {
		b = line(b, "URL", f.URL)
		b = line(b, "Compression", string(f.Compression))
		if hashes {
			b = line(b, "FileHash", f.FileHash.String())
		}
		if sizes {
			b = line(b, "FileSize", strconv.FormatInt(f.FileSize, 10))
		}
	}
	return b
}

// references writes the line that must always be there; with no references its blank stays.
func references(b []byte, n *Narinfo) []byte {
	b = append(b, "References: "...)
	for i, r := range n.References {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, r...)
	}
	return append(b, '\n')
}

func line(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, '\n')
}

package narinfo

import (
	"bytes"
	"slices"
)

// WithFiles returns the text of a parsed narinfo with our files in place of the origin's, and with extraSigs (values of Sig fields)
// that it does not have yet. Every byte that Guix's signature covers, the signature, and every line of another field stay as they are.
//
// The groups are written in the order of files: Guix chooses among them by compression and size, Nix takes the last. FileSize and
// FileHash are written if every file has one, else for none. The URLs must pass CheckURL. With no files the origin's groups stay.
//
// In a Guix narinfo the order becomes: signed part, Signature, Sigs, other unsigned fields, groups. If its URLs are signed
// (FilesAreSigned) they stay, because clients would read them beside ours; files is then ignored. In a narinfo without a Signature
// our groups stand where the first URL stood, and extraSigs behind the last Sig, else before CA, else at the end.
func WithFiles(n *Narinfo, files []File, extraSigs []string) []byte {
	var fresh []string
	for _, sig := range extraSigs {
		if !slices.Contains(n.Sigs, sig) && !slices.Contains(fresh, sig) {
			fresh = append(fresh, sig)
		}
	}
	out := make([]byte, 0, len(n.Raw)+300*len(files)+120*len(fresh))
	if n.signedLen >= 0 {
		return withFilesSigned(out, n, files, fresh)
	}
	return withFilesUnsigned(out, n, files, fresh)
}

func withFilesSigned(out []byte, n *Narinfo, files []File, sigs []string) []byte {
	replace := len(files) > 0 && !n.FilesAreSigned()
	rest := n.Raw[n.signedLen:]
	end := bytes.IndexByte(rest, '\n') + 1
	out = append(out, n.Raw[:n.signedLen+end]...)
	rest = rest[end:]
	for l := range bytes.Lines(rest) {
		if isField(l, "Sig") {
			out = append(out, l...)
		}
	}
	for _, sig := range sigs {
		out = line(out, "Sig", sig)
	}
	for l := range bytes.Lines(rest) {
		if !isField(l, "Sig") && !(replace && isFileLine(l)) {
			out = append(out, l...)
		}
	}
	if replace {
		out = appendFiles(out, files, true)
	}
	return out
}

func withFilesUnsigned(out []byte, n *Narinfo, files []File, sigs []string) []byte {
	// The line before which the new Sigs go.
	before, hasSig, at := -1, len(n.Sigs) > 0, 0
	for l := range bytes.Lines(n.Raw) {
		if hasSig && isField(l, "Sig") {
			before = at + 1
		} else if !hasSig && isField(l, "CA") {
			before = at
		}
		at++
	}
	at = 0
	written := len(files) == 0
	for l := range bytes.Lines(n.Raw) {
		if at == before {
			out = appendSigs(out, sigs)
		}
		at++
		if len(files) > 0 && isFileLine(l) {
			if !written && isField(l, "URL") {
				out = appendFiles(out, files, true)
				written = true
			}
			continue
		}
		out = append(out, l...)
	}
	if before < 0 || before == at {
		out = appendSigs(out, sigs)
	}
	return out
}

func appendSigs(out []byte, sigs []string) []byte {
	for _, sig := range sigs {
		out = line(out, "Sig", sig)
	}
	return out
}

// isFileLine reports whether a line tells where the nar is to be had.
func isFileLine(l []byte) bool {
	return isField(l, "URL") || isField(l, "Compression") || isField(l, "FileHash") || isField(l, "FileSize")
}

func isField(l []byte, name string) bool {
	return len(l) > len(name) && l[len(name)] == ':' && string(l[:len(name)]) == name
}

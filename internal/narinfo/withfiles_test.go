package narinfo

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
)

var ours = []File{
	{URL: "nar/lzip/x", Compression: compress.Lzip, FileSize: 7},
	{URL: "nar/zstd/x", Compression: compress.Zstd, FileSize: 9},
}

const oursText = "URL: nar/lzip/x\nCompression: lzip\nFileSize: 7\nURL: nar/zstd/x\nCompression: zstd\nFileSize: 9\n"

func TestReservingChangesUnsignedLinesOnly(t *testing.T) {
	const signature = "Signature: 1;vectors.example;AAAA\n"
	oldOrder := "StorePath: /gnu/store/" + h1 + "-x\nURL: nar/gzip/x\nCompression: gzip\nNarHash: " + narHash + "\nNarSize: 5\nReferences: \n" + signature
	head, tail, _ := strings.Cut(nixText, "URL: nar/abc.nar.zst\nCompression: zstd\nFileHash: "+narHash+"\nFileSize: 17\n")
	body, _, _ := strings.Cut(tail, "Sig: ")
	const sig, ca = "Sig: test-1:AAAA\n", "CA: fixed:sha256:0\n"
	for _, c := range []struct {
		claim, text string
		files       []File
		sigs        []string
		want        string
	}{
		{"groups of Guix are replaced", guixText, ours, nil, guixBody + signature + oursText},
		{"Sigs follow the Signature", guixText, ours, []string{"k:BB"}, guixBody + signature + "Sig: k:BB\n" + oursText},
		{"other unsigned fields stay", guixBody + signature + guixFiles + "X: 1\nSig: a:AA\n", ours, []string{"k:BB", "a:AA"},
			guixBody + signature + "Sig: a:AA\nSig: k:BB\nX: 1\n" + oursText},
		{"signed URLs stay", oldOrder, ours, nil, oldOrder},
		{"signed URLs stay beside a new Sig", oldOrder, ours, []string{"k:BB"}, oldOrder + "Sig: k:BB\n"},
		{"no files means the origin's", guixText, nil, []string{"k:BB"}, guixBody + signature + "Sig: k:BB\n" + guixFiles},
		{"the group of Nix is replaced in its place", nixText, ours, nil, head + oursText + body + sig + ca},
		{"a Sig joins the others", nixText, ours, []string{"k:BB", "test-1:AAAA", "k:BB"}, head + oursText + body + sig + "Sig: k:BB\n" + ca},
		{"a first Sig stands before CA", strings.Replace(nixText, sig, "", 1), ours, []string{"k:BB"}, head + oursText + body + "Sig: k:BB\n" + ca},
		{"a first Sig stands at the end", head + tail[:len(body)] + oursText, nil, []string{"k:BB"}, head + body + oursText + "Sig: k:BB\n"},
		{"a Sig joins others at the end", head + body + oursText + sig, nil, []string{"k:BB"}, head + body + oursText + sig + "Sig: k:BB\n"},
		{"size for all or none", guixText, []File{ours[0], {URL: "nar/zstd/x", Compression: compress.Zstd, FileSize: UnknownSize}}, nil,
			guixBody + signature + "URL: nar/lzip/x\nCompression: lzip\nURL: nar/zstd/x\nCompression: zstd\n"},
		{"hash if all have one", nixText, []File{{URL: "nar/x", Compression: compress.None, FileHash: mustDigest(narHash), FileSize: 3}}, nil,
			head + "URL: nar/x\nCompression: none\nFileHash: " + narHash + "\nFileSize: 3\n" + body + sig + ca},
	} {
		got := string(WithFiles(mustParse(t, c.text), c.files, c.sigs))
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.claim, got, c.want)
		}
		mustParse(t, got)
	}
}

func TestURLs(t *testing.T) {
	for _, s := range []string{"nar/x", "/nar/x", "nar/lzip/a%2B%2B", "nar/a..b/...", "http://h/x", "https://[::1]:80/x?q=../a:b", "x?a:b", "http://h"} {
		if err := CheckURL(s); err != nil {
			t.Errorf("%s", err)
		}
	}
	for _, s := range []string{"", "/", "//host/x", "?q", "file:///x", "file:x", "ftp://h/x", "HTTP:x", "http:///x", "http://u:p@h/x", "javascript:1",
		"../x", "nar/..", "nar/./x", "nar/%2e%2E/x", "nar/..%2fx", "nar/%2e", "nar\\x", "nar/%5c..%5cx", "nar/%zz", "nar/%", "nar/%00", "nar/x y",
		"nar/é", "nar/x#f", "http://h/../x", "http://h/%2e%2e/x", ":x", "nar/" + strings.Repeat("x", MaxURL)} {
		if CheckURL(s) == nil {
			t.Errorf("accepted %q", clip(s))
		}
	}
	for base, want := range map[string]string{h1 + "-gtk+-3?x=1": h1 + "-gtk%2B-3%3Fx%3D1", h1 + "-a.b_c-D": h1 + "-a.b_c-D"} {
		n := mustParse(t, edit(nixText, "/nix/store/"+h1+"-hello-2.12.1", "/nix/store/"+base))
		if got := NarURL(compress.Zstd, n.StorePath.Base); got != "nar/zstd/"+want || CheckURL(got) != nil {
			t.Errorf("%s is at %s", base, got)
		}
		if got := NarURL(compress.None, n.StorePath.Base); got != "nar/"+want {
			t.Errorf("%s is at %s", base, got)
		}
	}
	for root, want := range map[string]string{"http://h": "http://h/nar/x", "http://h/p/": "http://h/p/nar/x"} {
		if got := (File{URL: "nar/x"}).Resolve(root); got != want {
			t.Errorf("below %s: %s", root, got)
		}
		if got := (File{URL: "https://cdn/x"}).Resolve(root); got != "https://cdn/x" {
			t.Errorf("an absolute URL became %s", got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(guixText))
	f.Add([]byte(nixText))
	f.Add([]byte(guixBody + "Signature: 1;;x\nSig: a:b\nX: y\n" + guixFiles))
	f.Add([]byte("StorePath: /gnu/store/" + h1 + "-x\nURL: http://h/%2B\nCompression: br\nNarHash: " + narHash + "\nNarSize: 5\nReferences: \nSignature: 1;h;A\n"))
	f.Add([]byte(edit(nixText, "FileSize: 17\n", "FileSize: 17\nURL: b\nCompression: c\nFileHash: "+narHash+"\nFileSize: 0\n")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := Parse(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(n.Raw, raw) {
			t.Fatal("Raw differs from the input")
		}
		// The first marker ends the signed part for Guix, whatever we made of it.
		if i := bytes.Index(raw, []byte(marker)); i != n.signedLen {
			t.Fatalf("signed part ends at %d, marker at %d", n.signedLen, i)
		}
		// What we serve instead is accepted, has the same facts, and the same signed bytes.
		again, err := Parse(WithFiles(n, ours, []string{"k:BB"}))
		if err != nil {
			t.Fatalf("re-served: %v", err)
		}
		if !bytes.Equal(again.SignedPart(), n.SignedPart()) || again.Signature != n.Signature || again.Fingerprint() != n.Fingerprint() ||
			again.Deriver != n.Deriver || again.CA != n.CA || again.System != n.System || !slices.Equal(again.Unknown, n.Unknown) {
			t.Fatalf("re-serving changed it:\n%s", again.Raw)
		}
		if !slices.Contains(again.Sigs, "k:BB") || !slices.Equal(slices.DeleteFunc(again.Sigs, func(s string) bool { return s == "k:BB" }),
			slices.DeleteFunc(slices.Clone(n.Sigs), func(s string) bool { return s == "k:BB" })) {
			t.Fatalf("signatures %q became %q", n.Sigs, again.Sigs)
		}
		if !n.FilesAreSigned() && !slices.Equal(again.Files, ours) {
			t.Fatalf("files are %v", again.Files)
		}
		// Both renderings read back.
		for _, render := range []func(*Narinfo) []byte{Guix, Nix} {
			if n.StorePath.Dir == "/gnu/store" || n.Signature == "" {
				back, err := Parse(render(n))
				if err != nil || back.Fingerprint() != n.Fingerprint() || len(back.Files) != len(n.Files) {
					t.Fatalf("rendered: %v", err)
				}
			}
		}
	})
}

package compact

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// factsOf are what a catalogue knows after publishing text with these files.
func factsOf(t testing.TB, text []byte, files ...File) Facts {
	t.Helper()
	n, err := narinfo.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	f := Facts{Path: n.StorePath, NarHash: n.NarHash, NarSize: n.NarSize, Files: files}
	for _, r := range n.References {
		if r != n.StorePath.Base {
			f.References = append(f.References, r)
		}
	}
	slices.Sort(f.References)
	f.References = slices.Compact(f.References)
	return f
}

func hash(name string) string {
	d := digest.Of([]byte(name))
	return string(storepath.HashPartOf([20]byte(d[:20])))
}

// guixText is a narinfo as guix publish writes it, signed by a made-up key: the s-expression has its form, not its truth.
func guixText(name string, refs ...string) []byte {
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: storepath.Base(hash(name) + "-" + name)},
		NarHash: digest.Of([]byte("nar " + name)), NarSize: 123456, Deriver: storepath.Base(hash("drv "+name) + "-" + name + ".drv"),
		Files: []narinfo.File{{URL: "nar/lzip/" + hash(name) + "-" + name, Compression: compress.Lzip, FileSize: 4242}}}
	for _, r := range refs {
		n.References = append(n.References, storepath.Base(hash(r)+"-"+r))
	}
	slices.Sort(n.References)
	body := narinfo.GuixBody(n)
	sum := func(of []byte) []byte { d := digest.Of(of); return d[:] }
	n.Signature = "1;berlin.example;" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "(signature \n (data \n  (flags rfc6979)\n  (hash sha256 #%X#)\n  )\n (sig-val \n  (ecdsa \n   (r #%X#)\n   (s #%X#)\n   )\n  )\n (public-key \n  (ecc \n   (curve Ed25519)\n   (q #8D156F295D24B0D9A86FA5741A840FF2D24F60F7B6C4134814AD55625971B394#)\n   )\n  )\n )\n",
		sum(body), sum([]byte("r"+name)), sum([]byte("s"+name))))
	return narinfo.Guix(n)
}

func nixText(name string, sigs int) []byte {
	n := &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: storepath.Base(hash(name) + "-" + name)},
		NarHash: digest.Of([]byte("nar " + name)), NarSize: 99, Deriver: storepath.Base(hash("drv "+name) + "-" + name + ".drv")}
	n.References = []storepath.Base{n.StorePath.Base, storepath.Base(hash("glibc") + "-glibc-2.35")}
	slices.Sort(n.References)
	n.Files = []narinfo.File{{URL: "nar/" + digest.Of([]byte("file " + name)).String()[len("sha256:"):] + ".nar.xz", Compression: compress.Xz, FileHash: digest.Of([]byte("file " + name)), FileSize: 50}}
	for i := range sigs {
		raw := bytes.Repeat([]byte{byte(i)}, 64)
		n.Sigs = append(n.Sigs, fmt.Sprintf("cache.example-%d:%s", i, base64.StdEncoding.EncodeToString(raw)))
	}
	return narinfo.Nix(n)
}

func TestANarinfoComesBackByteForByte(t *testing.T) {
	kept := File{compress.Xz, 50, digest.Of([]byte("file hello-2.12"))}
	for what, c := range map[string]struct {
		text []byte
		file File
		most int // bytes of its own
	}{
		"Guix":                          {guixText("hello-2.12", "glibc-2.35", "gcc-14.2-lib"), File{compress.Lzip, 4242, digest.Of(nil)}, 86},
		"Guix, compressed again here":   {guixText("hello-2.12", "glibc-2.35"), File{compress.Zstd, 4000, digest.Of(nil)}, 88},
		"Nix, the file kept as it came": {nixText("hello-2.12", 1), kept, 84},
		"Nix, compressed again here":    {nixText("hello-2.12", 1), File{compress.Zstd, 40, digest.Of(nil)}, 117},
		"Nix, three signatures":         {nixText("hello-2.12", 3), kept, 20 + 3*64},
		"Nix, no signature":             {nixText("hello-2.12", 0), kept, 20},
		"no references":                 {[]byte(strings.Replace(string(nixText("hello-2.12", 1)), "References: "+references(t, nixText("hello-2.12", 1)), "References: ", 1)), kept, 84},
		"another deriver":               {bytes.Replace(nixText("hello-2.12", 1), []byte("-hello-2.12.drv"), []byte("-other.drv"), 1), kept, 100},
		"a deriver that is not known":   {bytes.Replace(nixText("hello-2.12", 1), []byte("Deriver: "+hash("drv hello-2.12")+"-hello-2.12.drv"), []byte("Deriver: unknown-deriver"), 1), kept, 84},
		"a field that nobody knows":     {append(nixText("hello-2.12", 1), "Colour: blue\n"...), kept, 100},
		"a content address":             {append(nixText("hello-2.12", 1), "CA: text:sha256:0000000000000000000000000000000000000000000000000000\n"...), kept, 160},
		"references in another order":   {reversed(t, guixText("hello-2.12", "a", "b", "c")), File{compress.Lzip, 4242, digest.Of(nil)}, 210},
	} {
		f := factsOf(t, c.text, c.file)
		template, own, ok := Split(c.text, f)
		if !ok {
			t.Errorf("%s: not split:\n%s", what, c.text)
			continue
		}
		if len(own) > c.most {
			t.Errorf("%s: %d bytes of its own, of %d, want at most %d; template %q", what, len(own), len(c.text), c.most, template)
		}
		n, err := narinfo.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if refs, known := References(template, f); known && !slices.Equal(refs, n.References) || known == (what == "references in another order") {
			t.Errorf("%s: references %q, known %v, want %q", what, refs, known, n.References)
		}
		got, err := Join([]byte("before"), template, own, f)
		if err != nil || string(got) != "before"+string(c.text) {
			t.Errorf("%s: %v\n got %s\nwant %s", what, err, got, c.text)
		}
	}
}

func references(t *testing.T, text []byte) string {
	t.Helper()
	_, rest, _ := strings.Cut(string(text), "References: ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func reversed(t *testing.T, text []byte) []byte {
	t.Helper()
	was := references(t, text)
	names := strings.Fields(was)
	slices.Reverse(names)
	return bytes.Replace(text, []byte(was), []byte(strings.Join(names, " ")), 1)
}

func TestNarinfosOfOneSignerShareATemplate(t *testing.T) {
	templates := map[string]int{}
	for _, name := range []string{"hello-2.12", "emacs-29", "lib+plus-1.0", "x"} {
		text := guixText(name, "glibc-2.35")
		text = bytes.ReplaceAll(text, []byte("nar/lzip/"+hash(name)+"-"+name), []byte("nar/lzip/"+narinfo.EscapeBase(storepath.Base(hash(name)+"-"+name))))
		template, _, ok := Split(text, factsOf(t, text, File{compress.Lzip, 4242, digest.Of(nil)}))
		if !ok {
			t.Fatalf("not split:\n%s", text)
		}
		templates[template]++
	}
	if len(templates) != 1 {
		t.Errorf("%d templates: %v", len(templates), templates)
	}
}

func TestWhatDoesNotBelongTogetherIsNotJoined(t *testing.T) {
	text := guixText("hello-2.12", "glibc-2.35")
	f := factsOf(t, text, File{compress.Lzip, 4242, digest.Of(nil)})
	template, own, ok := Split(text, f)
	if !ok {
		t.Fatal("not split")
	}
	without := f
	without.Files = nil
	for what, c := range map[string]struct {
		template string
		own      []byte
		facts    Facts
	}{
		"bytes are missing": {template, own[:len(own)-1], f},
		"bytes are left":    {template, append(slices.Clone(own), 0), f},
		"a mark is cut":     {template + "\x01", own, f},
		"a mark is unknown": {template + "\x01?", own, f},
		"the file is gone":  {template, own, without},
		"no end":            {template + "\x01G", own, f},
		"no beginning":      {template + "\x01g", own, f},
	} {
		if got, err := Join(nil, c.template, c.own, c.facts); err == nil {
			t.Errorf("%s: joined to %q", what, got)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(guixText("hello-2.12", "glibc-2.35"))
	f.Add(nixText("hello-2.12", 2))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := narinfo.Parse(text)
		if err != nil {
			return
		}
		facts := Facts{Path: n.StorePath, NarHash: n.NarHash, NarSize: n.NarSize, Files: []File{{compress.Zstd, 4242, digest.Of(text)}}}
		for _, r := range n.References {
			if r != n.StorePath.Base {
				facts.References = append(facts.References, r)
			}
		}
		slices.Sort(facts.References)
		template, own, ok := Split(text, facts)
		if !ok {
			return
		}
		if got, err := Join(nil, template, own, facts); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%v\n got %q\nwant %q", err, got, text)
		}
	})
}

func FuzzJoin(f *testing.F) {
	text := guixText("hello-2.12", "glibc-2.35")
	facts := factsOf(f, text, File{compress.Lzip, 4242, digest.Of(nil)})
	template, own, _ := Split(text, facts)
	f.Add(template, own)
	f.Fuzz(func(t *testing.T, template string, own []byte) {
		if got, err := Join(nil, template, own, facts); err == nil && len(got) > 1000*(len(template)+len(own)+1) {
			t.Errorf("%d bytes came of %d", len(got), len(template)+len(own))
		}
	})
}

func BenchmarkJoin(b *testing.B) {
	text := guixText("hello-2.12", "glibc-2.35", "gcc-14.2-lib", "a", "b", "c", "d", "e", "f", "g")
	f := factsOf(b, text, File{compress.Lzip, 4242, digest.Of(nil)})
	template, own, _ := Split(text, f)
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		var err error
		if buf, err = Join(buf[:0], template, own, f); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(text)), "text-bytes")
	b.ReportMetric(float64(len(own)), "own-bytes")
}

func BenchmarkSplit(b *testing.B) {
	text := guixText("hello-2.12", "glibc-2.35", "gcc-14.2-lib", "a", "b", "c", "d", "e", "f", "g")
	f := factsOf(b, text, File{compress.Lzip, 4242, digest.Of(nil)})
	for b.Loop() {
		if _, _, ok := Split(text, f); !ok {
			b.Fatal("not split")
		}
	}
}

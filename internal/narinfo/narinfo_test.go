package narinfo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

const (
	h1      = "gpr97dmy8mpg1w10hbkg3cwmx4c1spc7"
	h2      = "5h2w4qi9hk1qzzgi1w83220ydslinr4s"
	h3      = "8bhx1hh3kgpp9a9ldgw6wbmnqf4dzh3v"
	narHash = "sha256:0sj5qcgm2vkk3zjjl7l1z9jg1s2ch8xzxyp0n7lrd3npbvsn7h55"
)

const guixBody = "StorePath: /gnu/store/" + h1 + "-hello-2.12.1\n" +
	"NarHash: " + narHash + "\nNarSize: 227560\n" +
	"References: " + h2 + "-glibc-2.33 " + h1 + "-hello-2.12.1\n" +
	"Deriver: " + h3 + "-hello-2.12.1.drv\n"

const guixFiles = "URL: nar/lzip/" + h1 + "-hello-2.12.1\nCompression: lzip\nFileSize: 50316\n" +
	"URL: nar/zstd/" + h1 + "-hello-2.12.1\nCompression: zstd\nFileSize: 59990\n"

const guixText = guixBody + "Signature: 1;vectors.example;AAAA\n" + guixFiles

const nixText = "StorePath: /nix/store/" + h1 + "-hello-2.12.1\n" +
	"URL: nar/abc.nar.zst\nCompression: zstd\nFileHash: " + narHash + "\nFileSize: 17\n" +
	"NarHash: " + narHash + "\nNarSize: 227560\n" +
	"References: " + h2 + "-glibc-2.33 " + h1 + "-hello-2.12.1\n" +
	"Deriver: " + h3 + "-hello-2.12.1.drv\n" +
	"Sig: test-1:AAAA\nCA: fixed:sha256:0\n"

func mustParse(t testing.TB, text string) *Narinfo {
	t.Helper()
	n, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, text)
	}
	return n
}

func mustDigest(s string) digest.SHA256 {
	d, err := digest.Parse(s)
	if err != nil {
		panic(err)
	}
	return d
}

func ExampleParse() {
	n, err := Parse([]byte(guixText))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(n.StorePath.Name(), n.NarSize, len(n.References))
	for _, f := range n.Files {
		fmt.Println(f.Compression, f.FileSize, f.Resolve("https://mirror.example/guix"))
	}
	// Output:
	// hello-2.12.1 227560 2
	// lzip 50316 https://mirror.example/guix/nar/lzip/gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-hello-2.12.1
	// zstd 59990 https://mirror.example/guix/nar/zstd/gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-hello-2.12.1
}

func TestEveryFieldIsReadInBothDialects(t *testing.T) {
	guix := mustParse(t, guixText)
	want := &Narinfo{
		Raw:        []byte(guixText),
		StorePath:  storepath.Path{Dir: storepath.Guix, Base: h1 + "-hello-2.12.1"},
		NarHash:    mustDigest(narHash),
		NarSize:    227560,
		References: []storepath.Base{h2 + "-glibc-2.33", h1 + "-hello-2.12.1"},
		Deriver:    h3 + "-hello-2.12.1.drv",
		Signature:  "1;vectors.example;AAAA",
		Files: []File{
			{URL: "nar/lzip/" + h1 + "-hello-2.12.1", Compression: compress.Lzip, FileSize: 50316},
			{URL: "nar/zstd/" + h1 + "-hello-2.12.1", Compression: compress.Zstd, FileSize: 59990},
		},
		signedLen: len(guixBody),
	}
	if !reflect.DeepEqual(guix, want) {
		t.Errorf("Guix:\n got %+v\nwant %+v", guix, want)
	}
	if string(guix.SignedPart()) != guixBody || !guix.IsGuix() || guix.FilesAreSigned() {
		t.Errorf("signed part %q", guix.SignedPart())
	}
	nix := mustParse(t, nixText)
	want.Raw, want.StorePath.Dir, want.Signature, want.signedLen = []byte(nixText), storepath.Nix, "", -1
	want.Files = []File{{URL: "nar/abc.nar.zst", Compression: compress.Zstd, FileHash: mustDigest(narHash), FileSize: 17}}
	want.Sigs, want.CA = []string{"test-1:AAAA"}, "fixed:sha256:0"
	if !reflect.DeepEqual(nix, want) {
		t.Errorf("Nix:\n got %+v\nwant %+v", nix, want)
	}
	if nix.SignedPart() != nil || nix.IsGuix() {
		t.Error("a Nix narinfo has a part signed by Guix")
	}
}

func TestRenderingGivesBackWhatBothProjectsWrite(t *testing.T) {
	if got := string(Guix(mustParse(t, guixText))); got != guixText {
		t.Errorf("Guix:\n%s", got)
	}
	if got := string(Nix(mustParse(t, nixText))); got != nixText {
		t.Errorf("Nix:\n%s", got)
	}
	alone := &Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: h1 + "-x"}, NarHash: mustDigest(narHash), NarSize: 1}
	want := "StorePath: /gnu/store/" + h1 + "-x\nNarHash: " + narHash + "\nNarSize: 1\nReferences: \n"
	if got := string(GuixBody(alone)); got != want {
		t.Errorf("an item without references:\n%s", got)
	}
}

// The vectors were made with libgcrypt; package guixkey checks their signatures.
func TestVectorsOfTheSigningPackageParse(t *testing.T) {
	paths, err := filepath.Glob("../guixkey/testdata/guix-vectors/v*/full.narinfo")
	if err != nil || len(paths) != 5 {
		t.Fatalf("%d vectors: %v", len(paths), err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := os.ReadFile(filepath.Join(filepath.Dir(path), "body.txt"))
		if err != nil {
			t.Fatal(err)
		}
		n := mustParse(t, string(raw))
		if string(n.SignedPart()) != string(body) {
			t.Errorf("%s: signed part %q", path, n.SignedPart())
		}
		if old := strings.Contains(path, "/v3/"); n.FilesAreSigned() != old {
			t.Errorf("%s: FilesAreSigned is %v", path, !old)
		}
		if got := Guix(n); !n.FilesAreSigned() && string(got) != string(raw) {
			t.Errorf("%s rendered:\n%s", path, got)
		}
	}
}

func edit(text, old, with string) string {
	if !strings.Contains(text, old) {
		panic("nothing to edit: " + old)
	}
	return strings.Replace(text, old, with, 1)
}

func TestNarinfosThatAreRefused(t *testing.T) {
	hex := "sha256:" + mustDigest(narHash).Hex()
	many := strings.Repeat(" "+h1+"-y", MaxReferences)
	for _, c := range []struct {
		why, text, field string
		kind             error
	}{
		{"empty", "", "StorePath", ErrMissing},
		{"no StorePath", edit(nixText, "StorePath: ", "Xtore: "), "StorePath", ErrMissing},
		{"no NarHash", edit(nixText, "NarHash: ", "Xar: "), "NarHash", ErrMissing},
		{"no NarSize", edit(nixText, "NarSize: ", "Xar: "), "NarSize", ErrMissing},
		{"no References", edit(nixText, "References: ", "Xef: "), "References", ErrMissing},
		{"no URL", edit(guixText, guixFiles, ""), "URL", ErrMissing},
		{"no Compression for Guix", edit(guixText, guixFiles, "URL: nar/x\n"), "Compression", ErrMissing},
		{"empty signature", edit(guixText, "Signature: 1;vectors.example;AAAA", "Signature: "), "Signature", ErrMissing},
		{"StorePath twice", nixText + "StorePath: /nix/store/" + h1 + "-hello-2.12.1\n", "StorePath", ErrDuplicate},
		{"References twice", nixText + "References: \n", "References", ErrDuplicate},
		{"Signature twice", guixText + "Signature: 1;x;BBBB\n", "Signature", ErrDuplicate},
		{"a reference twice", edit(nixText, "-glibc-2.33", "-glibc-2.33 "+h2+"-glibc-2.33"), "References", ErrDuplicate},
		{"CRLF", strings.ReplaceAll(nixText, "\n", "\r\n"), "", ErrLine},
		{"blank line", edit(nixText, "\nNarHash", "\n\nNarHash"), "", ErrLine},
		{"blank line at the end", nixText + "\n", "", ErrLine},
		{"no final LF", strings.TrimSuffix(nixText, "\n"), "", ErrLine},
		{"no blank after the colon", edit(nixText, "NarSize: ", "NarSize:"), "", ErrLine},
		{"blank before the colon", edit(nixText, "NarSize: ", "NarSize : "), "", ErrLine},
		{"continuation line", edit(guixText, "NarSize", "+ x: y\nNarSize"), "", ErrLine},
		{"comment", edit(guixText, "NarSize", "# x: y\nNarSize"), "", ErrLine},
		{"tab", edit(nixText, "-glibc-2.33 ", "-glibc-2.33\t"), "", ErrControl},
		{"NUL", nixText + "X: \x00\n", "", ErrControl},
		{"C1 control", nixText + "X: \u0085\n", "", ErrControl},
		{"not UTF-8", nixText + "X: \xff\n", "", ErrControl},
		{"relative StorePath", edit(nixText, "/nix/store/", ""), "StorePath", ErrPath},
		{"climbing StorePath", edit(nixText, "/nix/store/", "/nix/store/../"), "StorePath", ErrPath},
		{"hidden name", edit(guixText, h2+"-glibc", h2+"-.glibc"), "References", ErrPath},
		{"whole path as reference", edit(guixText, h2+"-glibc", "/gnu/store/"+h2+"-glibc"), "References", ErrPath},
		{"two blanks in References", edit(guixText, "-glibc-2.33 ", "-glibc-2.33  "), "References", ErrPath},
		{"bad Deriver", edit(guixText, "Deriver: "+h3, "Deriver: "+h3+"/"), "Deriver", ErrPath},
		{"hex for Guix", edit(guixText, narHash, hex), "NarHash", ErrHash},
		{"SHA-512", edit(nixText, "NarHash: sha256", "NarHash: sha512"), "NarHash", ErrHash},
		{"bad FileHash", edit(nixText, "FileHash: sha256", "FileHash: md5"), "FileHash", ErrHash},
		{"negative", edit(nixText, "227560", "-1"), "NarSize", ErrSize},
		{"plus", edit(nixText, "227560", "+1"), "NarSize", ErrSize},
		{"2^63", edit(nixText, "227560", "9223372036854775808"), "NarSize", ErrSize},
		{"beyond 64 bits", edit(nixText, "227560", "99999999999999999999"), "NarSize", ErrSize},
		{"nothing", edit(nixText, "227560", ""), "NarSize", ErrSize},
		{"zero", edit(nixText, "227560", "0"), "NarSize", ErrSize},
		{"leading zero", edit(nixText, "227560", "0227560"), "NarSize", ErrSize},
		{"negative FileSize", edit(guixText, "50316", "-2"), "FileSize", ErrSize},
		{"FileSize for one of two", edit(guixText, "FileSize: 50316\n", ""), "FileSize", ErrGroups},
		{"Compression for one of two", edit(guixText, "Compression: zstd\n", ""), "Compression", ErrGroups},
		{"FileHash for one of two", edit(guixText, "FileSize: 50316", "FileHash: "+narHash+"\nFileSize: 50316"), "FileHash", ErrGroups},
		{"two Compressions", edit(nixText, "Compression: zstd\n", "Compression: zstd\nCompression: xz\n"), "Compression", ErrGroups},
		{"attribute above the first of two", edit(guixText, "NarSize", "Compression: xz\nNarSize"), "URL", ErrGroups},
		{"attribute above and below the only URL", edit(nixText, "URL", "Compression: xz\nURL"), "URL", ErrGroups},
		{"blank in Compression", edit(nixText, "Compression: zstd", "Compression: z std"), "Compression", ErrGroups},
		{"file URL", edit(nixText, "URL: nar", "URL: file:///etc"), "URL", ErrURL},
		{"climbing URL", edit(nixText, "URL: nar/", "URL: nar/../../"), "URL", ErrURL},
		{"the word Signature: above", edit(guixText, "NarSize", "X: Signature: 1\nNarSize"), "Signature", ErrUncovered},
		{"the word inside a name", edit(guixText, "NarSize", "XSignature: 1\nNarSize"), "Signature", ErrUncovered},
		{"the word alone", edit(nixText, "fixed:", "fixed:Signature:"), "Signature", ErrUncovered},
		{"References below the signature", edit(guixText, "References: "+h2+"-glibc-2.33 "+h1+"-hello-2.12.1\n", "") + "References: \n", "References", ErrUncovered},
		{"too long", nixText + strings.Repeat("X: y\n", MaxSize), "", ErrTooLarge},
		{"too many lines", nixText + strings.Repeat("X: y\n", MaxLines), "", ErrTooLarge},
		{"too many references", edit(nixText, "-glibc-2.33", "-glibc-2.33"+many), "References", ErrTooLarge},
		{"too many URLs", nixText + strings.Repeat("URL: nar/x\n", MaxFiles), "URL", ErrTooLarge},
	} {
		n, err := Parse([]byte(c.text))
		var fe *FieldError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &fe) || !errors.Is(err, c.kind) || fe.Field != c.field {
			t.Errorf("%s: got %v, %v; want %s: %v", c.why, n, err, c.field, c.kind)
		} else if len(err.Error()) > 600 {
			t.Errorf("%s: the error has %d bytes", c.why, len(err.Error()))
		}
	}
}

func TestWhatRealServersWriteIsAccepted(t *testing.T) {
	hex := "sha256:" + mustDigest(narHash).Hex()
	for why, text := range map[string]string{
		"unknown fields":               guixText + "X-Thing: a: b\nPriority: 3\n",
		"hex NarHash in Nix":           edit(nixText, "NarHash: "+narHash, "NarHash: "+hex),
		"no Compression in Nix":        edit(nixText, "Compression: zstd\n", ""),
		"unknown compression":          edit(nixText, "Compression: zstd", "Compression: lrzip-9"),
		"attributes above the URL":     edit(edit(nixText, "URL: nar/abc.nar.zst\n", ""), "FileSize: 17\n", "FileSize: 17\nURL: nar/abc.nar.zst\n"),
		"several signatures":           nixText + "Sig: other-2:BBBB\n",
		"Sig in a Guix narinfo":        guixText + "Sig: other-2:BBBB\n",
		"deriver not known to Nix":     edit(nixText, h3+"-hello-2.12.1.drv", "unknown-deriver"),
		"empty deriver":                edit(guixText, h3+"-hello-2.12.1.drv", ""),
		"no references":                edit(nixText, "References: "+h2+"-glibc-2.33 "+h1+"-hello-2.12.1", "References: "),
		"unsorted references":          edit(nixText, h2+"-glibc-2.33 "+h1+"-hello-2.12.1", h1+"-hello-2.12.1 "+h2+"-glibc-2.33"),
		"another store":                edit(nixText, "/nix/store", "/tmp/nixt/store"),
		"a word of other letters":      guixText + "X: größer\n",
		"Signature: in what follows":   guixText + "X: Signature: 2\n",
		"absolute URL":                 edit(nixText, "nar/abc", "https://cdn.example:8443/a%20b/abc"),
		"URL with a query":             edit(nixText, "nar/abc.nar.zst", "nar/abc.nar.zst?hash=x:y/../z"),
		"the largest size":             edit(nixText, "227560", "9223372036854775807"),
		"no FileSize":                  edit(nixText, "FileSize: 17\n", ""),
		"a long list of references":    edit(nixText, h2+"-glibc-2.33 "+h1+"-hello-2.12.1", manyReferences(9000)),
		"a signature with other words": edit(guixText, "1;vectors.example;AAAA", "9;;;x y"),
	} {
		n, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", why, err)
		} else if string(n.Raw) != text {
			t.Errorf("%s: Raw differs", why)
		}
	}
	n := mustParse(t, edit(nixText, "Compression: zstd\n", ""))
	if n.Files[0].Compression != compress.Bzip2 {
		t.Errorf("no Compression means %q", n.Files[0].Compression)
	}
	n = mustParse(t, guixText+"B: 1\nA: 2\nB: 3\n")
	if want := []Field{{"B", "1"}, {"A", "2"}, {"B", "3"}}; !slices.Equal(n.Unknown, want) {
		t.Errorf("unknown fields are %v", n.Unknown)
	}
}

func manyReferences(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%032d-package-with-a-name-%d", i, i)
	}
	return b.String()
}

func TestANarinfoOfAnotherItemIsNoticed(t *testing.T) {
	n := mustParse(t, guixText)
	if err := n.Check(h1); err != nil {
		t.Error(err)
	}
	if err := n.Check(h2); !errors.Is(err, ErrMismatch) {
		t.Errorf("Check of another hash part: %v", err)
	}
}

func TestTheFingerprintDoesNotDependOnSpelling(t *testing.T) {
	want := "1;/nix/store/" + h1 + "-hello-2.12.1;" + narHash + ";227560;/nix/store/" + h2 + "-glibc-2.33,/nix/store/" + h1 + "-hello-2.12.1"
	hex := "sha256:" + mustDigest(narHash).Hex()
	for _, text := range []string{
		nixText,
		edit(nixText, "NarHash: "+narHash, "NarHash: "+hex),
		edit(nixText, h2+"-glibc-2.33 "+h1+"-hello-2.12.1", h1+"-hello-2.12.1 "+h2+"-glibc-2.33"),
	} {
		if got := mustParse(t, text).Fingerprint(); got != want {
			t.Errorf("got %s", got)
		}
	}
	empty := edit(nixText, h2+"-glibc-2.33 "+h1+"-hello-2.12.1", "")
	if got := mustParse(t, empty).Fingerprint(); !strings.HasSuffix(got, ";227560;") {
		t.Errorf("without references: %s", got)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, text := range map[string]string{"guix": guixText, "nix": nixText, "9000 references": edit(nixText, h2+"-glibc-2.33 "+h1+"-hello-2.12.1", manyReferences(9000))} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(text)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

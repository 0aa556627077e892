package feed_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

const origin = "8f0e4bb9a1d24c7e93c1c1a0d5f3b2e7"

var day = time.Date(2026, 11, 21, 21, 30, 0, 250_000_000, time.UTC)

func secret(t testing.TB, name string, seed byte) *nixkey.Secret {
	t.Helper()
	s, err := nixkey.Generate(name, rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(n int64, op feed.Op) feed.Record {
	name := fmt.Sprintf("c++-%d", n)
	h := digest.Of([]byte(name))
	base := storepath.Base(string(storepath.HashPartOf([20]byte(h[:20]))) + "-" + name)
	r := feed.Record{Sequence: n, Time: day.Add(time.Duration(n) * time.Second), Op: op, Path: storepath.Path{Dir: storepath.Guix, Base: base}}
	if op == feed.Withdraw || op == feed.Delete {
		return r
	}
	r.NarHash, r.NarSize = digest.Of([]byte("nar of "+name)), 1000+n
	r.Narinfo = narinfo.Guix(&narinfo.Narinfo{StorePath: r.Path, NarHash: r.NarHash, NarSize: r.NarSize, References: []storepath.Base{base},
		Files: []narinfo.File{{URL: narinfo.NarURL(compress.Zstd, base), Compression: compress.Zstd, FileSize: 500}}})
	for _, m := range []compress.Method{compress.Lzip, compress.Zstd} {
		r.Files = append(r.Files, feed.File{Compression: m, Size: 500 + n, SHA256: digest.Of([]byte(m)), Key: objstore.Key("nar/" + string(m) + "/" + string(base)), URL: narinfo.NarURL(m, base)})
	}
	return r
}

// stretch returns the records after a point, one for each operation.
func stretch(t testing.TB, before feed.Point, ops ...feed.Op) *feed.Stretch {
	t.Helper()
	s := &feed.Stretch{Origin: origin, Before: before}
	for i, op := range ops {
		r := record(before.Sequence+int64(i)+1, op)
		l, err := r.Line()
		if err != nil {
			t.Fatal(err)
		}
		s.Lines = append(s.Lines, l)
	}
	return s
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	for _, op := range []feed.Op{feed.Publish, feed.Files, feed.Withdraw, feed.Undo, feed.Delete} {
		want := record(7, op)
		l, err := want.Line()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(l, []byte("\n")) != 1 || l[len(l)-1] != '\n' || l[0] != '{' {
			t.Errorf("%s: no line: %q", op, l)
		}
		got, err := feed.ParseRecord(l)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", op, err, got, want)
		}
	}
}

func TestARecordThatContradictsItselfIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(r *feed.Record){
		"another path":         func(r *feed.Record) { r.Path.Base += "x" },
		"another nar":          func(r *feed.Record) { r.NarHash[0]++ },
		"another size":         func(r *feed.Record) { r.NarSize++ },
		"no narinfo":           func(r *feed.Record) { r.Narinfo = nil },
		"a narinfo not UTF-8":  func(r *feed.Record) { r.Narinfo = append(r.Narinfo, "Deriver: \xff\n"...) },
		"no files":             func(r *feed.Record) { r.Files = nil },
		"a file without size":  func(r *feed.Record) { r.Files[0].Size = 0 },
		"a key that climbs":    func(r *feed.Record) { r.Files[0].Key = "nar/../keys" },
		"a URL that climbs":    func(r *feed.Record) { r.Files[0].URL = "nar/%2e%2e/keys" },
		"a method that is not": func(r *feed.Record) { r.Files[0].Compression = "zip" },
		"number zero":          func(r *feed.Record) { r.Sequence = 0 },
		"an unknown operation": func(r *feed.Record) { r.Op = "forget" },
	} {
		r := record(7, feed.Publish)
		spoil(&r)
		if l, err := r.Line(); !errors.Is(err, feed.ErrFormat) {
			t.Errorf("%s: %v\n%s", name, err, l)
		}
	}
}

func TestAHeadIsBelievedOnlyAsItWasSigned(t *testing.T) {
	key := secret(t, "farm.example-feed-1", 1)
	h := feed.Head{Origin: origin, Point: feed.Begin(origin), Time: day.Truncate(time.Second)}
	text := h.Sign(key)
	got, err := feed.ParseHead(text, key.Public())
	if err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := feed.ParseHead(text, secret(t, "farm.example-feed-1", 2).Public()); !errors.Is(err, nixkey.ErrInvalid) {
		t.Errorf("another key of the same name: %v", err)
	}
	if _, err := feed.ParseHead(text, secret(t, "other", 1).Public()); !errors.Is(err, nixkey.ErrUnknownKey) {
		t.Errorf("a key of another name: %v", err)
	}
	for i := range text {
		for bit := range 8 {
			changed := bytes.Clone(text)
			changed[i] ^= 1 << bit
			if _, err := feed.ParseHead(changed, key.Public()); err == nil {
				t.Errorf("byte %d bit %d is not missed: %q", i, bit, changed)
			}
		}
		if _, err := feed.ParseHead(text[:i], key.Public()); err == nil {
			t.Errorf("believed when cut off at %d", i)
		}
	}
}

func TestAStretchLeadsFromItsBeginningToItsEnd(t *testing.T) {
	begin := feed.Begin(origin)
	s := stretch(t, begin, feed.Publish, feed.Files, feed.Delete)
	text := s.Text()
	got, records, err := feed.ParseStretch(text)
	if err != nil || !reflect.DeepEqual(got, s) || len(records) != 3 || records[2].Op != feed.Delete {
		t.Errorf("%v\n%+v", err, records)
	}
	end, err := begin.Follow(origin, got)
	if err != nil || end != s.End() || end.Sequence != 3 {
		t.Errorf("%+v, %v", end, err)
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		read, _, err := feed.ParseStretch(changed)
		if err == nil {
			_, err = begin.Follow(origin, read)
		}
		if err == nil {
			t.Errorf("a change of byte %d is not found", i)
		}
		if _, _, err := feed.ParseStretch(text[:i]); err == nil {
			t.Errorf("believed when cut off at %d", i)
		}
	}
	if _, _, err := feed.ParseStretch(append(text, '\n')); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("with something behind its end: %v", err)
	}
}

func TestWhatDoesNotFollowIsAFork(t *testing.T) {
	first := stretch(t, feed.Begin(origin), feed.Publish, feed.Publish)
	other := stretch(t, feed.Begin(origin), feed.Publish, feed.Files)
	next := stretch(t, other.End(), feed.Publish)
	if _, err := first.End().Follow(origin, next); !errors.Is(err, feed.ErrChain) {
		t.Errorf("a stretch of the other branch: %v", err)
	}
	if _, err := first.End().Follow(origin, stretch(t, feed.Begin(origin), feed.Publish)); !errors.Is(err, feed.ErrChain) {
		t.Errorf("a stretch from the beginning: %v", err)
	}
	if _, err := feed.Begin(origin).Follow(strings.Repeat("0", 32), first); !errors.Is(err, feed.ErrChain) {
		t.Errorf("a stretch of another feed: %v", err)
	}
}

// script runs one of the scripts that know only docs/feed.md.
func script(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("%v: install the Debian package python3", err)
	}
	// -B: nothing is left behind in the source tree.
	out, err := exec.CommandContext(t.Context(), python, append([]string{"-B", filepath.Join("testdata", name)}, args...)...).CombinedOutput()
	return string(out), err
}

// published writes a feed of several stretches to files and returns their names: key, head, stretches.
func published(t *testing.T) []string {
	t.Helper()
	key := secret(t, "farm.example-feed-1", 1)
	one := stretch(t, feed.Begin(origin), feed.Publish)
	two := stretch(t, one.End(), feed.Publish, feed.Files)
	none := stretch(t, two.End())
	three := stretch(t, two.End(), feed.Withdraw)
	head := feed.Head{Origin: origin, Point: three.End(), Time: day}
	folder := t.TempDir()
	var files []string
	for i, text := range [][]byte{[]byte(key.Public().String() + "\n"), head.Sign(key), one.Text(), two.Text(), none.Text(), three.Text()} {
		name := filepath.Join(folder, fmt.Sprint(i))
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	return files
}

func TestAStrangerWhoHasOnlyTheDocumentationVerifiesTheFeed(t *testing.T) {
	files := published(t)
	out, err := script(t, "verify.py", files...)
	if want := "verified 4 records of " + origin + " up to 4: 3 items\n"; err != nil || out != want {
		t.Errorf("%v\n got %q\nwant %q", err, out, want)
	}
	for name, args := range map[string][]string{
		"a stretch is missing":      append(append([]string{}, files[:3]...), files[5]),
		"the last is missing":       files[:5],
		"a stretch is there twice":  append(append([]string{}, files...), files[5]),
		"stretches change places":   {files[0], files[1], files[3], files[2], files[4], files[5]},
		"there is nothing but head": files[:2],
	} {
		if out, err := script(t, "verify.py", args...); err == nil || !strings.HasPrefix(out, "wrong: ") {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
}

func TestAStrangerFindsEveryFlippedBitAndEveryCut(t *testing.T) {
	files := published(t)
	out, err := script(t, "flips.py", files...)
	if err != nil || !strings.HasPrefix(out, "tried ") {
		t.Errorf("%v: not found:\n%s", err, out)
	}
	t.Log(out)
}

func FuzzParseStretch(f *testing.F) {
	f.Add(stretch(f, feed.Begin(origin), feed.Publish, feed.Withdraw).Text())
	f.Add(stretch(f, feed.Begin(origin)).Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		s, records, err := feed.ParseStretch(text)
		if err != nil {
			return
		}
		if len(records) != len(s.Lines) || !bytes.Equal(s.Text(), text) {
			t.Errorf("%q is written as %q", text, s.Text())
		}
	})
}

func FuzzParseHead(f *testing.F) {
	key := secret(f, "farm.example-feed-1", 1)
	f.Add(feed.Head{Origin: origin, Point: feed.Begin(origin), Time: day}.Sign(key))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := feed.ParseHead(text, key.Public())
		if err == nil && !bytes.Equal(h.Sign(key), text) {
			t.Errorf("%q is believed", text)
		}
	})
}

func ExamplePoint_Next() {
	at := feed.Begin("8f0e4bb9a1d24c7e93c1c1a0d5f3b2e7")
	fmt.Println(at.Sequence, at.Chain.Hex())
	at = at.Next([]byte("{}\n"))
	fmt.Println(at.Sequence, at.Chain.Hex())
	// Output:
	// 0 299c4374d0d17f0570b49b2e4b4a1dcc8d5e8830b047411fcebc117eb9fbc825
	// 1 a45c827440a7b19625ba3fcaee5c32a0633f35062b1a8d3be710db1747fb2e86
}

package nar

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// entry returns an entry of a directory, encoded.
func entry(name, node string) string { return tokEntry + encoded(name) + tokNode + node + tokClose }

// dirOf returns a directory, encoded.
func dirOf(entries ...string) string {
	return tokDirectory + strings.Join(entries, "") + tokClose
}

var emptyFile = tokFile + encoded("") + tokClose

func TestEveryDefectHasItsReason(t *testing.T) {
	padded := func(s string) string { return s[:len(s)-1] + "\x01" }
	huge := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	file := func(name string) string { return tokMagic + dirOf(entry(name, emptyFile)) }
	deep := tokMagic
	for range 3000 {
		deep += tokDirectory + tokEntry + encoded("d") + tokNode
	}
	wide := strings.Repeat("w", MaxName)
	for name, c := range map[string]struct {
		nar  string
		want error
	}{
		"nothing":                      {"", ErrTruncated},
		"text":                         {"hello", ErrMagic},
		"another version":              {encoded("nix-archive-2"), ErrMagic},
		"gzip":                         {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", ErrMagic},
		"part of the magic":            {tokMagic[:20], ErrTruncated},
		"magic alone":                  {tokMagic, ErrTruncated},
		"magic with padding":           {padded(tokMagic), ErrMagic},
		"no root":                      {tokMagic + tokClose, ErrToken},
		"unknown type":                 {tokMagic + encoded("(", "type", "fifo"), ErrToken},
		"file without type":            {tokMagic + encoded("(", "contents"), ErrToken},
		"file without contents":        {tokMagic + encoded("(", "type", "regular", ")"), ErrToken},
		"executable with a value":      {tokMagic + encoded("(", "type", "regular", "executable", "1", "contents", "", ")"), ErrToken},
		"executable twice":             {tokMagic + encoded("(", "type", "regular", "executable", "", "executable", ""), ErrToken},
		"contents before executable":   {tokMagic + encoded("(", "type", "regular", "contents", "", "executable", ""), ErrToken},
		"contents twice":               {tokMagic + tokFile + encoded("a") + encoded("contents", "b"), ErrToken},
		"unknown word in a directory":  {tokMagic + tokDirectory + encoded("comment"), ErrToken},
		"entry without a name":         {tokMagic + tokDirectory + encoded("entry", "(", "node"), ErrToken},
		"node before name":             {tokMagic + tokDirectory + encoded("entry", "(", "node"), ErrToken},
		"unknown word in an entry":     {tokMagic + dirOf(tokEntry+encoded("a")+tokNode+emptyFile+encoded("comment")), ErrToken},
		"symlink without target":       {tokMagic + encoded("(", "type", "symlink", ")"), ErrToken},
		"symlink with a second target": {tokMagic + tokSymlink + encoded("a", "target", "b"), ErrToken},
		"token of 11 bytes":            {tokMagic + encoded("(", "type", "regular-file"), ErrLength},
		"token of 2^63 bytes":          {tokMagic + huge(1<<63), ErrLength},
		"token of 2^64-1 bytes":        {tokMagic + encoded("(", "type", "regular") + huge(1<<64-1), ErrLength},
		"name of 256 bytes":            {file(wide + "w"), ErrLength},
		"name of 2^40 bytes":           {tokMagic + tokDirectory + tokEntry + huge(1<<40), ErrLength},
		"target of 4096 bytes":         {tokMagic + tokSymlink + encoded(strings.Repeat("t", MaxTarget+1)) + tokClose, ErrLength},
		"target of 2^40 bytes":         {tokMagic + tokSymlink + huge(1<<40), ErrLength},
		"file of 2^63 bytes":           {tokMagic + tokFile + huge(1<<63), ErrLength},
		"file of 2^63-1 bytes":         {tokMagic + tokFile + huge(1<<63-1), ErrLength},
		"file of 2^62 bytes":           {tokMagic + tokFile + huge(1<<62) + "few", ErrTruncated},
		"empty name":                   {file(""), ErrName},
		"dot":                          {file("."), ErrName},
		"dot dot":                      {file(".."), ErrName},
		"absolute name":                {file("/etc"), ErrName},
		"slash within":                 {file("a/b"), ErrName},
		"slash at the end":             {file("a/"), ErrName},
		"climbing name":                {file("../a"), ErrName},
		"NUL in a name":                {file("a\x00b"), ErrName},
		"NUL in a target":              {tokMagic + tokSymlink + encoded("a\x00b") + tokClose, ErrTarget},
		"empty target":                 {tokMagic + tokSymlink + encoded("") + tokClose, ErrTarget},
		"duplicate":                    {tokMagic + dirOf(entry("a", emptyFile), entry("a", emptyFile)), ErrDuplicate},
		"duplicate of a directory":     {tokMagic + dirOf(entry("a", dirOf(entry("z", emptyFile))), entry("a", dirOf())), ErrDuplicate},
		"link and then a directory":    {tokMagic + dirOf(entry("a", tokSymlink+encoded("/etc")+tokClose), entry("a", dirOf())), ErrDuplicate},
		"unsorted":                     {tokMagic + dirOf(entry("b", emptyFile), entry("a", emptyFile)), ErrUnsorted},
		"unsorted by length":           {tokMagic + dirOf(entry("aa", emptyFile), entry("a", emptyFile)), ErrUnsorted},
		"unsorted after a directory":   {tokMagic + dirOf(entry("b", dirOf(entry("x", emptyFile))), entry("a", emptyFile)), ErrUnsorted},
		"sorted as a locale would":     {tokMagic + dirOf(entry("a", emptyFile), entry("B", emptyFile)), ErrUnsorted},
		"unsorted below":               {tokMagic + dirOf(entry("d", dirOf(entry("b", emptyFile), entry("a", emptyFile)))), ErrUnsorted},
		"padding after a word":         {tokMagic + padded(encoded("(")), ErrPadding},
		"padding after a type":         {tokMagic + encoded("(", "type") + padded(encoded("regular")), ErrPadding},
		"padding after a name":         {tokMagic + tokDirectory + tokEntry + padded(encoded("a")), ErrPadding},
		"padding after a target":       {tokMagic + tokSymlink + padded(encoded("a")), ErrPadding},
		"padding after contents":       {tokMagic + tokFile + padded(encoded("a")) + tokClose, ErrPadding},
		"padding after the last word":  {padded(tokMagic + emptyFile), ErrPadding},
		"too deep":                     {deep, ErrTooDeep},
		"long path": {tokMagic + strings.Repeat(tokDirectory+tokEntry+encoded(wide)+tokNode, 16) + dirOf(entry("x", emptyFile)),
			ErrTooDeep},
		"trailing zero":         {tokMagic + emptyFile + "\x00", ErrTrailing},
		"trailing nar":          {tokMagic + emptyFile + tokMagic + emptyFile, ErrTrailing},
		"closed once too often": {tokMagic + dirOf() + tokClose, ErrTrailing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(strings.NewReader(c.nar))
			if !errors.Is(err, c.want) || !errors.Is(err, ErrInvalid) {
				t.Errorf("Verify: %v, want %v", err, c.want)
			}
			_, err = Verify(iotest.OneByteReader(strings.NewReader(c.nar)))
			if !errors.Is(err, c.want) {
				t.Errorf("Verify byte by byte: %v, want %v", err, c.want)
			}
			if _, err = List(strings.NewReader(c.nar)); !errors.Is(err, c.want) {
				t.Errorf("List: %v, want %v", err, c.want)
			}
			dir := t.TempDir()
			if err := Restore(t.Context(), strings.NewReader(c.nar), filepath.Join(dir, "out")); !errors.Is(err, c.want) {
				t.Errorf("Restore: %v, want %v", err, c.want)
			}
			if left := modes(t, dir); strings.Count(left, "\n") != 1 {
				t.Errorf("Restore left behind:\n%s", left)
			}
			if c.want == ErrTrailing {
				return
			}
			// The tiniest buffer that there is.
			if _, err := Copy(io.Discard, bufio.NewReaderSize(strings.NewReader(c.nar), 16)); !errors.Is(err, c.want) {
				t.Errorf("Copy: %v, want %v", err, c.want)
			}
		})
	}
}

func TestANarCutAnywhereIsTruncated(t *testing.T) {
	nar := tokMagic + dirOf(entry("a", tokProgram+encoded("contents\n")+tokClose), entry("d", dirOf(entry("x", emptyFile))),
		entry("l", tokSymlink+encoded("target")+tokClose))
	if _, err := Verify(strings.NewReader(nar)); err != nil {
		t.Fatal(err)
	}
	for n := range len(nar) {
		_, err := Verify(strings.NewReader(nar[:n]))
		if !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func TestTheStreamsOwnErrorIsNotTheNarsFault(t *testing.T) {
	nar := tokMagic + dirOf(entry("a", tokFile+encoded("contents\n")+tokClose))
	for _, why := range []error{errors.New("line cut"), io.ErrUnexpectedEOF} {
		for n := range len(nar) {
			_, err := Verify(io.MultiReader(strings.NewReader(nar[:n]), iotest.ErrReader(why)))
			if !errors.Is(err, why) || errors.Is(err, ErrInvalid) {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
}

func TestReaderTellsEveryNode(t *testing.T) {
	nar := tokMagic + dirOf(
		entry("a", dirOf(entry("b", dirOf()), entry("c", tokProgram+encoded("run")+tokClose))),
		entry("a-b", tokSymlink+encoded("../x")+tokClose),
		entry("z", tokFile+encoded("skipped, unread")+tokClose),
	)
	r := NewReader(strings.NewReader(nar))
	var got []string
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		line := fmt.Sprintf("%q %v x=%v %d %q", h.Path, h.Type, h.Executable, h.Size, h.Target)
		if h.Path == "a/c" {
			b, err := io.ReadAll(r)
			must(t, err)
			line += " " + string(b)
			if at := nar[h.Offset:][:h.Size]; at != string(b) {
				t.Errorf("at the offset of a/c there is %q", at)
			}
		}
		got = append(got, line)
	}
	want := []string{`"" directory x=false 0 ""`, `"a" directory x=false 0 ""`, `"a/b" directory x=false 0 ""`,
		`"a/c" regular x=true 3 "" run`, `"a-b" symlink x=false 0 "../x"`, `"z" regular x=false 15 ""`}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if err := r.End(); err != nil {
		t.Errorf("End: %v", err)
	}
	if r.Pos() != int64(len(nar)) {
		t.Errorf("took %d bytes of %d", r.Pos(), len(nar))
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("Next after the end: %v", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read after the end: %d, %v", n, err)
	}
}

func TestAReaderTakesNotAByteBeyondTheNar(t *testing.T) {
	nar := dumped(t, sample(t))
	const next = "the next message"
	for _, size := range []int{16, 4096, 1 << 20} {
		src := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(nar), strings.NewReader(next)), size)
		var out bytes.Buffer
		s, err := Copy(&out, src)
		must(t, err)
		differ(t, out.Bytes(), nar, "Copy")
		if want, err := Verify(bytes.NewReader(nar)); err != nil || s != want {
			t.Errorf("Copy: %+v\nVerify: %+v, %v", s, want, err)
		}
		rest, err := io.ReadAll(src)
		if err != nil || string(rest) != next {
			t.Errorf("after the nar, with a buffer of %d: %q, %v", size, rest, err)
		}
	}
	// On a connection whose other end waits for an answer, not even a read may be tried.
	src := bufio.NewReader(io.MultiReader(bytes.NewReader(nar), iotest.ErrReader(errors.New("read beyond the end"))))
	if _, err := Copy(io.Discard, src); err != nil {
		t.Errorf("Copy: %v", err)
	}
	if err := NewReader(strings.NewReader(string(nar))).End(); err == nil {
		t.Error("End within a nar is no error")
	}
}

func TestCopyTellsTheWritersError(t *testing.T) {
	nar := dumped(t, sample(t))
	why := errors.New("no room")
	if _, err := Copy(failing{why}, bufio.NewReader(bytes.NewReader(nar))); !errors.Is(err, why) || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyCountsAndHashes(t *testing.T) {
	root := sample(t)
	nar := nixDump(t, root)
	h := NewHasher()
	_, _ = h.Write(nar)
	got, err := Verify(bytes.NewReader(nar))
	must(t, err)
	want := Summary{Hash: h.Sum(), Size: int64(len(nar))}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := os.Lstat(path)
		must(t, err)
		switch m := info.Mode(); {
		case m.IsRegular():
			want.Files++
			want.Contents += info.Size()
			if m&0o100 != 0 {
				want.Executables++
			}
		case m.IsDir():
			want.Directories++
		default:
			want.Symlinks++
		}
		return nil
	}))
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestMemoryDoesNotDependOnWhatTheInputClaims(t *testing.T) {
	huge := string(binary.LittleEndian.AppendUint64(nil, 1<<50))
	for _, nar := range []string{huge, tokMagic + huge, tokMagic + tokFile + huge, tokMagic + tokSymlink + huge, tokMagic + tokDirectory + tokEntry + huge} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			if _, err := Verify(strings.NewReader(nar)); !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / 20; n > 2*bufferSize {
			t.Errorf("%q…: %d bytes allocated", nar[:8], n)
		}
	}
}

package objstoretest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

func testAbsent(t *testing.T, s objstore.Store) {
	for _, k := range []objstore.Key{"a", "a/b", "nar/zstd/none"} {
		absent(t, s, k)
		if err := s.Delete(t.Context(), k); err != nil {
			t.Errorf("delete what is absent: %v", err)
		}
	}
	put(t, s, "folder/object", []byte("x"), objstore.IfAbsent)
	absent(t, s, "folder")
	if err := s.Delete(t.Context(), "folder"); err != nil {
		t.Errorf("delete what others are below: %v", err)
	}
	absent(t, s, "folder/object/below")
	if err := s.Delete(t.Context(), "folder/object/below"); err != nil {
		t.Errorf("delete what would be below an object: %v", err)
	}
	holds(t, s, "folder/object", []byte("x"))
}

func testRoundTrip(t *testing.T, s objstore.Store) {
	for _, size := range []int{0, 1, 1300, 1 << 20} {
		k := objstore.Key(fmt.Sprintf("nar/zstd/%d", size))
		want := noise(uint64(size), size)
		stored := put(t, s, k, want, objstore.IfAbsent)
		holds(t, s, k, want)
		stat, err := s.Stat(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		if off := time.Since(stat.Modified).Abs(); off > time.Minute {
			t.Errorf("modified %v, %v from now", stat.Modified, off)
		}
		if stored.Modified.IsZero() {
			stored.Modified = stat.Modified
		}
		_, got := readSpan(t, s, k, objstore.Range{})
		listed := list(t, s, string(k))
		if len(listed) != 1 {
			t.Fatalf("listed %d times", len(listed))
		}
		for what, info := range map[string]objstore.Info{"put": stored, "get": got, "list": listed[0]} {
			// A header says whole seconds where a list says more.
			if off := info.Modified.Sub(stat.Modified).Abs(); off >= time.Second {
				t.Errorf("%s says modified %v, stat %v", what, info.Modified, stat.Modified)
			}
			info.Modified = stat.Modified
			if info != stat {
				t.Errorf("%s says %+v, stat %+v", what, info, stat)
			}
		}
	}
}

func testKeys(t *testing.T, s objstore.Store) {
	var odd []byte
	for c := byte('!'); c < 0x7f; c++ {
		if c != '/' && c != '\\' {
			odd = append(odd, c)
		}
	}
	good := []string{
		string(odd), "..." + string(odd), "-", "~", "a+b", "a%2Fb", "a%b", "a?b", "a#b", "a&b=c", "a;b", "a b"[:1], "%2e%2e", "nar/zstd/0000-x+y",
		"sub/" + string(odd) + "/" + string(odd), ".hidden", "..a", "a..", strings.Repeat("s", 255),
		strings.Repeat(strings.Repeat("d", 99)+"/", 8) + "end", "A", "b/narfold",
	}
	for i, k := range good {
		put(t, s, objstore.Key(k), fmt.Append(nil, i), objstore.IfAbsent)
	}
	for i, k := range good {
		holds(t, s, objstore.Key(k), fmt.Append(nil, i))
	}
	slices.Sort(good)
	var got []string
	for _, k := range keys(t, s, "") {
		got = append(got, string(k))
	}
	if !slices.Equal(got, good) {
		t.Errorf("listed\n%q, want\n%q", got, good)
	}
	for _, k := range good {
		if err := s.Delete(t.Context(), objstore.Key(k)); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("after deleting all: %q", got)
	}
}

func testNotKeys(t *testing.T, s objstore.Store) {
	for _, k := range []objstore.Key{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a b", "a\x00b", "a\nb", "a\x7f", `a\b`, "naïve", "日本", "\xff",
		".narfold-tmp/x", "a/.narfold/b", objstore.Key(strings.Repeat("x", 256)), objstore.Key(strings.Repeat("x/", 512) + "x"),
	} {
		for what, err := range everything(t.Context(), s, k) {
			if !errors.Is(err, objstore.ErrKey) {
				t.Errorf("%s %.20q: %v, want ErrKey", what, k, err)
			}
		}
	}
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("stored all the same: %q", got)
	}
}

func testConditions(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	one, two, three := []byte("one"), []byte("two"), []byte("three and more")
	const k = "cond/key"
	_, err := s.Put(ctx, k, objstore.Bytes(one), objstore.Condition{IfMatch: "0123456789abcdef0123456789abcdef"})
	fails(t, "IfMatch where nothing is", err, objstore.ErrConflict)
	absent(t, s, k)

	first := put(t, s, k, one, objstore.IfAbsent)
	_, err = s.Put(ctx, k, objstore.Bytes(two), objstore.IfAbsent)
	fails(t, "IfAbsent where something is", err, objstore.ErrConflict)
	_, err = s.Put(ctx, k, objstore.Bytes(one), objstore.IfAbsent)
	fails(t, "IfAbsent where the same bytes are", err, objstore.ErrConflict)
	holds(t, s, k, one)

	second := put(t, s, k, two, objstore.Condition{IfMatch: first.ETag})
	if second.ETag == first.ETag {
		t.Errorf("other bytes, same ETag %q", first.ETag)
	}
	_, err = s.Put(ctx, k, objstore.Bytes(three), objstore.Condition{IfMatch: first.ETag})
	fails(t, "IfMatch with the ETag before", err, objstore.ErrConflict)
	holds(t, s, k, two)

	third := put(t, s, k, three, objstore.Condition{})
	holds(t, s, k, three)
	if err := s.Delete(ctx, k); err != nil {
		t.Fatal(err)
	}
	absent(t, s, k)
	_, err = s.Put(ctx, k, objstore.Bytes(two), objstore.Condition{IfMatch: third.ETag})
	fails(t, "IfMatch with what was deleted", err, objstore.ErrConflict)
	put(t, s, k, one, objstore.IfAbsent)
	holds(t, s, k, one)
}

const racers = 16

// race puts different bytes under k from many goroutines and insists that one won, that the others were told so, and that what is
// stored is the winner's.
func race(t *testing.T, s objstore.Store, w objstore.Writer, k objstore.Key, c objstore.Condition, size int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, racers)
	start := make(chan struct{})
	for i := range racers {
		body := objstore.Bytes(noise(uint64(i), size+i))
		wg.Go(func() {
			<-start
			_, errs[i] = w.Put(t.Context(), k, body, c)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("%s: both %d and %d won", k, winner, i)
		case err == nil:
			winner = i
		case c.IfMatch != "" && errors.Is(err, objstore.ErrUnavailable):
			// It may not know, if the network lost something.
		case !errors.Is(err, objstore.ErrConflict):
			t.Fatalf("%s: loser %d got %v, want ErrConflict", k, i, err)
		}
	}
	if winner < 0 {
		t.Fatalf("%s: nobody won: %v", k, errs[0])
	}
	holds(t, s, k, noise(uint64(winner), size+winner))
}

func testRaceIfAbsent(t *testing.T, s objstore.Store) {
	for i := range 8 {
		race(t, s, s, objstore.Key(fmt.Sprintf("race/%d/key", i)), objstore.IfAbsent, 2000)
	}
}

func testRaceIfMatch(t *testing.T, s objstore.Store) {
	for i := range 8 {
		k := objstore.Key(fmt.Sprintf("race/%d", i))
		old := put(t, s, k, []byte("old"), objstore.IfAbsent)
		race(t, s, s, k, objstore.Condition{IfMatch: old.ETag}, 2000)
	}
}

func testNested(t *testing.T, s objstore.Store) {
	put(t, s, "a/b", []byte("outer"), objstore.IfAbsent)
	for _, c := range []objstore.Condition{{}, objstore.IfAbsent} {
		for _, k := range []objstore.Key{"a", "a/b/c", "a/b/c/d"} {
			_, err := s.Put(t.Context(), k, objstore.Bytes([]byte("other")), c)
			if errors.Is(err, objstore.ErrKey) {
				absent(t, s, k)
			} else if err != nil && !errors.Is(err, objstore.ErrConflict) {
				t.Errorf("put %s beside a/b: %v, want success or ErrKey", k, err)
			}
		}
		holds(t, s, "a/b", []byte("outer"))
	}
}

func testDigest(t *testing.T, s objstore.Store) {
	good := noise(1, 5000)
	lie := func(size int64, sum digest.SHA256, b []byte) objstore.Body {
		return objstore.Body{Size: size, SHA256: sum, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
	}
	put(t, s, "lie/present", []byte("old"), objstore.IfAbsent)
	for name, body := range map[string]objstore.Body{
		"shorter":                       lie(5001, digest.SHA256{}, good),
		"shorter, with the true digest": lie(5001, digest.Of(good), good),
		"longer":                        lie(4999, digest.SHA256{}, good),
		"longer than none":              lie(0, digest.SHA256{}, good),
		"empty":                         lie(1, digest.SHA256{}, nil),
		"another digest":                lie(5000, digest.Of([]byte("other")), good),
	} {
		for _, w := range []objstore.Writer{s, objstore.BatchOf(s)} {
			_, err := w.Put(t.Context(), "lie/absent", body, objstore.IfAbsent)
			fails(t, "put of a body that is "+name, err, objstore.ErrDigest)
			absent(t, s, "lie/absent")
			_, err = w.Put(t.Context(), "lie/present", body, objstore.Condition{})
			fails(t, "put of a body that is "+name, err, objstore.ErrDigest)
			holds(t, s, "lie/present", []byte("old"))
		}
	}
	if _, err := s.Put(t.Context(), "lie/absent", lie(5000, digest.SHA256{}, good), objstore.IfAbsent); err != nil {
		t.Errorf("without a digest: %v", err)
	}
	holds(t, s, "lie/absent", good)
}

func testBrokenBody(t *testing.T, s objstore.Store) {
	broken := errors.New("the body's own trouble")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"open": func() (io.ReadCloser, error) { return nil, broken },
		"read": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(noise(2, 3000)), iotest.ErrReader(broken))), nil
		},
	} {
		_, err := s.Put(t.Context(), "broken", objstore.Body{Size: 5000, Open: open}, objstore.IfAbsent)
		fails(t, name, err, broken)
		absent(t, s, "broken")
	}
	// Readers may give a byte at a time, or their last bytes together with the end.
	for i, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, iotest.HalfReader} {
		b := noise(3, 5000)
		k := objstore.Key(fmt.Sprintf("odd/%d", i))
		body := objstore.Body{Size: 5000, SHA256: digest.Of(b), Open: func() (io.ReadCloser, error) { return io.NopCloser(wrap(bytes.NewReader(b))), nil }}
		if _, err := s.Put(t.Context(), k, body, objstore.IfAbsent); err != nil {
			t.Errorf("put from an odd reader: %v", err)
		}
		holds(t, s, k, b)
	}
}

func testPath(t *testing.T, s objstore.Store) {
	b := noise(4, 100_000)
	for i, w := range []objstore.Writer{s, objstore.BatchOf(s)} {
		for j, sum := range []digest.SHA256{digest.Of(b), {}} {
			path := filepath.Join(t.TempDir(), "body")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			body := objstore.Body{Size: int64(len(b)), SHA256: sum, Path: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
			k := objstore.Key(fmt.Sprintf("path/%d/%d", i, j))
			if _, err := w.Put(t.Context(), k, body, objstore.IfAbsent); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			holds(t, s, k, b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := w.Put(t.Context(), k, body, objstore.IfAbsent)
			fails(t, "again", err, objstore.ErrConflict)
			body.Size++
			_, err = w.Put(t.Context(), k+"x", body, objstore.IfAbsent)
			fails(t, "a file of another size", err, objstore.ErrDigest)
			absent(t, s, k+"x")
		}
	}
}

func testBig(t *testing.T, s objstore.Store) {
	const size = 70<<20 + 12345
	b := noise(5, size)
	if _, err := s.Put(t.Context(), "big", objstore.Body{Size: size, SHA256: digest.Of([]byte("other")), Open: objstore.Bytes(b).Open}, objstore.IfAbsent); !errors.Is(err, objstore.ErrDigest) {
		t.Errorf("with another digest: %v, want ErrDigest", err)
	}
	absent(t, s, "big")
	put(t, s, "big", b, objstore.IfAbsent)
	holds(t, s, "big", b)
	got, _ := readSpan(t, s, "big", objstore.Range{Offset: 64<<20 - 100, Length: 1 << 20})
	if !bytes.Equal(got, b[64<<20-100:][:1<<20]) {
		t.Error("a span in the middle differs")
	}
	_, err := s.Put(t.Context(), "big", objstore.Bytes(b), objstore.IfAbsent)
	fails(t, "again", err, objstore.ErrConflict)
	if _, err := s.Put(t.Context(), "big", objstore.Body{Size: size + 1, Open: objstore.Bytes(b).Open}, objstore.Condition{}); !errors.Is(err, objstore.ErrDigest) {
		t.Errorf("a body that is a byte short: %v, want ErrDigest", err)
	}
	holds(t, s, "big", b)
}

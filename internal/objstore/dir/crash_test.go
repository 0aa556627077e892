package dir

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// crash leaves a Store as a process that was killed does: its folder stays and the lock on it goes.
func crash(t *testing.T, s *Store) {
	t.Helper()
	s.tmp.Close()
	s.locks.Close()
	s.root.Close()
}

func reopen(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func text(t *testing.T, s objstore.Reader, k objstore.Key) string {
	t.Helper()
	o, err := s.Get(t.Context(), k, objstore.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func put(t *testing.T, w objstore.Writer, k objstore.Key, b string, c objstore.Condition) {
	t.Helper()
	if _, err := w.Put(t.Context(), k, objstore.Bytes([]byte(b)), c); err != nil {
		t.Fatal(err)
	}
}

// processFolders returns the folders below tmpDir.
func processFolders(t *testing.T, root string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, tmpDir, "p*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestOpenCleansUpAfterTheDeadAlone(t *testing.T) {
	root := t.TempDir()
	dead, alive := reopen(t, root), reopen(t, root)
	for _, s := range []*Store{dead, alive} {
		name, f, err := s.temp()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("half"); err != nil || name == "" {
			t.Fatal(err)
		}
		f.Close()
	}
	crash(t, dead)
	if n := len(processFolders(t, root)); n != 2 {
		t.Fatalf("%d process folders, want 2", n)
	}
	s := reopen(t, root)
	defer s.Close()
	if n := len(processFolders(t, root)); n != 2 { // alive and s
		t.Errorf("%d process folders, want those of the two who live", n)
	}
	left, err := filepath.Glob(filepath.Join(root, tmpDir, alive.tmp.Name(), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("the living one's files are %q, %v", left, err)
	}
	alive.Close()
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	root := t.TempDir()
	s := reopen(t, root)
	put(t, s, "a/b", "x", objstore.IfAbsent)
	if err := s.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := processFolders(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 {
		t.Errorf("ROOT holds %v, %v, want %s alone", entries, err, tmpDir)
	}
}

func TestUncommittedBatchAfterACrash(t *testing.T) {
	root := t.TempDir()
	s := reopen(t, root)
	b := s.Batch()
	put(t, b, "committed", "committed", objstore.IfAbsent)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, k := range []objstore.Key{"whole", "empty", "cut", "deep/er/changed", "replaced", "deleted"} {
		put(t, b, k, "the bytes of "+string(k), objstore.IfAbsent)
	}
	// What a power cut makes of bytes that were not flushed.
	damage := func(k, to string) {
		if err := os.WriteFile(filepath.Join(root, k), []byte(to), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	damage("empty", "")
	damage("cut", "the by")
	damage("deep/er/changed", "the bytes of deep/er/cha\x00\x00\x00\x00")
	damage("committed", "not for recovery to judge")
	if err := s.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "replaced", "durably", objstore.Condition{})
	crash(t, s)

	s = reopen(t, root)
	defer s.Close()
	withdrawn := s.Withdrawn()
	slices.Sort(withdrawn)
	if want := []objstore.Key{"cut", "deep/er/changed", "empty"}; !slices.Equal(withdrawn, want) {
		t.Errorf("withdrawn %q, want %q", withdrawn, want)
	}
	var left []objstore.Key
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, info.Key)
	}
	if want := []objstore.Key{"committed", "replaced", "whole"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if got := text(t, s, "whole"); got != "the bytes of whole" {
		t.Errorf("whole holds %q", got)
	}
	if n := len(processFolders(t, root)); n != 1 {
		t.Errorf("%d process folders, want one", n)
	}
	put(t, s, "cut", "again", objstore.IfAbsent)
}

func TestBatchWhoseCommitFailsIsTakenBack(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	b := s.Batch().(*batch)
	put(t, b, "lost", "x", objstore.IfAbsent)
	b.root.Close() // so that the flush fails
	if err := b.Commit(t.Context()); err == nil {
		t.Fatal("commit succeeds without a flush")
	}
	if _, err := s.Stat(t.Context(), "lost"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("after a failed commit: %v, want ErrNotFound", err)
	}
	if _, err := b.Put(t.Context(), "other", objstore.Bytes(nil), objstore.IfAbsent); err == nil {
		t.Error("a broken batch takes more")
	}
	if err := b.Commit(t.Context()); err == nil {
		t.Error("a broken batch commits")
	}
	put(t, s, "lost", "y", objstore.IfAbsent)
}

func TestFlushingEachFileDoesWithoutSyncFS(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	b := s.Batch().(*batch)
	put(t, b, "a/b/c", "x", objstore.IfAbsent)
	put(t, b, "d", "y", objstore.IfAbsent)
	put(t, s, "gone/deep/e", "z", objstore.IfAbsent)
	if err := b.Delete(t.Context(), "gone/deep/e"); err != nil {
		t.Fatal(err)
	}
	if len(b.kept) != 2 || len(b.dirs) != 2 { // a/b, and ROOT, where d is new and gone is gone
		t.Errorf("to flush: files %q, folders %v", b.kept, b.dirs)
	}
	if err := b.flushEach(b.kept, b.dirs); err != nil {
		t.Error(err)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUncommittedNames(t *testing.T) {
	u := uncommitted{seq: 7, size: 1234, sum: digest.Of([]byte("x")), key: "nar/zstd/abc.d-e"}
	name, ok := u.fileName()
	if !ok || strings.Contains(name, "/") {
		t.Fatalf("name is %q, %v", name, ok)
	}
	if got, ok := parseUncommitted(name); !ok || got != u {
		t.Errorf("%q reads as %+v, %v, want %+v", name, got, ok, u)
	}
	for _, name := range []string{"", "7", `\`, `7\k`, `7.1.x\k`, `x.1.` + u.sum.Base32() + `\k`, `7.1.` + u.sum.Base32(), `7.1.` + u.sum.Base32() + `\..\k`} {
		if got, ok := parseUncommitted(name); ok {
			t.Errorf("%q reads as %+v", name, got)
		}
	}
	u.key = objstore.Key(strings.Repeat("k", 250))
	if name, ok := u.fileName(); ok {
		t.Errorf("a name of %d bytes", len(name))
	}
}

func FuzzParseUncommitted(f *testing.F) {
	name, _ := uncommitted{seq: 7, size: 1234, sum: digest.Of([]byte("x")), key: "nar/zstd/abc"}.fileName()
	f.Add(name)
	f.Fuzz(func(t *testing.T, name string) {
		u, ok := parseUncommitted(name)
		if !ok {
			return
		}
		if _, err := objstore.ParseKey(string(u.key)); err != nil {
			t.Errorf("%q reads as the key %q: %v", name, u.key, err)
		}
	})
}

func TestStampsNeverRepeat(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	seen := make(map[int64]bool)
	for range 10_000 {
		now := s.tick()
		if seen[now.Nano()] {
			t.Fatal("a time was given out twice")
		}
		seen[now.Nano()] = true
	}
}

func TestReadNamesOfALargeFolder(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	b := s.Batch()
	var want []string
	for i := range 3000 { // several reads of the folder
		name := strings.Repeat("n", 60) + string(rune('a'+i%26)) + strings.Repeat("0", i/26)
		if len(name) > 255 {
			break
		}
		put(t, b, objstore.Key(name), "", objstore.IfAbsent)
		want = append(want, name)
	}
	entries, err := readNames(reopenRoot(t, s))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !e.dir {
			got = append(got, e.name)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("read %d names, want %d in order", len(got), len(want))
	}
}

func reopenRoot(t *testing.T, s *Store) *os.File {
	t.Helper()
	f, err := s.folder("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestBodyIsNeverReadWhenTheConditionFails(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	put(t, s, "k", "x", objstore.IfAbsent)
	body := objstore.Body{Size: 1, Open: func() (io.ReadCloser, error) {
		t.Error("the body was opened")
		return io.NopCloser(bytes.NewReader([]byte("y"))), nil
	}}
	if _, err := s.Put(t.Context(), "k", body, objstore.IfAbsent); !errors.Is(err, objstore.ErrConflict) {
		t.Errorf("error is %v, want ErrConflict", err)
	}
}

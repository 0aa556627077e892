package dir

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"narfold/internal/objstore"
)

// What wins a race keeps the second name that recovery needs, although the loser had the same bytes for the same key.
func TestARivalPutLeavesTheWinnersSecondName(t *testing.T) {
	root := t.TempDir()
	s := reopen(t, root)
	b := s.Batch()
	body := objstore.Bytes([]byte("the same bytes"))
	slow := body
	slow.Open = func() (io.ReadCloser, error) { // the rival comes first, after this one's look
		put(t, b, "nar/zstd/a", "the same bytes", objstore.IfAbsent)
		return body.Open()
	}
	if _, err := b.Put(t.Context(), "nar/zstd/a", slow, objstore.IfAbsent); !errors.Is(err, objstore.ErrConflict) {
		t.Fatalf("the loser is told %v", err)
	}
	if left := secondNames(t, s); len(left) != 1 {
		t.Errorf("second names %q, want the winner's", left)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := secondNames(t, s); len(left) != 0 {
		t.Errorf("after the commit there are still %q", left)
	}
	if got := text(t, s, "nar/zstd/a"); got != "the same bytes" {
		t.Errorf("%q", got)
	}
	s.Close()
}

// A body that turns out to be another one, or that the machine did not write whole, has its second name already, and no key.
func TestAHalfWrittenBodyNeverComesUnderItsKey(t *testing.T) {
	root := t.TempDir()
	s := reopen(t, root)
	b := s.Batch()
	put(t, b, "nar/zstd/b", "what was there", objstore.IfAbsent)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	torn := objstore.Bytes([]byte("first half, second half"))
	torn.Open = func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader([]byte("first half")), panicking{})), nil
	}
	func() {
		defer func() { _ = recover() }()
		if _, err := b.Put(t.Context(), "nar/zstd/a", torn, objstore.IfAbsent); err == nil {
			t.Error("half a body was stored")
		}
	}()
	name := filepath.Join(root, tmpDir, s.tmp.Name())
	crash(t, s)
	s = reopen(t, root)
	defer s.Close()
	if _, err := s.Get(t.Context(), "nar/zstd/a", objstore.Range{}); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("half a body is under its key: %v", err)
	}
	if got := text(t, s, "nar/zstd/b"); got != "what was there" {
		t.Errorf("%q", got)
	}
	if left, err := filepath.Glob(name + "*"); err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if len(s.Withdrawn()) != 0 {
		t.Errorf("withdrawn: %q", s.Withdrawn())
	}
}

// panicking stands for the moment in which the machine stops.
type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("power cut") }

func secondNames(t *testing.T, s *Store) (names []string) {
	t.Helper()
	entries, err := readNames(s.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names
}

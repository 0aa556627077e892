package dir

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"narfold/internal/objstore"
)

// Importers put the nars of one batch while the one before is flushed.
func TestPutsGoOnWhileABatchIsCommitted(t *testing.T) {
	root := t.TempDir()
	s := reopen(t, root)
	b := s.Batch().(*batch)
	const writers, each = 4, 100
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				// Folders change in between, so that the one that is kept open is replaced while others use it.
				k := objstore.Key(fmt.Sprintf("f%d/%d-%d", i%3, w, i))
				if _, err := b.Put(t.Context(), k, objstore.Bytes([]byte(k)), objstore.IfAbsent); err != nil {
					t.Errorf("put beside a commit: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); writing.Wait() }()
	for committing := true; committing; {
		select {
		case <-done:
			committing = false
		default:
		}
		if err := b.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.kept) != 0 {
		t.Errorf("%d objects are left to be flushed after the last commit", len(b.kept))
	}
	crash(t, s) // what was committed needs no second name
	s = reopen(t, root)
	defer s.Close()
	if len(s.Withdrawn()) != 0 {
		t.Errorf("withdrawn: %q", s.Withdrawn())
	}
	n := 0
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if got := text(t, s, info.Key); got != string(info.Key) {
			t.Errorf("%s holds %q", info.Key, got)
		}
	}
	if n != writers*each {
		t.Errorf("%d objects, want %d", n, writers*each)
	}
}

func TestAPutThatACommitFailedBesideIsTakenBack(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	b := s.Batch().(*batch)
	st, err := s.stage(t.Context(), "k", objstore.Bytes([]byte("x")), true)
	if err != nil {
		t.Fatal(err)
	}
	defer st.drop(s)
	b.err = errors.New("no space") // by a Commit that came between the two halves of the Put
	if err := s.name(st, "k", objstore.IfAbsent, b); err == nil {
		t.Error("a put into a batch that is broken succeeds")
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("after it: %v, want ErrNotFound", err)
	}
}

func TestTheFolderOfABatchMayGo(t *testing.T) {
	s := reopen(t, t.TempDir())
	defer s.Close()
	b := s.Batch().(*batch)
	for range 3 {
		put(t, b, "a/b/only", "x", objstore.IfAbsent)
		if err := s.Delete(t.Context(), "a/b/only"); err != nil { // removes the folders too
			t.Fatal(err)
		}
	}
	put(t, b, "a/b/only", "last", objstore.IfAbsent)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := text(t, s, "a/b/only"); got != "last" {
		t.Errorf("it holds %q", got)
	}
}

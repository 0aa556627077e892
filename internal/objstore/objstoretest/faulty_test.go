package objstoretest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/mem"
	"narfold/internal/objstore/objstoretest"
)

func injected(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, objstoretest.ErrInjected) || !errors.Is(err, objstore.ErrUnavailable) {
		t.Fatalf("error is %v, want the injected one, as ErrUnavailable", err)
	}
}

func stored(t *testing.T, s objstore.Store, k objstore.Key) bool {
	t.Helper()
	_, err := s.Stat(t.Context(), k)
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestFaultyPutAndDelete(t *testing.T) {
	for _, c := range []struct {
		name    string
		outcome objstoretest.Outcome
		done    bool
	}{
		{"failed and not done", objstoretest.NotDone, false},
		{"failed but done", objstoretest.Done, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := mem.New()
			body := objstore.Bytes([]byte("x"))
			_, err := objstoretest.Faulty(inner, objstoretest.Nth("Put", 0, objstoretest.Fault{Outcome: c.outcome})).Put(t.Context(), "k", body, objstore.IfAbsent)
			injected(t, err)
			if got := stored(t, inner, "k"); got != c.done {
				t.Errorf("stored: %v, want %v", got, c.done)
			}
			if _, err := inner.Put(t.Context(), "k", body, objstore.Condition{}); err != nil {
				t.Fatal(err)
			}
			injected(t, objstoretest.Faulty(inner, objstoretest.Nth("Delete", 0, objstoretest.Fault{Outcome: c.outcome})).Delete(t.Context(), "k"))
			if got := stored(t, inner, "k"); got == c.done {
				t.Errorf("still stored: %v, want %v", got, !c.done)
			}
		})
	}
	t.Run("a call that fails by itself says so", func(t *testing.T) {
		inner := mem.New()
		s := objstoretest.Faulty(inner, objstoretest.Nth("Put", 1, objstoretest.Fault{Outcome: objstoretest.Done}))
		for range 2 {
			if _, err := s.Put(t.Context(), "k", objstore.Bytes(nil), objstore.IfAbsent); err != nil && !errors.Is(err, objstore.ErrConflict) {
				t.Fatal(err)
			}
		}
	})
}

func TestFaultyReads(t *testing.T) {
	inner := mem.New()
	want := bytes.Repeat([]byte("bytes "), 100)
	for i := range 5 {
		if _, err := inner.Put(t.Context(), objstore.Key(fmt.Sprint(i)), objstore.Bytes(want), objstore.IfAbsent); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a body breaks midway", func(t *testing.T) {
		s := objstoretest.Faulty(inner, objstoretest.Nth("Get", 0, objstoretest.Fault{Outcome: objstoretest.BreaksLate, After: 100}))
		o, err := s.Get(t.Context(), "1", objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		got, err := io.ReadAll(o)
		injected(t, err)
		if !bytes.Equal(got, want[:100]) {
			t.Errorf("read %d bytes before, want 100", len(got))
		}
	})
	t.Run("a body that is shorter than the fault is whole", func(t *testing.T) {
		s := objstoretest.Faulty(inner, objstoretest.Nth("Get", 0, objstoretest.Fault{Outcome: objstoretest.BreaksLate, After: 10_000}))
		o, err := s.Get(t.Context(), "1", objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	})
	t.Run("get and stat fail", func(t *testing.T) {
		own := errors.New("own")
		s := objstoretest.Faulty(inner, func(objstoretest.Call) objstoretest.Fault {
			return objstoretest.Fault{Outcome: objstoretest.NotDone, Err: own}
		})
		if _, err := s.Get(t.Context(), "1", objstore.Range{}); !errors.Is(err, own) {
			t.Errorf("get: %v", err)
		}
		if _, err := s.Stat(t.Context(), "1"); !errors.Is(err, own) {
			t.Errorf("stat: %v", err)
		}
	})
	t.Run("a list breaks midway", func(t *testing.T) {
		s := objstoretest.Faulty(inner, objstoretest.Nth("List", 0, objstoretest.Fault{Outcome: objstoretest.BreaksLate, After: 2}))
		var got []objstore.Key
		var last error
		for info, err := range s.List(t.Context(), "") {
			if last = err; err == nil {
				got = append(got, info.Key)
			}
		}
		injected(t, last)
		if !slices.Equal(got, []objstore.Key{"0", "1"}) {
			t.Errorf("listed %q before", got)
		}
	})
}

func TestFaultyKeepsBatches(t *testing.T) {
	inner, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	s := objstoretest.Faulty(inner, objstoretest.Nth("Commit", 0, objstoretest.Fault{Outcome: objstoretest.NotDone}))
	if _, ok := s.(objstore.Batcher); !ok {
		t.Fatal("a directory has batches, and with faults it has none")
	}
	if _, ok := objstoretest.Faulty(mem.New(), nil).(objstore.Batcher); ok {
		t.Fatal("memory has no batches, and with faults it has")
	}
	b := objstore.BatchOf(s)
	if _, err := b.Put(t.Context(), "k", objstore.Bytes(nil), objstore.IfAbsent); err != nil {
		t.Fatal(err)
	}
	injected(t, b.Commit(t.Context()))
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSeededIsTheSameEachTime(t *testing.T) {
	run := func(seed uint64) (out []objstoretest.Fault) {
		plan := objstoretest.Seeded(seed, 3)
		for i := range 300 {
			out = append(out, plan(objstoretest.Call{N: i}))
		}
		return out
	}
	one := run(1)
	if !slices.Equal(one, run(1)) {
		t.Error("two runs with one seed differ")
	}
	if slices.Equal(one, run(2)) {
		t.Error("two seeds give the same")
	}
	seen := make(map[objstoretest.Outcome]int)
	for _, f := range one {
		seen[f.Outcome]++
	}
	for _, o := range []objstoretest.Outcome{objstoretest.Sound, objstoretest.NotDone, objstoretest.Done, objstoretest.BreaksLate} {
		if seen[o] == 0 {
			t.Errorf("outcome %d never happens in %v", o, seen)
		}
	}
}

func TestFaultyWithoutFaultsHoldsTheContract(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store {
		return objstoretest.Faulty(mem.New(), func(objstoretest.Call) objstoretest.Fault { return objstoretest.Fault{} })
	})
}

package feedserver

import (
	"fmt"
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/feed"
	"narfold/internal/storepath"
)

// life withdraws items, referrers with what they reference, and brings some back and others to their end.
type life struct{ *bench }

func (l life) hashes(names ...string) (hs []storepath.HashPart) {
	for _, n := range names {
		hs = append(hs, catalogtest.Base(n).HashPart())
	}
	return hs
}

func (l life) withdraw(names ...string) (sequences []int64) {
	l.t.Helper()
	out, err := l.catalogue.Withdraw(l.t.Context(), catalog.Withdrawal{Items: l.hashes(names...), By: "test"})
	if err != nil {
		l.t.Fatal(err)
	}
	for i, o := range out {
		if o.Verdict != catalog.Withdrawn {
			l.t.Fatalf("%s: %v", names[i], o.Verdict)
		}
		sequences = append(sequences, o.Sequence)
	}
	return sequences
}

func (l life) restore(names ...string) {
	l.t.Helper()
	out, err := l.catalogue.Restore(l.t.Context(), l.hashes(names...))
	if err != nil {
		l.t.Fatal(err)
	}
	for i, o := range out {
		if o != catalog.Restored {
			l.t.Fatalf("%s: %v", names[i], o)
		}
	}
}

func (l life) end(sequences []int64) {
	l.t.Helper()
	out, err := l.catalogue.BeginDelete(l.t.Context(), sequences, time.Now().Add(time.Hour))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, o := range out {
		if o.Verdict != catalog.Deletable {
			l.t.Fatalf("%+v", o)
		}
	}
}

// ops returns the records as "op name".
func (l life) ops() (ops []string) {
	l.t.Helper()
	_, records, err := feed.ParseStretch([]byte(l.get("/feed?since=0")))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range records {
		ops = append(ops, fmt.Sprint(r.Op, " ", r.Path.Name()))
	}
	return ops
}

func TestEveryStepOfALifeIsARecord(t *testing.T) {
	l := life{newBench(t)}
	a, b, c := catalogtest.Item("a"), catalogtest.Item("b", "a"), catalogtest.Item("c", "a")
	l.publish(a, b, c)
	l.until(3)
	l.withdraw("b")
	l.restore("b")
	gone := l.withdraw("b", "c")
	l.until(7)
	l.end(gone)
	if err := l.catalogue.Deleted(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	keys, err := l.catalogue.Reserve(t.Context(), []catalog.Want{{Base: b.Path.Base, Compression: compress.Zstd}})
	if err != nil {
		t.Fatal(err)
	}
	b.Files[0].Key = keys[0] // another life has other objects
	if _, err := l.catalogue.Publish(t.Context(), []catalog.Publication{b}); err != nil {
		t.Fatal(err)
	}
	l.until(10)
	want := "[publish a publish b publish c withdraw b undo b withdraw b withdraw c delete b delete c publish b]"
	ops := l.ops()
	// Which of two that are withdrawn at once is told first does not matter to anybody.
	for _, pair := range [][2]int{{5, 6}, {7, 8}} {
		if ops[pair[0]] > ops[pair[1]] {
			ops[pair[0]], ops[pair[1]] = ops[pair[1]], ops[pair[0]]
		}
	}
	if got := fmt.Sprint(ops); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	out, err := l.stranger(l.url)
	if want := fmt.Sprintf("verified 10 records of %s up to 10: 2 items\n", l.head().Origin); err != nil || out != want {
		t.Errorf("%v\n got %q\nwant %q", err, out, want)
	}
}

func TestWhatIsGoneBeforeItWasToldIsToldAsDeleted(t *testing.T) {
	l := life{newBench(t)}
	l.publish(catalogtest.Item("first"))
	l.until(1)
	l.stop()
	a, b, c := catalogtest.Item("a"), catalogtest.Item("b", "a"), catalogtest.Item("c", "a")
	l.publish(a, b, c)
	gone := l.withdraw("b")
	l.withdraw("c")
	l.end(gone)
	l.start(3)
	l.until(7)
	if got, want := fmt.Sprint(l.ops()), "[publish first publish a delete b publish c withdraw b withdraw c delete b]"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	out, err := l.stranger(l.url)
	if want := fmt.Sprintf("verified 7 records of %s up to 7: 2 items\n", l.head().Origin); err != nil || out != want {
		t.Errorf("%v\n got %q\nwant %q", err, out, want)
	}
}

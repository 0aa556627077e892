package feed_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/nixkey"
)

func aSnapshot() feed.Snapshot {
	return feed.Snapshot{Origin: origin, Point: feed.Point{Sequence: 2000, Chain: digest.Of([]byte("chain"))}, Until: 2055, Items: 1999, Index: digest.Of([]byte("index")), Size: 345, Time: day.Truncate(time.Second)}
}

func parts() []feed.Part {
	return []feed.Part{
		{SHA256: digest.Of([]byte("a")), Size: 10, Items: 5000, Plain: digest.Of([]byte("b")), Length: 100},
		{SHA256: digest.Of([]byte("c")), Size: 11, Items: 17, Plain: digest.Of([]byte("d")), Length: 101},
	}
}

func TestASnapshotIsBelievedOnlyAsItWasSigned(t *testing.T) {
	key := secret(t, "farm.example-feed-1", 1)
	text := aSnapshot().Sign(key)
	if got, err := feed.ParseSnapshot(text, key.Public()); err != nil || !reflect.DeepEqual(got, aSnapshot()) {
		t.Errorf("%+v, want %+v: %v", got, aSnapshot(), err)
	}
	if _, err := feed.ParseSnapshot(text, secret(t, "other", 1).Public()); !errors.Is(err, nixkey.ErrUnknownKey) {
		t.Errorf("a key of another name: %v", err)
	}
	for i := range text {
		for bit := range 8 {
			changed := bytes.Clone(text)
			changed[i] ^= 1 << bit
			if _, err := feed.ParseSnapshot(changed, key.Public()); err == nil {
				t.Errorf("byte %d bit %d is not missed: %q", i, bit, changed)
			}
		}
		if _, err := feed.ParseSnapshot(text[:i], key.Public()); err == nil {
			t.Errorf("believed when cut off at %d", i)
		}
	}
	backwards := aSnapshot()
	backwards.Until = 1999
	if _, err := feed.ParseSnapshot(backwards.Sign(key), key.Public()); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("one that ends before it begins: %v", err)
	}
	// A head is no snapshot, and a snapshot no head, by whomever it is signed.
	head := feed.Head{Origin: origin, Point: aSnapshot().Point, Time: day}.Sign(key)
	if _, err := feed.ParseSnapshot(head, key.Public()); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("a head: %v", err)
	}
	if _, err := feed.ParseHead(text, key.Public()); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("a snapshot as head: %v", err)
	}
}

func TestAnIndexIsWholeOrNone(t *testing.T) {
	for _, want := range [][]feed.Part{parts(), nil} {
		text := feed.IndexText(want)
		got, err := feed.ParseIndex(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
		for i := range text {
			if _, err := feed.ParseIndex(text[:i]); !errors.Is(err, feed.ErrFormat) {
				t.Errorf("cut off at %d: %v", i, err)
			}
		}
		if _, err := feed.ParseIndex(append(text, '\n')); !errors.Is(err, feed.ErrFormat) {
			t.Errorf("with something behind its end: %v", err)
		}
	}
}

func TestAnItemOfAListIsARecordWithoutItsPlace(t *testing.T) {
	st := stretch(t, feed.Begin(origin), feed.Publish)
	want, err := feed.ParseRecord(st.Lines[0])
	if err != nil {
		t.Fatal(err)
	}
	want.Sequence, want.Op = 0, ""
	text, err := want.ItemLine()
	if err != nil || bytes.Contains(text, []byte(`"seq"`)) || bytes.Contains(text, []byte(`"op"`)) || bytes.Count(text, []byte("\n")) != 1 {
		t.Fatalf("%q: %v", text, err)
	}
	if got, err := feed.ParseItem(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v: %v", got, want, err)
	}
	if _, err := feed.ParseItem(st.Lines[0]); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("a record: %v", err)
	}
	if _, err := feed.ParseRecord(text); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("an item as a record: %v", err)
	}
	want.Files = nil
	if _, err := want.ItemLine(); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("an item without files: %v", err)
	}
}

func FuzzParseSnapshot(f *testing.F) {
	key := secret(f, "farm.example-feed-1", 1)
	f.Add(aSnapshot().Sign(key))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := feed.ParseSnapshot(text, key.Public())
		if err == nil && !bytes.Equal(s.Sign(key), text) {
			t.Errorf("%q is believed", text)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add(feed.IndexText(parts()))
	f.Add(feed.IndexText(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		if parts, err := feed.ParseIndex(text); err == nil && !bytes.Equal(feed.IndexText(parts), text) {
			t.Errorf("%q is written as %q", text, feed.IndexText(parts))
		}
	})
}

func FuzzParseItem(f *testing.F) {
	r, err := feed.ParseRecord(stretch(f, feed.Begin(origin), feed.Publish).Lines[0])
	if err != nil {
		f.Fatal(err)
	}
	text, err := r.ItemLine()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := feed.ParseItem(text)
		if err != nil {
			return
		}
		again, err := r.ItemLine()
		if err != nil {
			return // what is read is wider than what is written
		}
		if same, err := feed.ParseItem(again); err != nil || !reflect.DeepEqual(same, r) {
			t.Errorf("%+v is read again as %+v: %v", r, same, err)
		}
	})
}

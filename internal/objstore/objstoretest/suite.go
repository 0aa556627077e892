// Package objstoretest holds every object store to the contract of package objstore, breaks stores on purpose, and starts a real S3
// server for tests and demonstrations.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"narfold/internal/digest"
	"narfold/internal/objstore"
)

// Run holds a store to the contract. open returns an empty store, a new one for each call.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	for _, claim := range []struct {
		name string
		test func(*testing.T, objstore.Store)
	}{
		{"what is absent is certainly absent", testAbsent},
		{"what is put is read, described and listed alike", testRoundTrip},
		{"every printable key is a name of its own", testKeys},
		{"what is not a key is refused by every method", testNotKeys},
		{"conditions", testConditions},
		{"of concurrent puts with IfAbsent exactly one succeeds", testRaceIfAbsent},
		{"of concurrent puts with one IfMatch exactly one succeeds", testRaceIfMatch},
		{"a key that begins another is refused or stands beside it", testNested},
		{"a body that is not what it was said to be stores nothing", testDigest},
		{"a body that cannot be read fails with its own error", testBrokenBody},
		{"a body may be a file that is given away", testPath},
		{"ranges", testRanges},
		{"a list is in the order of bytes", testListOrder},
		{"a list of more than a page is whole", testListLong},
		{"readers see the whole old object or the whole new one", testOverwrite},
		{"a cancelled context is obeyed", testCancelled},
		{"deleting and putting at once leaves nothing in between", testDeleteRace},
		{"a big body", testBig},
		{"batches", testBatch},
		{"presigned URLs", testPresigned},
	} {
		t.Run(claim.name, func(t *testing.T) { claim.test(t, open(t)) })
	}
}

// noise returns size bytes that depend on seed alone and do not compress.
func noise(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func put(t *testing.T, w objstore.Writer, k objstore.Key, b []byte, c objstore.Condition) objstore.Info {
	t.Helper()
	info, err := w.Put(t.Context(), k, objstore.Bytes(b), c)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	if info.Key != k || info.Size != int64(len(b)) || info.ETag == "" {
		t.Fatalf("put %s of %d bytes returned %+v", k, len(b), info)
	}
	return info
}

// read returns what is stored, and insists that it is described as it is.
func read(t *testing.T, r objstore.Reader, k objstore.Key) []byte {
	t.Helper()
	b, info := readSpan(t, r, k, objstore.Range{})
	if info.Size != int64(len(b)) {
		t.Fatalf("get %s: %d bytes, Info says %d", k, len(b), info.Size)
	}
	return b
}

func readSpan(t *testing.T, r objstore.Reader, k objstore.Key, span objstore.Range) ([]byte, objstore.Info) {
	t.Helper()
	o, err := r.Get(t.Context(), k, span)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	b, err := io.ReadAll(o)
	if err != nil {
		t.Fatalf("read %s: %v", k, err)
	}
	if err := o.Close(); err != nil {
		t.Fatalf("close %s: %v", k, err)
	}
	return b, o.Info
}

func holds(t *testing.T, r objstore.Reader, k objstore.Key, want []byte) {
	t.Helper()
	if got := read(t, r, k); !bytes.Equal(got, want) {
		t.Fatalf("%s holds %d bytes with digest %s, want %d with %s", k, len(got), digest.Of(got), len(want), digest.Of(want))
	}
}

func fails(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error is %v, want %v", what, err, want)
	}
}

func absent(t *testing.T, s objstore.Store, k objstore.Key) {
	t.Helper()
	_, err := s.Stat(t.Context(), k)
	fails(t, "stat "+string(k), err, objstore.ErrNotFound)
	o, err := s.Get(t.Context(), k, objstore.Range{})
	if err == nil {
		o.Close()
	}
	fails(t, "get "+string(k), err, objstore.ErrNotFound)
	if got := keys(t, s, string(k)); slices.Contains(got, k) {
		t.Fatalf("%s is listed", k)
	}
}

func list(t *testing.T, s objstore.Lister, prefix string) []objstore.Info {
	t.Helper()
	var out []objstore.Info
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		out = append(out, info)
	}
	return out
}

func keys(t *testing.T, s objstore.Lister, prefix string) []objstore.Key {
	t.Helper()
	var out []objstore.Key
	for _, info := range list(t, s, prefix) {
		out = append(out, info.Key)
	}
	return out
}

// everything returns the error of each operation on k under ctx.
func everything(ctx context.Context, s objstore.Store, k objstore.Key) map[string]error {
	errs := make(map[string]error)
	o, err := s.Get(ctx, k, objstore.Range{})
	if err == nil {
		o.Close()
	}
	errs["get"] = err
	_, errs["stat"] = s.Stat(ctx, k)
	_, errs["put"] = s.Put(ctx, k, objstore.Bytes([]byte("x")), objstore.Condition{})
	_, errs["put if absent"] = s.Put(ctx, k, objstore.Bytes([]byte("x")), objstore.IfAbsent)
	_, errs["put in a batch"] = objstore.BatchOf(s).Put(ctx, k, objstore.Bytes([]byte("x")), objstore.IfAbsent)
	errs["delete"] = s.Delete(ctx, k)
	return errs
}

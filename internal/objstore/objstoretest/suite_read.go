package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/objstore"
)

func testRanges(t *testing.T, s objstore.Store) {
	b := noise(6, 1000)
	put(t, s, "spans/full", b, objstore.IfAbsent)
	put(t, s, "spans/empty", nil, objstore.IfAbsent)
	for _, c := range []struct {
		offset, length int64
		want           []byte
	}{
		{0, 0, b}, {0, 1, b[:1]}, {0, 1000, b}, {0, 5000, b}, {0, math.MaxInt64, b}, {1, 0, b[1:]}, {999, 0, b[999:]}, {999, 1, b[999:]},
		{999, math.MaxInt64, b[999:]}, {500, 100, b[500:600]}, {500, 5000, b[500:]},
	} {
		got, info := readSpan(t, s, "spans/full", objstore.Range{Offset: c.offset, Length: c.length})
		if !bytes.Equal(got, c.want) {
			t.Errorf("%d bytes from %d: got %d bytes, want %d", c.length, c.offset, len(got), len(c.want))
		}
		if stat, err := s.Stat(t.Context(), "spans/full"); err != nil || info.Size != 1000 || info.ETag != stat.ETag {
			t.Errorf("%d bytes from %d: Info is %+v, of the whole object %+v, %v", c.length, c.offset, info, stat, err)
		}
	}
	for _, r := range []objstore.Range{{Offset: 1000}, {Offset: 1000, Length: 1}, {Offset: math.MaxInt64, Length: math.MaxInt64}, {Offset: -1}, {Length: -1}} {
		o, err := s.Get(t.Context(), "spans/full", r)
		if err == nil {
			o.Close()
		}
		fails(t, fmt.Sprintf("%+v", r), err, objstore.ErrRange)
	}
	for _, r := range []objstore.Range{{}, {Length: 1}, {Length: 100}} {
		if got, info := readSpan(t, s, "spans/empty", r); len(got) != 0 || info.Size != 0 {
			t.Errorf("%+v of the empty object: %d bytes, %+v", r, len(got), info)
		}
	}
	if _, err := s.Get(t.Context(), "spans/empty", objstore.Range{Offset: 1}); !errors.Is(err, objstore.ErrRange) {
		t.Errorf("from 1 of the empty object: %v, want ErrRange", err)
	}
	if o, err := s.Get(t.Context(), "spans/full", objstore.Range{Offset: 10, Length: 20}); err != nil {
		t.Error(err)
	} else {
		defer o.Close()
		if o.File != nil {
			got := make([]byte, 20)
			if _, err := io.ReadFull(o.File, got); err != nil || !bytes.Equal(got, b[10:30]) {
				t.Errorf("File is not at the start of the range: %v", err)
			}
		}
	}
}

func testListOrder(t *testing.T, s objstore.Store) {
	all := []string{
		"a-b", "a/b", "a/b!c", "a/c/d", "a/c-d", "a0", "a.b", "aa", "b", "nar/gzip/x", "nar/zstd/0-a", "nar/zstd/0-b", "nar/zstd/1", "nar/zstd.old",
		"nar-info", "z/z/z/z", "z/z/z0", "z/z/z-", "z/z-", "Z", "_", "~",
	}
	for _, k := range all {
		put(t, s, objstore.Key(k), []byte(k), objstore.IfAbsent)
	}
	slices.Sort(all)
	for _, prefix := range []string{
		"", "a", "a/", "a-", "a/b", "a/c", "a/c/", "a/c/d", "a/c/d/", "nar", "nar/", "nar/zstd", "nar/zstd/", "nar/zstd/0", "z/z", "z/z/z", "z/z/z/", "b", "b/", "c",
		"/", "//", "a//", "../", "./", ".", "..", "nar/../a", "é", "a/\x00", "\xff", strings.Repeat("x", 2000), strings.Repeat("x/", 1000),
	} {
		var want []objstore.Key
		for _, k := range all {
			if strings.HasPrefix(k, prefix) {
				want = append(want, objstore.Key(k))
			}
		}
		if got := keys(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("list %.30q:\n got %q\nwant %q", prefix, got, want)
		}
	}
	t.Run("and may be left early", func(t *testing.T) {
		n := 0
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 3 {
				break
			}
		}
		if n != 3 {
			t.Errorf("saw %d", n)
		}
	})
}

func testListLong(t *testing.T, s objstore.Store) {
	const n = 1203 // S3 gives at most 1,000 names to a page
	want := make([]objstore.Key, n)
	b := objstore.BatchOf(s)
	work := make(chan int)
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range 16 {
		wg.Go(func() {
			for i := range work {
				if _, err := b.Put(t.Context(), want[i], objstore.Bytes(fmt.Append(nil, i)), objstore.IfAbsent); err != nil {
					errs <- err
				}
			}
		})
	}
	for i := range n {
		want[i] = objstore.Key(fmt.Sprintf("long/%d/%d.narinfo", i%3, i*7919%n))
		work <- i
	}
	close(work)
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := keys(t, s, "long/"); !slices.Equal(got, want) {
		t.Errorf("listed %d keys, want %d in order", len(got), n)
	}
	if got := keys(t, s, "long/1/"); len(got) != n/3 {
		t.Errorf("listed %d keys of one folder, want %d", len(got), n/3)
	}
}

func testOverwrite(t *testing.T, s objstore.Store) {
	versions := [][]byte{noise(7, 300_000), noise(8, 200_000)}
	put(t, s, "turning", versions[0], objstore.IfAbsent)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for i := range 30 {
			if _, err := s.Put(t.Context(), "turning", objstore.Bytes(versions[(i+1)%2]), objstore.Condition{}); err != nil {
				t.Errorf("put: %v", err)
				return
			}
		}
	})
	for range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				o, err := s.Get(t.Context(), "turning", objstore.Range{})
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				got, err := io.ReadAll(o)
				o.Close()
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if int64(len(got)) != o.Info.Size || !bytes.Equal(got, versions[0]) && !bytes.Equal(got, versions[1]) {
					t.Errorf("read %d bytes of neither version; Info says %d", len(got), o.Info.Size)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testDeleteRace(t *testing.T, s objstore.Store) {
	// In a directory the last object of a folder takes the folder with it.
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				k := objstore.Key(fmt.Sprintf("shared/deep/%d", g))
				if _, err := s.Put(t.Context(), k, objstore.Bytes(fmt.Append(nil, i)), objstore.IfAbsent); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				if err := s.Delete(t.Context(), k); err != nil {
					t.Errorf("delete: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func testCancelled(t *testing.T, s objstore.Store) {
	put(t, s, "there", noise(9, 4<<20), objstore.IfAbsent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, k := range []objstore.Key{"there", "not/there"} {
		for what, err := range everything(ctx, s, k) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s %s: %v, want context.Canceled", what, k, err)
			}
		}
	}
	n := 0
	for _, err := range s.List(ctx, "") {
		n++
		fails(t, "list", err, context.Canceled)
	}
	if n != 1 {
		t.Errorf("list yielded %d times, want one error", n)
	}
	fails(t, "commit", objstore.BatchOf(s).Commit(ctx), context.Canceled)
	holds(t, s, "there", noise(9, 4<<20))
	absent(t, s, "not/there")

	t.Run("while putting", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		body := objstore.Body{Size: 1 << 20, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(noise(1, 1000)), readerFunc(func(p []byte) (int, error) {
				cancel()
				return copy(p, noise(2, 1000)), nil
			}))), nil
		}}
		_, err := s.Put(ctx, "half", body, objstore.IfAbsent)
		fails(t, "put", err, context.Canceled)
		absent(t, s, "half")
	})
	t.Run("while reading", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o, err := s.Get(ctx, "there", objstore.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if _, err := io.ReadFull(o, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cancel()
		_, err = io.Copy(io.Discard, o)
		fails(t, "read", err, context.Canceled)
		if errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("a cancelled read is not the store's fault: %v", err)
		}
	})
	t.Run("while listing", func(t *testing.T) {
		put(t, s, "there2", nil, objstore.IfAbsent)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for _, last = range s.List(ctx, "") {
			cancel()
		}
		if last != nil {
			fails(t, "list", last, context.Canceled)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func testBatch(t *testing.T, s objstore.Store) {
	b := objstore.BatchOf(s)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatalf("commit of nothing: %v", err)
	}
	for round := range 3 {
		for i := range 20 {
			k := objstore.Key(fmt.Sprintf("batch/%d/%d", round, i))
			put(t, b, k, noise(uint64(i), 100*i), objstore.IfAbsent)
			holds(t, s, k, noise(uint64(i), 100*i))
		}
		long := objstore.Key(fmt.Sprintf("batch/%d/%s", round, strings.Repeat("l", 240)))
		put(t, b, long, []byte("long"), objstore.IfAbsent)
		_, err := b.Put(t.Context(), long, objstore.Bytes([]byte("other")), objstore.IfAbsent)
		fails(t, "again", err, objstore.ErrConflict)
		replaced := objstore.Key(fmt.Sprintf("batch/%d/0", round))
		info := put(t, b, replaced, []byte("replaced"), objstore.Condition{})
		_, err = b.Put(t.Context(), replaced, objstore.Bytes([]byte("other")), objstore.Condition{IfMatch: "0123456789abcdef0123456789abcdef"})
		fails(t, "IfMatch with another ETag", err, objstore.ErrConflict)
		put(t, b, replaced, []byte("again"), objstore.Condition{IfMatch: info.ETag})
		race(t, s, b, objstore.Key(fmt.Sprintf("batch/%d/race", round)), objstore.IfAbsent, 300)
		if err := b.Commit(t.Context()); err != nil {
			t.Fatalf("commit: %v", err)
		}
		holds(t, s, replaced, []byte("again"))
		holds(t, s, long, []byte("long"))
	}
	if got := keys(t, s, "batch/"); len(got) != 3*22 {
		t.Errorf("listed %d keys, want %d", len(got), 3*22)
	}
}

func testPresigned(t *testing.T, s objstore.Store) {
	p, ok := s.(objstore.Presigner)
	if !ok {
		return // this store has nothing to sign for
	}
	do := func(method, url string, header map[string]string, body []byte) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, got
	}
	const k = "nar/zstd/a+b%20?c"
	want := noise(10, 3000)
	url, header, err := p.PresignPut(t.Context(), k, int64(len(want)), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := do("PUT", url, header, want[:2999]); code < 400 {
		t.Errorf("PUT of another size: status %d", code)
	}
	if code, _ := do("PUT", url, nil, want); code != http.StatusForbidden {
		t.Errorf("PUT without the headers: status %d, want 403", code)
	}
	absent(t, s, k)
	if code, text := do("PUT", url, header, want); code != http.StatusOK {
		t.Fatalf("PUT: status %d: %s", code, text)
	}
	holds(t, s, k, want)
	if code, _ := do("PUT", url, header, noise(11, 3000)); code != http.StatusPreconditionFailed {
		t.Errorf("PUT again: status %d, want 412", code)
	}
	holds(t, s, k, want)
	get, err := p.PresignGet(t.Context(), k, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if code, got := do("GET", get, nil, nil); code != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("GET: status %d, %d bytes", code, len(got))
	}
	if code, got := do("GET", get, map[string]string{"Range": "bytes=10-19"}, nil); code != http.StatusPartialContent || !bytes.Equal(got, want[10:20]) {
		t.Errorf("GET of a range: status %d, %d bytes", code, len(got))
	}
	put(t, s, "nar/zstd/a", []byte("not for you"), objstore.IfAbsent)
	if code, _ := do("GET", strings.Replace(get, "a%2Bb%2520%3Fc", "a", 1), nil, nil); code != http.StatusForbidden {
		t.Errorf("GET of another key with the same signature: status %d, want 403", code)
	}
	for _, ttl := range []time.Duration{0, -time.Second, 8 * 24 * time.Hour} {
		if _, err := p.PresignGet(t.Context(), k, ttl); err == nil {
			t.Errorf("a URL for %v", ttl)
		}
		if _, _, err := p.PresignPut(t.Context(), k, 1, ttl); err == nil {
			t.Errorf("a URL to put for %v", ttl)
		}
	}
	if _, err := p.PresignGet(t.Context(), "a/../b", time.Minute); !errors.Is(err, objstore.ErrKey) {
		t.Errorf("a URL for what is not a key: %v", err)
	}
	if _, _, err := p.PresignPut(t.Context(), "a/../b", 1, time.Minute); !errors.Is(err, objstore.ErrKey) {
		t.Errorf("a URL to put what is not a key: %v", err)
	}
}

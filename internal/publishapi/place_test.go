package publishapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/publishapi"
)

// bucket takes what is put, and answers each time with the next of its statuses; 0 breaks the connection.
type bucket struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	got      []http.Header
	stored   []string
}

func newBucket(t *testing.T, statuses ...int) *bucket {
	b := &bucket{statuses: statuses}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		status := b.statuses[min(len(b.got), len(b.statuses)-1)]
		b.got = append(b.got, r.Header.Clone())
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		if status == 200 {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				return // whoever sends tells
			}
			b.stored = append(b.stored, string(text))
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(b.Close)
	return b
}

var largeText = strings.Repeat("x", 300<<10)

func TestALargeNarIsPutWhereTheHerderSays(t *testing.T) {
	for name, c := range map[string]struct {
		statuses     []int
		placed, sent bool
		tries        int
	}{
		"at once":                   {[]int{200}, true, true, 1},
		"the second time":           {[]int{503, 200}, true, true, 2},
		"over a new connection":     {[]int{0, 200}, true, true, 2},
		"it is there":               {[]int{412}, true, false, 1},
		"it arrived, unknown to us": {[]int{0, 412}, true, false, 2},
		"denied, so to the herder":  {[]int{403}, false, false, 1},
		"redirected: to the herder": {[]int{307, 307, 307, 307}, false, false, 4},
		"never, so to the herder":   {[]int{500, 500, 500, 500}, false, false, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			there, b := newBucket(t, c.statuses...), newBackend()
			b.place = publishapi.Place{URL: there.URL + "/key?signature=1", Header: map[string]string{"If-None-Match": "*"}}
			client := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
			placed, sent, err := client.PlaceNar(t.Context(), catalogtest.Base("a"), compress.Zstd, int64(len(largeText)), text(largeText))
			if err != nil || placed != c.placed || sent != c.sent || len(there.got) != c.tries {
				t.Errorf("placed %v, sent %v after %d tries: %v", placed, sent, len(there.got), err)
			}
			if sent && !slices.Equal(there.stored, []string{largeText}) {
				t.Errorf("%d objects are stored", len(there.stored))
			}
			for _, h := range there.got {
				if h.Get("Authorization") != "" || h.Get("If-None-Match") != "*" {
					t.Errorf("it was asked with %v", h)
				}
			}
		})
	}
}

func TestWhatIsPlacedIsSaidWithTheNarinfo(t *testing.T) {
	b := newBackend()
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	for _, want := range [][]compress.Method{{compress.Zstd, compress.Lzip}, nil} {
		if _, err := c.PutNarinfo(t.Context(), narinfoOf("a"), false, want...); err != nil || !slices.Equal(b.placed, want) {
			t.Errorf("placed %v, want %v: %v", b.placed, want, err)
		}
	}
}

func TestAHerderWithoutABucketIsAskedOnce(t *testing.T) {
	b := newBackend()
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	place := func(size int64) {
		t.Helper()
		open := func() (io.ReadCloser, error) { return nil, errors.New("opened in vain") }
		if placed, sent, err := c.PlaceNar(t.Context(), catalogtest.Base("a"), compress.Zstd, size, open); placed || sent || err != nil {
			t.Errorf("placed %v, sent %v: %v", placed, sent, err)
		}
	}
	place(1000)
	if b.placesAsked != 0 {
		t.Error("a small nar is asked for")
	}
	place(1 << 20)
	place(1 << 20)
	if b.placesAsked != 1 {
		t.Errorf("asked %d times", b.placesAsked)
	}
}

func TestAFileThatCannotBeReadIsNotTriedAgainElsewhere(t *testing.T) {
	there, b := newBucket(t, 200), newBackend()
	b.place.URL = there.URL
	c := &publishapi.Client{URL: serve(t, b, nil).URL, Token: "good"}
	gone := errors.New("file is gone")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"not opened": func() (io.ReadCloser, error) { return nil, gone },
		"not read":   func() (io.ReadCloser, error) { return io.NopCloser(failing{gone}), nil },
	} {
		if _, _, err := c.PlaceNar(t.Context(), catalogtest.Base("a"), compress.Zstd, 1<<20, open); !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.PlaceNar(ctx, catalogtest.Base("a"), compress.Zstd, 1<<20, text(largeText)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAPlaceIsForAPublisherAndANar(t *testing.T) {
	url := serve(t, newBackend(), nil).URL
	item := string(catalogtest.Base("a"))
	for body, want := range map[string]int{
		fmt.Sprintf(`{"item":%q,"compression":"zstd","size":1}`, item):       200,
		fmt.Sprintf(`{"item":%q,"compression":"zstd","size":0}`, item):       400,
		fmt.Sprintf(`{"item":%q,"compression":"rar","size":1}`, item):        400,
		`{"item":"../../etc/passwd","compression":"zstd","size":1}`:          400,
		fmt.Sprintf(`{"item":%q,"compression":"zstd","size":1,"x":1}`, item): 400,
	} {
		for token, code := range map[string]int{"good": want, "mirror": 403, "": 401} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/place", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != code {
				t.Errorf("%s with token %q: %d, want %d", body, token, resp.StatusCode, code)
			}
		}
	}
}

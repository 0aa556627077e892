package herder_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"narfold/herder/publish"
	"narfold/herder/push"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// nobodys is an item with a nar that does not become small, made of random text.
func nobodys(t *testing.T, name string, bytes int) item {
	t.Helper()
	text := make([]byte, bytes)
	if _, err := rand.Read(text); err != nil {
		t.Fatal(err)
	}
	return item{dir: storepath.Guix, name: name, text: base64.StdEncoding.EncodeToString(text)}
}

// pushing pushes an item from its tree.
func (f *farm) pushing(t *testing.T, to *publishapi.Client, it item) publish.Result {
	t.Helper()
	tree := it.tree(t)
	var result publish.Result
	p := push.Pusher{To: to, Spooler: publish.Spooler{Dir: t.TempDir(), Workers: 1}}
	must(t, p.Run(t.Context(), func(yield func(publish.Job, error) bool) {
		yield(publish.Job{Narinfo: &narinfo.Narinfo{StorePath: it.path()}, Dump: func(ctx context.Context, w io.Writer) error { return nar.Dump(ctx, w, tree) }}, nil)
	}, func(r publish.Result) { result = r }))
	return result
}

func TestALargeNarGoesIntoTheBucketPastTheHerder(t *testing.T) {
	f := newFarm(t, options{config: inBucket(t, true)})
	token := catalog.NewTokenText()
	must(t, f.d.Catalogue.AddToken(t.Context(), catalog.Token{Name: "builder", Scopes: []catalog.Scope{catalog.ScopePublish}, Created: time.Now()}, catalog.HashToken(token)))
	to := &publishapi.Client{URL: f.url, Token: token}

	// Whatever comes to the herder is kept below this folder; without it nothing can.
	must(t, os.RemoveAll(f.d.Incoming()))
	must(t, os.WriteFile(f.d.Incoming(), nil, 0o444))
	large := nobodys(t, "large", 3<<20)
	if r := f.pushing(t, to, large); r.Err != nil || r.Verdict != catalog.Published || r.Stored < 3<<20 {
		t.Fatalf("large: %+v", r)
	}
	wholeNar(t, f, large)
	if r := f.pushing(t, to, large); r.Err != nil || r.Verdict != catalog.Present || r.Stored != 0 {
		t.Errorf("again: %+v", r)
	}

	// What does not arrive as it was sent goes to the herder, and under another key.
	must(t, os.Remove(f.d.Incoming()))
	must(t, os.Mkdir(f.d.Incoming(), 0o700))
	torn := nobodys(t, "torn", 1<<20)
	_, err := f.d.Objects.Put(t.Context(), catalog.NarKey(compress.Zstd, torn.path().Base, 1), objstore.Bytes([]byte("the beginning")), objstore.IfAbsent)
	must(t, err)
	if r := f.pushing(t, to, torn); r.Err != nil || r.Verdict != catalog.Published {
		t.Fatalf("torn: %+v", r)
	}
	wholeNar(t, f, torn)
	if k := f.object(torn.path().Base, compress.Zstd); k != catalog.NarKey(compress.Zstd, torn.path().Base, 2) {
		t.Errorf("it is served from %s", k)
	}
	uploads := 0
	for u, err := range f.d.Catalogue.Uploads(t.Context()) {
		must(t, err)
		if uploads++; u.Key != catalog.NarKey(compress.Zstd, torn.path().Base, 1) {
			t.Errorf("%s is left", u.Key)
		}
	}
	if uploads != 1 {
		t.Errorf("%d uploads are left, want the torn one", uploads)
	}
}

func wholeNar(t *testing.T, f *farm, it item) {
	t.Helper()
	a := f.get("GET", "/"+string(it.path().HashPart())+".narinfo")
	n, err := narinfo.Parse([]byte(a.body))
	must(t, err)
	b := f.get("GET", "/nar/zstd/"+string(it.path().Base))
	z, err := compress.NewReader(compress.Zstd, bytes.NewReader([]byte(b.body)))
	must(t, err)
	sum, err := nar.Verify(z)
	must(t, errors.Join(err, z.Close()))
	if sum.Hash != n.NarHash || b.status != 200 {
		t.Errorf("%s: its nar is %s, and the narinfo says %s", it.name, sum.Hash, n.NarHash)
	}
}

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"narfold/herder/deployment"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// parcel is what a publisher puts for one item.
type parcel struct {
	path    storepath.Path
	nar     []byte // compressed
	name    string // below nar/
	narinfo []byte
}

// pack makes a parcel of an item that says contents; change is applied to its narinfo.
func pack(t *testing.T, dir, name, contents string, change func(*narinfo.Narinfo), refs ...storepath.Base) parcel {
	t.Helper()
	var plain bytes.Buffer
	if err := nar.Dump(t.Context(), &plain, spit(t, filepath.Join(t.TempDir(), "f"), []byte(contents))); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w, err := compress.NewWriter(compress.Zstd, &packed, compress.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := digest.Of([]byte(name))
	base, err := storepath.ParseBase(sum.Base32()[:storepath.HashLen] + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	file := digest.Of(packed.Bytes())
	p := parcel{path: storepath.Path{Dir: storepath.Dir(dir), Base: base}, nar: packed.Bytes(), name: publishapi.NarName(file, compress.Zstd)}
	n := &narinfo.Narinfo{StorePath: p.path, NarHash: digest.Of(plain.Bytes()), NarSize: int64(plain.Len()), References: refs,
		Files: []narinfo.File{{URL: "nar/" + p.name, Compression: compress.Zstd, FileHash: file, FileSize: int64(packed.Len())}}}
	if change != nil {
		change(n)
	}
	p.narinfo = narinfo.Nix(n)
	return p
}

func (o *origin) putNar(token string, p parcel) response {
	o.t.Helper()
	return ask(o.t, http.MethodPut, o.url+"/nar/"+p.name, token, p.nar)
}

func (o *origin) putNarinfo(token string, p parcel, fields ...string) response {
	o.t.Helper()
	return ask(o.t, http.MethodPut, o.url+"/"+string(p.path.HashPart())+".narinfo", token, p.narinfo, fields...)
}

// means fails unless the answer is this status with this code and words.
func (r response) means(t *testing.T, status int, code, words string) {
	t.Helper()
	var said publishapi.Error
	if status >= 400 {
		if err := json.Unmarshal([]byte(r.body), &said); err != nil {
			t.Errorf("answer %q: %v", r.body, err)
		}
	}
	if r.status != status || said.Code != code || !strings.Contains(r.body, words) {
		t.Errorf("status %d: %s; want status %d, code %q and %q", r.status, r.body, status, code, words)
	}
}

func TestATornUploadLeavesNothing(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	p := pack(t, nix.Store, "torn-1.0", strings.Repeat("torn", 1000), nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /nar/%s HTTP/1.1\r\nHost: origin\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", p.name, token, len(p.nar), p.nar[:len(p.nar)/2])
	wait(t, "the first half to arrive", func() bool { return len(o.staged()) == 1 })
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the half to be removed", func() bool { return len(o.staged()) == 0 })
	o.putNarinfo(token, p).means(t, http.StatusConflict, "no-nar", "no nar was given")
	o.holds()
	// Whole, it is taken.
	o.putNar(token, p).means(t, http.StatusCreated, "", "")
	o.putNarinfo(token, p).means(t, http.StatusCreated, "", `"published"`)
	o.holds(p.path.String())
}

func TestANarHasTheHashOfItsName(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	p := pack(t, nix.Store, "named-1.0", "named", nil)
	bad := p
	bad.nar = append(slices.Clone(p.nar), 0)
	o.putNar(token, bad).means(t, http.StatusBadRequest, "refused", "the bytes that came have the hash")
	bad.name = "x.nar.zst"
	o.putNar(token, bad).means(t, http.StatusBadRequest, "refused", "want the file's hash in nix-base32")
	o.putNar("", p).means(t, http.StatusUnauthorized, "denied", "needs a token")
	o.holds()
	o.putNarinfo(token, p).means(t, http.StatusConflict, "no-nar", "")
	o.holds()
}

func TestANarinfoIsHeldToItsNar(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	lies := pack(t, nix.Store, "lies-1.0", "what it says", func(n *narinfo.Narinfo) { n.NarHash = digest.Of([]byte("something else")) })
	o.putNar(token, lies).means(t, http.StatusCreated, "", "")
	o.putNarinfo(token, lies).means(t, http.StatusBadRequest, "refused", "nar differs from its narinfo")
	if got := o.published(); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
	wrong := lies
	wrong.path.Base = pack(t, nix.Store, "other-1.0", "x", nil).path.Base
	o.putNarinfo(token, wrong).means(t, http.StatusBadRequest, "refused", "another store item")
	if resp := ask(t, http.MethodPut, o.url+"/index.html", token, []byte("x")); resp.status != http.StatusBadRequest {
		t.Errorf("a page was put: %d", resp.status)
	}
	truth := pack(t, nix.Store, "lies-1.0", "what it says", nil)
	o.putNarinfo(token, truth).means(t, http.StatusCreated, "", `"published"`) // the nar still lies there
	o.holds(truth.path.String())
}

func TestMissingReferencesAreRefusedOrWaitedFor(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	lib := pack(t, nix.Store, "lib-1.0", "lib", nil)
	app := pack(t, nix.Store, "app-1.0", "app", nil, lib.path.Base)
	o.putNar(token, app).means(t, http.StatusCreated, "", "")
	refused := o.putNarinfo(token, app)
	refused.means(t, http.StatusConflict, "references", string(lib.path.Base))
	if got := o.published(); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
	o.putNarinfo(token, app, "Narfold-Wait", "1").means(t, http.StatusCreated, "", `"waiting"`)
	if got := o.published(); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
	if resp := get(t, o.url+"/"+string(app.path.HashPart())+".narinfo"); resp.status != http.StatusNotFound {
		t.Errorf("an item without its closure is served: %d", resp.status)
	}
	o.putNar(token, lib).means(t, http.StatusCreated, "", "")
	o.putNarinfo(token, lib).means(t, http.StatusCreated, "", `"published"`)
	o.holds(lib.path.String(), app.path.String())
	wait(t, "the released item to be served", func() bool {
		return get(t, o.url+"/"+string(app.path.HashPart())+".narinfo").status == http.StatusOK
	})
}

func TestPushRefusesOrWaitsForReferences(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	sum, _, code := o.push(app)
	if code != exitRefused || sum.Refused != 1 || sum.Sent != 0 || len(sum.Failures) != 1 || !strings.Contains(sum.Failures[0].Error, filepath.Base(dep)) {
		t.Errorf("exit code %d, %+v", code, sum)
	}
	o.holds()
	if sum := o.pushed("--wait", app); sum.Waiting != 1 || sum.Published != 0 {
		t.Errorf("with --wait: %+v", sum)
	}
	o.holds()
	if sum := o.pushed(dep); sum.Published != 1 {
		t.Errorf("the reference: %+v", sum)
	}
	o.holds(dep, app)
	o.fetch(app)
}

func TestAForgedSignatureByAKnownKeyIsRefused(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	key := o.nixKey()
	name, _, _ := strings.Cut(key, ":")
	stranger, err := nixkey.Generate(name, rander{})
	if err != nil {
		t.Fatal(err)
	}
	forged := pack(t, nix.Store, "forged-1.0", "forged", func(n *narinfo.Narinfo) { n.Sigs = []string{stranger.Sign(n.Fingerprint())} })
	o.putNar(token, forged).means(t, http.StatusCreated, "", "")
	o.putNarinfo(token, forged).means(t, http.StatusBadRequest, "refused", "signature is not acceptable")
	if got := o.published(); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
	// A signature by a key that nobody here knows stays beside ours.
	other, err := nixkey.Generate("elsewhere-1", rander{})
	if err != nil {
		t.Fatal(err)
	}
	var foreign string
	signed := pack(t, nix.Store, "signed-1.0", "signed", func(n *narinfo.Narinfo) {
		foreign = other.Sign(n.Fingerprint())
		n.Sigs = []string{foreign}
	})
	o.putNar(token, signed).means(t, http.StatusCreated, "", "")
	o.putNarinfo(token, signed).means(t, http.StatusCreated, "", `"published"`)
	text := string(o.item(signed.path.String()).Narinfo)
	if !strings.Contains(text, "Sig: "+foreign+"\n") || strings.Count(text, "\nSig: ") != 2 {
		t.Errorf("published narinfo:\n%s", text)
	}
}

// rander is a source of keys.
type rander struct{}

func (rander) Read(p []byte) (int, error) {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.ReadFull(f, p)
}

func TestAHerderWithoutAKeyPublishesNothingUnsigned(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, false, nil)
	sum, _, code := o.push(dep)
	if code != exitRefused || sum.Refused != 1 || !strings.Contains(sum.Failures[0].Error, "there is no key here that signs items of "+nix.Store) {
		t.Errorf("exit code %d, %+v", code, sum)
	}
	if got := o.published(); len(got) != 0 {
		t.Errorf("published are %v", got)
	}
}

func TestManyUploadAtOnce(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	const uploads = 25
	base := pack(t, nix.Store, "base-1.0", "base", nil)
	o.putNar(token, base)
	o.putNarinfo(token, base).means(t, http.StatusCreated, "", `"published"`)
	paths := []string{base.path.String()}
	var g errgroup.Group
	answers := make([][2]response, uploads)
	parcels := make([]parcel, uploads)
	for i := range uploads {
		parcels[i] = pack(t, nix.Store, "many-"+strconv.Itoa(i), strings.Repeat(strconv.Itoa(i), 5000+i), nil, base.path.Base)
		paths = append(paths, parcels[i].path.String())
	}
	for i := range uploads {
		g.Go(func() error {
			answers[i] = [2]response{o.putNar(token, parcels[i]), o.putNarinfo(token, parcels[i])}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		a[0].means(t, http.StatusCreated, "", "")
		a[1].means(t, http.StatusCreated, "", `"published"`)
	}
	o.holds(paths...)
}

func TestTwoPublishersOfOneItem(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	var (
		both sync.WaitGroup
		sums [2]pushSummary
		code [2]exitCode
		said [2]string
	)
	files := []string{o.tokenFile(), o.tokenFile()}
	for i := range sums {
		both.Go(func() { sums[i], said[i], code[i] = o.pushWith(files[i], "--closure", dev) })
	}
	both.Wait()
	for i, sum := range sums {
		if code[i] != exitDone || sum.Published+sum.Present != 3 {
			t.Errorf("publisher %d: exit code %d, %+v: %s", i, code[i], sum, said[i])
		}
	}
	if n := sums[0].Published + sums[1].Published; n != 3 {
		t.Errorf("3 items were published %d times", n)
	}
	wait(t, "what both had sent to be used", func() bool { return len(o.staged()) == 0 })
	o.holds(dep, app, dev)
}

func TestTheFirstOfTwoContentsStays(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	token := o.token(nil)
	first, second := pack(t, nix.Store, "twice-1.0", "one", nil), pack(t, nix.Store, "twice-1.0", "two", nil)
	for _, p := range []parcel{first, second} {
		o.putNar(token, p).means(t, http.StatusCreated, "", "")
	}
	o.putNarinfo(token, first).means(t, http.StatusCreated, "", `"published"`)
	o.putNarinfo(token, first).means(t, http.StatusCreated, "", `"present"`)
	o.putNarinfo(token, second).means(t, http.StatusConflict, "differs", "the first stays")
	n, err := narinfo.Parse(first.narinfo)
	if err != nil {
		t.Fatal(err)
	}
	if it := o.item(first.path.String()); it.NarHash != n.NarHash {
		t.Errorf("published is %s, want %s", it.NarHash, n.NarHash)
	}
	o.sound()
}

func TestNoRoomIsSaidAndNothingIsStored(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, func(c *deployment.Config) { c.Publish.Reserve = 1 << 60 })
	token := o.token(nil)
	p := pack(t, nix.Store, "large-1.0", "large", nil)
	full := o.putNar(token, p)
	full.means(t, http.StatusInsufficientStorage, "full", "are kept in reserve")
	if full.header.Get("Retry-After") != "120" {
		t.Errorf("Retry-After: %q", full.header.Get("Retry-After"))
	}
	_, stderr, code := o.push("--patience", "1s", dep)
	if code != exitUnavailable || !strings.Contains(stderr, "the herder has no room") || !strings.Contains(stderr, "make room there") {
		t.Errorf("narfold push: exit code %d, says %s", code, stderr)
	}
	if err := o.nixPush(token, "", dep); err == nil || !strings.Contains(err.Error(), "507") {
		t.Errorf("nix says: %v", err)
	}
	o.holds()
}

func TestAnUploadIsAskedForBeforeItIsSent(t *testing.T) {
	nix := nixtest.New(t)
	o := newOrigin(t, nix, true, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(o.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name := publishapi.NarName(digest.Of([]byte("x")), compress.Zstd)
	fmt.Fprintf(conn, "PUT /nar/%s HTTP/1.1\r\nHost: origin\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n", name)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d before a body was sent, want 401", resp.StatusCode)
	}
	o.holds()
}

func TestWhatIsStagedIsNotSentAgain(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	// What push would send, put by hand.
	nar := must(t, nil, "nar", "dump", "--compression", "zstd", dep)
	name := publishapi.NarName(digest.Of(nar), compress.Zstd)
	ask(t, http.MethodPut, o.url+"/nar/"+name, o.token(nil), nar).means(t, http.StatusCreated, "", "")
	if resp := ask(t, http.MethodHead, o.url+"/nar/"+name, "", nil); resp.status != http.StatusNotFound {
		t.Errorf("a stranger is told of a staged nar: %d", resp.status)
	}
	if sum := o.pushed(dep); sum.Published != 1 || sum.Sent != 0 {
		t.Errorf("push: %+v", sum)
	}
	o.holds(dep)
}

func TestDamageToAStagedNarIsRepairedByThePush(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	nar := must(t, nil, "nar", "dump", "--compression", "zstd", dep)
	name := publishapi.NarName(digest.Of(nar), compress.Zstd)
	// As a power cut leaves it: the name and the size, and none of the bytes.
	spit(t, filepath.Join(o.d.Incoming(), name), make([]byte, len(nar)))
	if sum := o.pushed(dep); sum.Published != 1 || sum.Sent != int64(len(nar)) {
		t.Errorf("push: %+v", sum)
	}
	o.holds(dep)
	o.fetch(dep)
}

package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// guixPublish leaves a cache as guix publish does. It is made here by the documented layout, since guix publish itself is not
// packaged where the tests run: <compression>/<item>.nar and <item>.narinfo, the narinfo linked from one folder to the next, and
// hashes/<hash part>, a link to the item.
type guixPublish struct {
	t   *testing.T
	dir string
}

func (g guixPublish) bake(base, content string, refs []string, methods ...compress.Method) *narinfo.Narinfo {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "item")
	writeFile(g.t, file, content)
	dumped, err := exec.Command("nix-store", "--dump", file).Output()
	if err != nil {
		g.t.Fatalf("needs nix-store (Debian package nix-bin): %v", err)
	}
	n := &narinfo.Narinfo{
		StorePath: storepath.Path{Dir: storepath.Guix, Base: storepath.Base(base)},
		NarHash:   digest.Of(dumped), NarSize: int64(len(dumped)),
		Signature: "1;publisher;" + digest.Of([]byte(base+content)).Base32(),
	}
	for _, r := range refs {
		n.References = append(n.References, storepath.Base(r))
	}
	programs := map[compress.Method][]string{compress.Gzip: {"gzip", "-c"}, compress.Lzip: {"lzip", "-c"}, compress.Zstd: {"zstd", "-c"}, compress.None: {"cat"}}
	for _, m := range methods {
		cmd := exec.Command(programs[m][0], programs[m][1:]...)
		cmd.Stdin = strings.NewReader(string(dumped))
		packed, err := cmd.Output()
		if err != nil {
			g.t.Fatalf("needs %s: %v", programs[m][0], err)
		}
		writeFile(g.t, filepath.Join(g.dir, string(m), base+".nar"), string(packed))
		n.Files = append(n.Files, narinfo.File{URL: narinfo.NarURL(m, n.StorePath.Base), Compression: m, FileSize: int64(len(packed))})
	}
	text := string(narinfo.Guix(n))
	first := filepath.Join(g.dir, string(methods[0]), base+".narinfo")
	os.Remove(first) // it may be linked
	writeFile(g.t, first, text)
	for _, m := range methods[1:] {
		name := filepath.Join(g.dir, string(m), base+".narinfo")
		os.Remove(name)
		if err := os.Link(first, name); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(g.dir, "hashes"), 0o755); err != nil {
		g.t.Fatal(err)
	}
	os.Symlink(n.StorePath.String(), filepath.Join(g.dir, "hashes", base[:32]))
	return n
}

const (
	guixApp  = "11111111111111111111111111111111-app-1.0"
	guixDep  = "99999999999999999999999999999999-gtk+-3.0"
	guixTool = "55555555555555555555555555555555-tool"
)

func newGuixCache(t *testing.T) guixPublish {
	g := guixPublish{t, t.TempDir()}
	g.bake(guixDep, "dep", nil, compress.Lzip, compress.Zstd)
	g.bake(guixTool, "tool", []string{guixDep, guixTool}, compress.Gzip)
	g.bake(guixApp, "app", []string{guixDep, guixTool, "77777777777777777777777777777777-elsewhere"}, compress.Lzip, compress.Zstd)
	return g
}

func guixPath(base string) string { return "/gnu/store/" + base }

func methodsOf(t *testing.T, s Source, base string) (got []compress.Method) {
	t.Helper()
	for _, f := range consume(t, s)[guixPath(base)].Sources {
		got = append(got, f.Compression)
	}
	return got
}

func TestACacheOfGuixPublishIsOneItemForAllItsFolders(t *testing.T) {
	g := newGuixCache(t)
	s := open1(t, g.dir, Options{})
	listed := consume(t, s)
	wantPaths(t, listed, []string{guixPath(guixApp), guixPath(guixDep), guixPath(guixTool)})
	for base, want := range map[string][]compress.Method{
		guixApp: {compress.Zstd, compress.Lzip}, guixDep: {compress.Zstd, compress.Lzip}, guixTool: {compress.Gzip},
	} {
		job := listed[guixPath(base)]
		if got := methodsOf(t, s, base); !slices.Equal(got, want) {
			t.Errorf("%s in %v, want %v", base, got, want)
		}
		if job.Sign || job.Narinfo.Signature == "" || !job.Narinfo.IsGuix() {
			t.Errorf("%s: Sign %v, Signature %q", base, job.Sign, job.Narinfo.Signature)
		}
	}
	if items, known := s.Len(); items != 3 || !known {
		t.Errorf("Len is %d, %v", items, known)
	}
	named := open1(t, "guix-cache:"+g.dir, Options{Items: []string{guixPath(guixTool)}, Closure: true})
	wantPaths(t, consume(t, named), []string{guixPath(guixTool), guixPath(guixDep)})
	alone := open1(t, filepath.Join(g.dir, "lzip", guixDep+".narinfo"), Options{})
	wantPaths(t, consume(t, alone), []string{guixPath(guixDep)})
}

func TestAnEarlierBuildInAGuixCacheIsPassedOver(t *testing.T) {
	g := newGuixCache(t)
	n := g.bake(guixDep, "dep, but built again", nil, compress.Zstd)
	job := consume(t, open1(t, g.dir, Options{}))[guixPath(guixDep)]
	if job.Narinfo.NarHash != n.NarHash || len(job.Sources) != 1 || job.Sources[0].Compression != compress.Zstd {
		t.Errorf("listed %s in %+v", job.Narinfo.NarHash, job.Sources)
	}
}

func TestAGuixCacheThatIsBeingWrittenGivesWhatIsWhole(t *testing.T) {
	g := newGuixCache(t)
	var refused []string
	s := func() Source {
		refused = nil
		return open1(t, g.dir, Options{Refused: func(item string, err error) { refused = append(refused, item) }})
	}
	os.Remove(filepath.Join(g.dir, "zstd", guixDep+".nar"))
	if got := methodsOf(t, s(), guixDep); !slices.Equal(got, []compress.Method{compress.Lzip}) {
		t.Errorf("without its nar: %v", got)
	}
	os.Remove(filepath.Join(g.dir, "lzip", guixApp+".narinfo"))
	if got := methodsOf(t, s(), guixApp); !slices.Equal(got, []compress.Method{compress.Zstd, compress.Lzip}) {
		t.Errorf("with one narinfo for both: %v", got)
	}
	writeFile(t, filepath.Join(g.dir, "zstd", guixApp+".narinfo"), "StorePath: ")
	writeFile(t, filepath.Join(g.dir, "zstd", "tmp.narinfo"), "")
	listed := consume(t, s())
	wantPaths(t, listed, []string{guixPath(guixDep), guixPath(guixTool)})
	if !slices.Equal(refused, []string{guixApp[:32]}) {
		t.Errorf("refused %v", refused)
	}
	other := strings.Replace(guixApp, "app", "other", 1)
	b, _ := os.ReadFile(filepath.Join(g.dir, "gzip", guixTool+".narinfo"))
	writeFile(t, filepath.Join(g.dir, "gzip", other+".narinfo"), string(b))
	if _, err := tryConsume(t.Context(), open1(t, g.dir, Options{})); !errors.Is(err, narinfo.ErrInvalid) && !errors.Is(err, narinfo.ErrMismatch) {
		t.Errorf("with the narinfo of another item: %v", err)
	}
}

func TestSignedURLsOfAnOldGuixCacheAreAllTaken(t *testing.T) {
	g := newGuixCache(t)
	n := g.bake(guixTool, "tool", []string{guixDep}, compress.Gzip, compress.Lzip)
	text := fmt.Sprintf("StorePath: %s\nURL: guix/nar/gzip/%[2]s\nCompression: gzip\nURL: guix/nar/lzip/%[2]s\nCompression: lzip\n"+
		"NarHash: %[3]s\nNarSize: %[4]d\nReferences: %[5]s\nSignature: 1;old;AAAA\n", n.StorePath, guixTool, n.NarHash, n.NarSize, guixDep)
	for _, m := range []string{"gzip", "lzip"} {
		writeFile(t, filepath.Join(g.dir, m, guixTool+".narinfo"), text)
	}
	s := open1(t, g.dir, Options{})
	job := consume(t, s)[guixPath(guixTool)]
	if string(job.Narinfo.Raw) != text || len(job.Sources) != 2 {
		t.Errorf("listed in %d forms as\n%s", len(job.Sources), job.Narinfo.Raw)
	}
	os.Remove(filepath.Join(g.dir, "lzip", guixTool+".nar"))
	if _, err := tryConsume(t.Context(), s); !errors.Is(err, ErrNotFound) {
		t.Errorf("with a nar gone: %v", err)
	}
}

func TestAGuixCacheHasNoLogs(t *testing.T) {
	s := open1(t, newGuixCache(t).dir, Options{}).(LogSource)
	for b, err := range s.Logs(t.Context()) {
		t.Errorf("lists the log %s, %v", b, err)
	}
	r, err := s.OpenLog(t.Context(), "11111111111111111111111111111111-x.drv")
	if !errors.Is(err, ErrNotFound) {
		io.Copy(io.Discard, r)
		t.Errorf("opened a log: %v", err)
	}
}

func FuzzNarinfoNamesOfGuix(f *testing.F) {
	f.Add(guixApp + ".narinfo")
	f.Add("x.narinfo")
	f.Add(strings.Repeat("0", 32) + "-.narinfo")
	f.Fuzz(func(t *testing.T, name string) {
		if b, ok := guixNarinfoName(name); ok {
			if string(b)+".narinfo" != name || !filepath.IsLocal(narName(compress.Lzip, b)) {
				t.Errorf("%q is of %q", name, b)
			}
		}
		if h, ok := narinfoName(name); ok && string(h)+".narinfo" != name {
			t.Errorf("%q is of %q", name, h)
		}
		got, err := guixNar(narinfo.File{URL: name, Compression: compress.Lzip})
		if err == nil && (!filepath.IsLocal(got) || strings.Count(got, "/") != 1) {
			t.Errorf("%q is at %q", name, got)
		}
	})
}

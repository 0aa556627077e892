package source

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/narinfodb/narinfodbtest"
	"narfold/internal/storepath"
)

// texts reads all narinfos of a cache that nix copy wrote, those that reference others first.
func texts(t testing.TB, dir string) (all [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b []byte) int { return strings.Count(string(b), "-") - strings.Count(string(a), "-") })
	return all
}

// The narinfos are in a database and the nars in a directory, behind a server or in a bucket, as they are with a nar-herder.
func TestADatabaseOfNarinfosIsReadWithNarsFromWhereTheyAre(t *testing.T) {
	n := newNix(t)
	_, app, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=zstd", dev)
	file := narinfodbtest.Make(t, texts(t, dir)...)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	for name, s := range map[string]Source{
		"directory": open1(t, file, Options{Nars: dir}),
		"by word":   open1(t, "database:"+file, Options{Nars: "file://" + dir}),
		"server":    open1(t, file, Options{Nars: server.URL}),
		"bucket":    open1(t, file, Options{Nars: "s3://releases", Bucket: uploaded(t, dir)}),
	} {
		t.Run(name, func(t *testing.T) {
			listed := consume(t, s)
			wantPaths(t, listed, closure(n, dev))
			n.sameFacts(listed)
			for path, job := range listed {
				h := job.Narinfo.StorePath.HashPart()
				want, err := os.ReadFile(filepath.Join(dir, string(h)+".narinfo"))
				if err != nil || string(job.Narinfo.Raw) != string(want) {
					t.Errorf("narinfo of %s is not what it was: %q, %v", path, job.Narinfo.Raw, err)
				}
			}
			if items, known := s.Len(); items != int64(len(listed)) || !known {
				t.Errorf("Len is %d, %v", items, known)
			}
		})
	}
	wantPaths(t, consume(t, open1(t, file, Options{Nars: dir, Items: []string{filepath.Base(app)}})), []string{app})
	wantPaths(t, consume(t, open1(t, file, Options{Nars: dir, Items: []string{app}, Closure: true})), closure(n, app))
}

func TestOfTwoRowsOfOneItemTheLaterCounts(t *testing.T) {
	g := newGuixCache(t)
	older := g.bake(guixDep, "older", nil, compress.Gzip)
	newer := g.bake(guixDep, "dep", nil, compress.Gzip)
	file := narinfodbtest.Make(t, narinfo.Guix(older), narinfo.Guix(newer))
	for job, err := range open1(t, file, Options{Nars: g.dir}).Jobs(t.Context()) {
		if err != nil || job.Narinfo.NarHash != newer.NarHash {
			t.Errorf("listed %v, %v", job.Narinfo, err)
		}
	}
}

func TestRowsThatAreNoNarinfosAreLeftOut(t *testing.T) {
	good := func(name string) *narinfo.Narinfo {
		return &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Guix, Base: storepath.Base(digest.Of([]byte(name)).Base32()[:32] + "-" + name)},
			NarHash: digest.Of([]byte(name)), NarSize: 120, Files: []narinfo.File{{URL: "nar/none/" + name, Compression: compress.None, FileSize: 120}}}
	}
	long := "StorePath: /gnu/store/" + strings.Repeat("0", 32) + "-long\n" + strings.Repeat("x", narinfo.MaxSize)
	file := narinfodbtest.Make(t, narinfo.Guix(good("a")), []byte("StorePath: /etc/passwd\n"), []byte("StorePath: /gnu/store/"+strings.Repeat("1", 32)+"-x\nNarHash: no\n"),
		narinfo.Guix(good("b")), []byte(long))
	refused := map[string]error{}
	s := open1(t, file, Options{Nars: t.TempDir(), Refused: func(item string, err error) { refused[item] = err }})
	listed := 0
	for _, err := range s.Jobs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		listed++
	}
	if listed != 2 || len(refused) != 3 || !errors.Is(refused["row 2 of herder.db"], ErrDamaged) ||
		!errors.Is(refused[strings.Repeat("1", 32)], narinfo.ErrInvalid) || !errors.Is(refused[strings.Repeat("0", 32)], narinfo.ErrTooLarge) {
		t.Errorf("%d listed, refused %v", listed, refused)
	}
	if _, err := Open(t.Context(), file, Options{Nars: t.TempDir()}); !errors.Is(err, ErrDamaged) {
		t.Errorf("where nobody is told of them: %v", err)
	}
}

func TestADatabaseThatCannotServeIsRefusedWithTheReason(t *testing.T) {
	file := narinfodbtest.Make(t, []byte("hello"))
	for name, c := range map[string]struct {
		nars string
		want error
		say  string
	}{
		"no nars":      {"", ErrUnknown, "want the place"},
		"no narinfos":  {t.TempDir(), ErrUnknown, "no column of narinfos"},
		"nars nowhere": {filepath.Join(t.TempDir(), "gone"), os.ErrNotExist, "open nars of"},
		"nars by ftp":  {"ftp://x/y", ErrUnknown, "open nars of"},
	} {
		if _, err := Open(t.Context(), file, Options{Nars: c.nars}); !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestANarsBodyIsNotReadBeyondWhatItCanHave(t *testing.T) {
	n := newNix(t)
	dep, _, _ := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=none", dep)
	sent := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/nar/") {
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			return
		}
		for {
			m, err := w.Write(make([]byte, 32<<10))
			sent += m
			if err != nil {
				return
			}
		}
	}))
	defer server.Close()
	for job, err := range open1(t, server.URL, Options{Items: []string{dep}}).Jobs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := job.Sources[0].Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for p := make([]byte, 32<<10); err == nil; {
			var n int
			n, err = r.Read(p)
			got += n
		}
		r.Close()
		if most := int(job.Narinfo.NarSize)*9/8 + 128<<10; !errors.Is(err, ErrDamaged) || got > most {
			t.Errorf("%d bytes were read of at most %d, then %v", got, most, err)
		}
	}
}

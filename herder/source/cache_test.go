package source

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/storepath"
)

// A cache that nix copy wrote is read in each compression that it writes, from a directory, a bucket and a server.
func TestACacheOfNixCopyIsReadInEachCompression(t *testing.T) {
	n := newNix(t)
	_, app, dev := n.build()
	want := closure(n, dev)
	for _, m := range []string{"zstd", "xz", "none", "bzip2", "gzip", "br", "lz4", "lzip"} {
		t.Run(m, func(t *testing.T) {
			dir := t.TempDir()
			n.copyTo(dir, "compression="+m+"&write-nar-listing=1", dev)
			server := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer server.Close()
			b := uploaded(t, dir)
			sources := map[string]Source{
				"directory": open1(t, dir, Options{}),
				"file URL":  open1(t, "file://"+dir+"?compression=zstd", Options{}),
				"server":    open1(t, server.URL, Options{Items: []string{dev}, Closure: true}),
				"bucket":    open1(t, "s3://releases/a/b?endpoint=localhost:1", Options{Bucket: b}),
			}
			for name, s := range sources {
				listed := consume(t, s)
				wantPaths(t, listed, want)
				n.sameFacts(listed)
				for path, job := range listed {
					if len(job.Sources) != 1 || string(job.Sources[0].Compression) != m || job.Sources[0].Keep != job.Sources[0].Compression.Writable() {
						t.Errorf("%s: %s: %+v", name, path, job.Sources)
					}
				}
			}
			some := open1(t, dir, Options{Items: []string{filepath.Base(app)}})
			wantPaths(t, consume(t, some), []string{app})
			wantPaths(t, consume(t, open1(t, dir, Options{Items: []string{app}, Closure: true})), closure(n, app))
		})
	}
}

// uploaded puts a directory into a bucket in memory.
func uploaded(t testing.TB, dir string) bucketOpener {
	t.Helper()
	store := mem.New()
	if err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		_, err = store.Put(t.Context(), objstore.Key(rel), objstore.Bytes(b), objstore.Condition{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return givenBucket(t, store)
}

func TestBuildLogsAreListedAndOpened(t *testing.T) {
	n := newNix(t)
	_, _, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=none", dev)
	deriver := strings.TrimSpace(n.run("nix-store", "-q", "--deriver", dev))
	writeFile(t, filepath.Join(dir, "log", filepath.Base(deriver)), "building\n")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	for _, spec := range []string{dir, server.URL, "s3://releases"} {
		s := open1(t, spec, Options{Bucket: uploaded(t, dir), Items: []string{dev}}).(LogSource)
		r, err := s.OpenLog(t.Context(), storepath.Base(filepath.Base(deriver)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(text) != "building\n" {
			t.Errorf("%s: log is %q, %v", s, text, err)
		}
		if _, err := s.OpenLog(t.Context(), "00000000000000000000000000000000-x.drv"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: a log that is not there: %v", s, err)
		}
		var logs []string
		for b, err := range s.Logs(t.Context()) {
			if err != nil {
				logs = append(logs, fmt.Sprint(errors.Is(err, ErrUnlistable)))
				break
			}
			logs = append(logs, string(b))
		}
		want := []string{filepath.Base(deriver)}
		if isWeb(spec) {
			want = []string{"true"}
		}
		if !slices.Equal(logs, want) {
			t.Errorf("%s: logs %v, want %v", s, logs, want)
		}
	}
}

func TestAServerWithAListOfStorePathsIsListedWhole(t *testing.T) {
	n := newNix(t)
	_, app, dev := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=zstd", dev)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()

	_, err := tryConsume(t.Context(), open1(t, server.URL, Options{}))
	if !errors.Is(err, ErrUnlistable) {
		t.Errorf("without a list: %v", err)
	}
	writeFile(t, dir+"/store-paths", app+"\n")
	wantPaths(t, consume(t, open1(t, server.URL, Options{Closure: true})), closure(n, app))

	writeFile(t, dir+"/list", strings.Join(closure(n, dev), "\n")+"\n")
	if out, err := exec.Command("xz", "-k", dir+"/list").CombinedOutput(); err != nil {
		t.Fatalf("needs xz (Debian package xz-utils): %v %s", err, out)
	}
	if err := os.Rename(dir+"/list.xz", dir+"/store-paths.xz"); err != nil {
		t.Fatal(err)
	}
	wantPaths(t, consume(t, open1(t, server.URL, Options{})), closure(n, dev))
	wantPaths(t, consume(t, open1(t, server.URL, Options{StorePaths: server.URL + "/store-paths.xz"})), closure(n, dev))
	wantPaths(t, consume(t, open1(t, dir, Options{StorePaths: dir + "/store-paths"})), []string{app})
}

func TestANarinfoWithItsNarBesideIsASource(t *testing.T) {
	n := newNix(t)
	dep, _, _ := n.build()
	dir := t.TempDir()
	n.copyTo(dir, "compression=zstd", dep)
	found, err := filepath.Glob(dir + "/*.narinfo")
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	nars, _ := filepath.Glob(dir + "/nar/*")
	beside := t.TempDir()
	for from, to := range map[string]string{found[0]: "x.narinfo", nars[0]: "x.nar.zst"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(beside, to), string(b))
	}
	wantPaths(t, consume(t, open1(t, found[0], Options{})), []string{dep})
	s := open1(t, beside+"/x.narinfo", Options{By: "someone"})
	listed := consume(t, s)
	wantPaths(t, listed, []string{dep})
	if listed[dep].By != "someone" || listed[dep].Sign {
		t.Errorf("job is by %q, Sign %v", listed[dep].By, listed[dep].Sign)
	}
	if err := os.Remove(beside + "/x.nar.zst"); err != nil {
		t.Fatal(err)
	}
	if _, err := tryConsume(t.Context(), s); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "x.nar.zst") {
		t.Errorf("without its nar: %v", err)
	}
}

// A cache is foreign: one bad item is left out and named, and nothing outside is read.
func TestWhatIsWrongInACacheIsLeftOut(t *testing.T) {
	n := newNix(t)
	dep, app, dev := n.build()
	text := slices.DeleteFunc(closure(n, dev), func(p string) bool { return p == dep || p == app || p == dev })[0]
	hash := func(p string) string { return filepath.Base(p)[:32] }
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "nix-archive-1")
	edit := func(name, old, new string) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), old, new, 1)
		if changed == string(b) {
			t.Fatalf("%q is not in %s", old, name)
		}
		writeFile(t, name, changed)
	}
	cases := map[string]struct {
		damage func(dir string)
		item   string
		is     error
	}{
		"the narinfo of another item": {func(dir string) {
			b, _ := os.ReadFile(dir + "/" + hash(dep) + ".narinfo")
			writeFile(t, dir+"/"+hash(text)+".narinfo", string(b))
		}, hash(text), narinfo.ErrMismatch},
		"no narinfo at all": {func(dir string) { writeFile(t, dir+"/"+hash(text)+".narinfo", "hello\n") }, hash(text), narinfo.ErrInvalid},
		"too large a narinfo": {func(dir string) {
			writeFile(t, dir+"/"+hash(text)+".narinfo", strings.Repeat("x", narinfo.MaxSize+1))
		}, hash(text), ErrDamaged},
		"an item of another store": {func(dir string) {
			edit(dir+"/"+hash(text)+".narinfo", n.root+"/store", "/nix/store")
		}, hash(text), ErrDamaged},
		"a URL that climbs": {func(dir string) { edit(dir+"/"+hash(text)+".narinfo", "URL: nar/", "URL: nar/../../") }, hash(text), narinfo.ErrURL},
		"a URL elsewhere":   {func(dir string) { edit(dir+"/"+hash(text)+".narinfo", "URL: nar/", "URL: http://localhost/") }, hash(text), ErrDamaged},
		"a narinfo that is a link to the outside": {func(dir string) {
			os.Remove(dir + "/" + hash(text) + ".narinfo")
			os.Symlink(secret, dir+"/"+hash(text)+".narinfo")
		}, hash(text), nil},
		"a narinfo that is a directory": {func(dir string) {
			os.Remove(dir + "/" + hash(text) + ".narinfo")
			os.Mkdir(dir+"/"+hash(text)+".narinfo", 0o755)
		}, hash(text), ErrDamaged},
		"a compression nobody knows": {func(dir string) {
			edit(dir+"/"+hash(text)+".narinfo", "Compression: none", "Compression: zpaq")
		}, hash(text), ErrDamaged},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n.copyTo(dir, "compression=none", dev)
			c.damage(dir)
			var (
				refused []string
				s       Source
			)
			s = open1(t, dir, Options{Refused: func(item string, err error) {
				refused = append(refused, item)
				if s.Dir() == "" { // asking from here must not wait for ever
					t.Error("the store directory is not known")
				}
				if c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("refused by %v, want %v", err, c.is)
				}
			}})
			listed := consume(t, s)
			wantPaths(t, listed, []string{dep, app, dev})
			if !slices.Equal(refused, []string{c.item}) {
				t.Errorf("refused %v, want %s", refused, c.item)
			}
			_, err := tryConsume(t.Context(), open1(t, dir, Options{}))
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("without Refused: %v", err)
			}
		})
	}
	t.Run("a nar that is a link to the outside", func(t *testing.T) {
		dir := t.TempDir()
		n.copyTo(dir, "compression=none", text)
		nars, _ := filepath.Glob(dir + "/nar/*")
		os.Remove(nars[0])
		os.Symlink(secret, nars[0])
		for job, err := range open1(t, dir, Options{}).Jobs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if r, err := job.Sources[0].Open(t.Context()); err == nil {
				r.Close()
				t.Error("a file outside the cache was opened")
			}
		}
	})
	t.Run("a nix-cache-info without sense", func(t *testing.T) {
		dir := t.TempDir()
		writeFile(t, dir+"/nix-cache-info", "StoreDir: store\n")
		if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("opened: %v", err)
		}
	})
}

// several makes a cache in which one item is to be had in several forms, as Guix's substitute servers offer it.
func several(t *testing.T, methods ...string) (dir, path string) {
	t.Helper()
	n := newNix(t)
	dep, _, _ := n.build()
	dir = t.TempDir()
	var text string
	for i, m := range methods {
		one := t.TempDir()
		n.copyTo(one, "compression="+m, dep)
		b, err := os.ReadFile(one + "/" + filepath.Base(dep)[:32] + ".narinfo")
		if err != nil {
			t.Fatal(err)
		}
		nars, _ := filepath.Glob(one + "/nar/*")
		body, _ := os.ReadFile(nars[0])
		writeFile(t, dir+"/nar/"+filepath.Base(nars[0]), string(body))
		n, err := narinfo.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			text = string(b)
			continue
		}
		f := n.Files[0]
		text += fmt.Sprintf("URL: %s\nCompression: %s\nFileHash: %s\nFileSize: %d\n", f.URL, f.Compression, f.FileHash, f.FileSize)
	}
	writeFile(t, dir+"/"+filepath.Base(dep)[:32]+".narinfo", text)
	writeFile(t, dir+"/nix-cache-info", "StoreDir: "+filepath.Dir(dep)+"\n")
	return dir, dep
}

func TestOfSeveralFormsADirectoryGivesAllAndAServerTheBest(t *testing.T) {
	dir, path := several(t, "gzip", "zstd", "xz")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	check := func(s Source, want ...compress.Method) {
		t.Helper()
		var got []compress.Method
		for _, f := range consume(t, s)[path].Sources {
			got = append(got, f.Compression)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s gives %v, want %v", s, got, want)
		}
	}
	check(open1(t, dir, Options{}), compress.Gzip, compress.Zstd, compress.Xz)
	check(open1(t, "s3://releases", Options{Bucket: uploaded(t, dir)}), compress.Gzip, compress.Zstd, compress.Xz)
	check(open1(t, server.URL, Options{Items: []string{path}}), compress.Zstd)
	gone, _ := filepath.Glob(dir + "/nar/*.xz")
	os.Remove(gone[0])
	check(open1(t, dir, Options{}), compress.Gzip, compress.Zstd)
	check(open1(t, "s3://releases", Options{Bucket: uploaded(t, dir)}), compress.Gzip, compress.Zstd)
}

// Until 2022 guix publish put the URLs above the signature, so that all of them must stay served.
func TestIfURLsAreSignedEveryFormIsTaken(t *testing.T) {
	dir, path := several(t, "gzip", "zstd")
	name := dir + "/" + filepath.Base(path)[:32] + ".narinfo"
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, name, string(b)+"Signature: 1;test;AAAA\n")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	job := consume(t, open1(t, server.URL, Options{Items: []string{path}}))[path]
	if len(job.Sources) != 2 {
		t.Errorf("%d forms, want both", len(job.Sources))
	}
	changed := strings.Replace(string(b), "Compression: gzip", "Compression: zpaq", 1)
	writeFile(t, name, changed+"Signature: 1;test;AAAA\n")
	if _, err := tryConsume(t.Context(), open1(t, dir, Options{})); !errors.Is(err, ErrDamaged) {
		t.Errorf("a signed form that cannot be read was passed over: %v", err)
	}
}

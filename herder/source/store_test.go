package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"narfold/internal/storepath"
)

func TestAStoreIsListedAsItsOwnProgramsSeeIt(t *testing.T) {
	n := newNix(t)
	dep, app, dev := n.build()
	store := n.root + "/store"

	t.Run("whole, without recipes", func(t *testing.T) {
		s := open1(t, store, Options{})
		listed := consume(t, s)
		wantPaths(t, listed, closure(n, dev))
		n.sameFacts(listed)
		var bytes int64
		for path, job := range listed {
			bytes += job.Narinfo.NarSize
			if text := strings.HasPrefix(job.Narinfo.CA, "text:"); text != strings.HasSuffix(path, "-note.txt") {
				t.Errorf("%s: CA %q", path, job.Narinfo.CA)
			}
			if !job.Sign || job.By != "import" {
				t.Errorf("%s: Sign %v, By %q", path, job.Sign, job.By)
			}
		}
		if got, known := s.NarBytes(); got != bytes || !known {
			t.Errorf("NarBytes is %d, %v; want %d", got, known, bytes)
		}
	})
	t.Run("whole, with recipes", func(t *testing.T) {
		all := strings.Fields(n.run("nix", "path-info", "--all"))
		wantPaths(t, consume(t, open1(t, "store:"+store, Options{Derivations: true})), all)
	})
	t.Run("one item", func(t *testing.T) {
		wantPaths(t, consume(t, open1(t, app, Options{})), []string{app})
	})
	t.Run("a closure", func(t *testing.T) {
		listed := consume(t, open1(t, dev, Options{Closure: true}))
		wantPaths(t, listed, closure(n, dev))
		n.sameFacts(listed)
	})
	t.Run("several items are one source", func(t *testing.T) {
		sources, err := OpenAll(t.Context(), []string{dep, app + "/", dev}, Options{})
		if err != nil || len(sources) != 1 {
			t.Fatalf("%d sources, %v", len(sources), err)
		}
		defer sources[0].Close()
		wantPaths(t, consume(t, sources[0]), []string{dep, app, dev})
	})
	t.Run("the link that nix-build leaves", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "result")
		if err := os.Symlink(app, link); err != nil {
			t.Fatal(err)
		}
		wantPaths(t, consume(t, open1(t, link, Options{})), []string{app})
	})
	t.Run("items by name and hash part", func(t *testing.T) {
		base := storepath.Base(filepath.Base(dep))
		s := open1(t, store, Options{Items: []string{string(base.HashPart()), filepath.Base(app)}})
		wantPaths(t, consume(t, s), []string{dep, app})
	})
	t.Run("what is not valid is refused by name", func(t *testing.T) {
		var refused []string
		opt := Options{Items: []string{strings.Repeat("0", 32), filepath.Base(dep)}, Refused: func(item string, err error) {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v, want ErrNotFound", item, err)
			}
			refused = append(refused, item)
		}}
		wantPaths(t, consume(t, open1(t, store, opt)), []string{dep})
		if want := []string{strings.Repeat("0", 32)}; !slices.Equal(refused, want) {
			t.Errorf("refused %v, want %v", refused, want)
		}
		opt.Refused = nil
		if _, err := tryConsume(t.Context(), open1(t, store, opt)); !errors.Is(err, ErrNotFound) {
			t.Errorf("without Refused: %v", err)
		}
	})
	t.Run("references read out of the files are those of the database", func(t *testing.T) {
		scanned := consume(t, open1(t, store, Options{ScanReferences: true}))
		wantPaths(t, scanned, keys(consume(t, open1(t, store, Options{}))))
		for path, job := range scanned {
			got, want := factOf(job), n.fact(path)
			want.deriver = ""
			if got != want {
				t.Errorf("%s:\n got %v\nwant %v", path, got, want)
			}
		}
		wantPaths(t, consume(t, open1(t, dev, Options{ScanReferences: true, Closure: true})), closure(n, dev))
		single := consume(t, open1(t, dev, Options{ScanReferences: true}))
		if got, want := factOf(single[dev]).references, n.fact(dev).references; got != want {
			t.Errorf("%s alone references %q, want %q", dev, got, want)
		}
	})
	t.Run("without a database it says so", func(t *testing.T) {
		_, err := Open(t.Context(), store, Options{State: t.TempDir()})
		if !errors.Is(err, ErrNoMetadata) || !strings.Contains(err.Error(), "db.sqlite") {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("a reader who leaves is obeyed", func(t *testing.T) {
		for job, err := range open1(t, store, Options{}).Jobs(t.Context()) {
			if err != nil || job.Narinfo == nil {
				t.Fatalf("%v, %v", job.Narinfo, err)
			}
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := tryConsume(ctx, open1(t, store, Options{})); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestSignaturesInADatabaseAreKept(t *testing.T) {
	n := newNix(t)
	_, app, _ := n.build()
	n.run("nix-store", "--generate-binary-cache-key", "test-1", n.root+"/sec", n.root+"/pub")
	n.run("nix", "store", "sign", "-r", "-k", n.root+"/sec", app)
	for path, job := range consume(t, open1(t, app, Options{Closure: true})) {
		if len(job.Narinfo.Sigs) != 1 || !strings.HasPrefix(job.Narinfo.Sigs[0], "test-1:") {
			t.Errorf("%s has the signatures %v", path, job.Narinfo.Sigs)
		}
	}
}

func TestAStoreIsListedWhileNixWritesToIt(t *testing.T) {
	n := newNix(t)
	_, _, dev := n.build()
	want := closure(n, dev)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	const writers, rounds = 2, 3
	left := make(chan struct{}, writers)
	for w := range writers {
		g.Go(func() error {
			defer func() { left <- struct{}{} }()
			for r := range rounds {
				salt := fmt.Sprintf("%d-%d", w, r)
				if _, err := n.try("nix-build", "testdata/items.nix", "--no-out-link", "--arg", "wide", "12", "--argstr", "salt", salt); err != nil {
					return err
				}
			}
			return nil
		})
	}
	lists, most, done := 0, 0, 0
	for done < writers {
		select {
		case <-left:
			done++
		default:
		}
		s, err := Open(ctx, n.root+"/store", Options{})
		if err != nil {
			t.Fatal(err)
		}
		listed, err := tryConsume(ctx, s)
		s.Close()
		if err != nil {
			t.Fatalf("list %d: %v", lists, err)
		}
		for _, p := range want {
			if _, ok := listed[p]; !ok {
				t.Fatalf("list %d lacks %s", lists, p)
			}
		}
		lists++
		most = max(most, len(listed))
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if all := len(want) + writers*rounds*12; most != all {
		t.Errorf("the last of %d lists has %d items, want %d", lists, most, all)
	}
	t.Logf("%d lists while %d items were built", lists, writers*rounds*12)
}

// A store whose items are below /gnu/store by name and elsewhere in fact, as in a container's root seen from outside.
func TestAStoreUnderAnotherRootKeepsItsLogicalPaths(t *testing.T) {
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Fatal("needs /bin/busybox: install the Debian package busybox-static")
	}
	n := newNix(t)
	root := t.TempDir()
	t.Cleanup(func() { makeWritable(root) })
	place := fmt.Sprintf("local?store=/gnu/store&state=%[1]s/var/guix&log=%[1]s/log&real=%[1]s/gnu/store", root)
	cmd := exec.Command("nix-build", "testdata/items.nix", "--no-out-link", "-A", "dev", "--store", place,
		"--option", "sandbox-paths", "/bin/sh=/bin/busybox")
	cmd.Env = slices.DeleteFunc(slices.Clone(n.env), func(s string) bool {
		return strings.HasPrefix(s, "NIX_STATE_DIR=") || strings.HasPrefix(s, "NIX_STORE_DIR=")
	})
	cmd.Env = append(cmd.Env, "NIX_STORE_DIR=/gnu/store")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := map[string][]string{
		"by the root":     keys(consume(t, open1(t, root+"/gnu/store", Options{}))),
		"by logical name": keys(consume(t, open1(t, "/gnu/store", Options{Real: root + "/gnu/store", State: root + "/var/guix"}))),
		"by database":     keys(consume(t, open1(t, "/gnu/store", Options{Real: root + "/gnu/store", Database: root + "/var/guix/db/db.sqlite"}))),
	}
	for how, paths := range seen {
		if len(paths) != 4 || !strings.HasPrefix(paths[0], "/gnu/store/") {
			t.Errorf("%s: listed %v", how, paths)
		}
	}
	for _, p := range seen["by the root"] {
		if strings.HasSuffix(p, "-dev") {
			listed := consume(t, open1(t, p, Options{Real: root + "/gnu/store", State: root + "/var/guix", Closure: true}))
			wantPaths(t, listed, seen["by the root"])
		}
	}
	_, err := Open(t.Context(), "/nix/store", Options{Real: root + "/gnu/store", State: root + "/var/guix"})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("the database of another store was taken: %v", err)
	}
}

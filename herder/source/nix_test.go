package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/herder/publish"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
	"narfold/internal/storepath"
)

// nix is a private store of its own prefix, with the real programs of Nix.
type nix struct {
	t    testing.TB
	root string
	env  []string
	said map[string]fact // what fact has asked already
}

func newNix(t testing.TB) *nix {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		t.Fatal("needs nix-store: install the Debian package nix-bin")
	}
	root := t.TempDir()
	n := &nix{t: t, root: root, said: map[string]fact{}}
	for _, dir := range []string{"store", "var/nix", "var/log/nix", "etc", "home", "cache"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command\n"
	writeFile(t, filepath.Join(root, "etc/nix.conf"), conf)
	n.env = append(os.Environ(), "NIX_STORE_DIR="+root+"/store", "NIX_STATE_DIR="+root+"/var/nix", "NIX_LOG_DIR="+root+"/var/log/nix",
		"NIX_CONF_DIR="+root+"/etc", "NIX_LOCALSTATE_DIR="+root+"/var", "HOME="+root+"/home", "XDG_CACHE_HOME="+root+"/cache", "NIX_REMOTE=")
	t.Cleanup(func() { makeWritable(root) })
	return n
}

// makeWritable lets the testing package remove a store.
func makeWritable(root string) {
	filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(name, 0o755)
		}
		return nil
	})
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *nix) try(program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = n.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), nil
}

func (n *nix) run(program string, args ...string) string {
	n.t.Helper()
	out, err := n.try(program, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// build builds testdata/items.nix and returns the paths dep, app and app's dev.
func (n *nix) build() (dep, app, dev string) {
	n.t.Helper()
	for _, attr := range []string{"dep", "app", "dev"} {
		n.run("nix-build", "testdata/items.nix", "--no-out-link", "-A", attr)
	}
	for p := range strings.FieldsSeq(n.run("nix-store", "-qR", n.path("dev"))) {
		switch storepath.Base(filepath.Base(p)).Name() {
		case "dep-1.0":
			dep = p
		case "app+x-1.0":
			app = p
		case "app+x-1.0-dev":
			dev = p
		}
	}
	return dep, app, dev
}

func (n *nix) path(attr string) string {
	return strings.TrimSpace(n.run("nix-build", "testdata/items.nix", "--no-out-link", "-A", attr))
}

// copyTo copies a closure into a binary cache in a directory.
func (n *nix) copyTo(dir, parameters string, paths ...string) {
	n.t.Helper()
	n.run("nix", append([]string{"copy", "--to", "file://" + dir + "?" + parameters}, paths...)...)
}

// fact is what the real programs say of an item: its hash, references and deriver.
type fact struct {
	hash       digest.SHA256
	references string
	deriver    string
}

func (n *nix) fact(path string) fact {
	n.t.Helper()
	if f, ok := n.said[path]; ok {
		return f
	}
	h, err := digest.Parse(strings.TrimSpace(n.run("nix-store", "-q", "--hash", path)))
	if err != nil {
		n.t.Fatal(err)
	}
	var refs []string
	for r := range strings.FieldsSeq(n.run("nix-store", "-q", "--references", path)) {
		refs = append(refs, filepath.Base(r))
	}
	slices.Sort(refs)
	deriver := filepath.Base(strings.TrimSpace(n.run("nix-store", "-q", "--deriver", path)))
	if deriver == "unknown-deriver" {
		deriver = ""
	}
	n.said[path] = fact{h, strings.Join(refs, " "), deriver}
	return n.said[path]
}

func factOf(j publish.Job) fact {
	var refs []string
	for _, r := range j.Narinfo.References {
		refs = append(refs, string(r))
	}
	return fact{j.Narinfo.NarHash, strings.Join(refs, " "), string(j.Narinfo.Deriver)}
}

// sameFacts compares the jobs with what the real programs say.
func (n *nix) sameFacts(listed map[string]publish.Job) {
	n.t.Helper()
	for path, job := range listed {
		if got, want := factOf(job), n.fact(path); got != want {
			n.t.Errorf("%s:\n got %v\nwant %v", path, got, want)
		}
	}
}

// consume reads a whole source as a publisher would: it checks that references come first and reads every nar in every form.
func consume(t testing.TB, s Source) map[string]publish.Job {
	t.Helper()
	listed, err := tryConsume(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return listed
}

func tryConsume(ctx context.Context, s Source) (map[string]publish.Job, error) {
	listed := map[string]publish.Job{}
	var order []publish.Job
	for job, err := range s.Jobs(ctx) {
		if err != nil {
			return nil, err
		}
		path := job.Narinfo.StorePath.String()
		if _, twice := listed[path]; twice {
			return nil, fmt.Errorf("%s is listed twice", path)
		}
		listed[path] = job
		order = append(order, job)
		if err := readJob(ctx, job); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if most, known := s.Len(); !known || int(most) < len(order) {
			return nil, fmt.Errorf("Len is %d, %v after %d items", most, known, len(order))
		}
		if s.Dir() != job.Narinfo.StorePath.Dir {
			return nil, fmt.Errorf("Dir is %q, and lists %s", s.Dir(), path)
		}
	}
	seen := map[storepath.Base]bool{}
	for _, job := range order {
		n := job.Narinfo
		for _, r := range n.References {
			_, here := listed[storepath.Path{Dir: n.StorePath.Dir, Base: r}.String()]
			if here && r != n.StorePath.Base && !seen[r] {
				return nil, fmt.Errorf("%s is listed before its reference %s", n.StorePath, r)
			}
		}
		seen[n.StorePath.Base] = true
	}
	return listed, nil
}

// readJob reads every form of a nar and holds it to the narinfo.
func readJob(ctx context.Context, job publish.Job) error {
	if (job.Dump == nil) == (len(job.Sources) == 0) {
		return fmt.Errorf("want either a dump or sources")
	}
	verify := func(r io.Reader) error {
		sum, err := nar.Verify(r)
		if err != nil {
			return err
		}
		if n := job.Narinfo; sum.Hash != n.NarHash || sum.Size != n.NarSize {
			return fmt.Errorf("nar is %s with %d bytes, the narinfo says %s with %d", sum.Hash, sum.Size, n.NarHash, n.NarSize)
		}
		return nil
	}
	if job.Dump != nil {
		var b bytes.Buffer
		if err := job.Dump(ctx, &b); err != nil {
			return err
		}
		return verify(&b)
	}
	for _, s := range job.Sources {
		if err := readForm(ctx, s, verify); err != nil {
			return fmt.Errorf("%s: %w", s.Compression, err)
		}
	}
	return nil
}

func readForm(ctx context.Context, s publish.Source, verify func(io.Reader) error) error {
	r, err := s.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	z, err := compress.NewReader(s.Compression, r)
	if err != nil {
		return err
	}
	defer z.Close()
	return verify(z)
}

func keys(m map[string]publish.Job) []string { return slices.Sorted(maps.Keys(m)) }

func open1(t testing.TB, spec string, opt Options) Source {
	t.Helper()
	s, err := Open(t.Context(), spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func closure(n *nix, paths ...string) []string {
	return slices.Sorted(strings.FieldsSeq(n.run("nix-store", append([]string{"-qR"}, paths...)...)))
}

func wantPaths(t testing.TB, listed map[string]publish.Job, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := keys(listed); !slices.Equal(got, want) {
		t.Errorf("listed\n %s\nwant\n %s", strings.Join(got, "\n "), strings.Join(want, "\n "))
	}
}

package derivation_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narfold/internal/derivation"
	"narfold/internal/nixkey/nixtest"
	"narfold/internal/storepath"
)

// graph is a nest of every kind of derivation: fixed outputs of several hashes, one source by two ways, several outputs, sources
// that are files and texts, and strings that need escapes.
const graph = `
let
  mk = name: extra: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; } // extra);
  fixed = name: algo: mode: hash: url: mk name { outputHashAlgo = algo; outputHashMode = mode; outputHash = hash; inherit url; };
  empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  flat = fixed "flat.tar.gz" "sha256" "flat" empty "http://a";
  again = fixed "flat.tar.gz" "sha256" "flat" empty "http://b";
  tree = fixed "tree" "sha256" "recursive" empty "git://c";
  md5 = fixed "old.tar" "md5" "flat" "d41d8cd98f00b204e9800998ecf8427e" "ftp://d";
  sha1 = fixed "older" "sha1" "recursive" "da39a3ee5e6b4b0d3255bfef95601890afd80709" "svn://e";
  script = builtins.toFile "build.sh" "echo \${flat}\n";
  tools = mk "tools-1.0" { outputs = [ "out" "dev" "man" ]; args = [ "-e" script ]; sources = [ flat tree md5 sha1 ]; };
  lib = mk "lib+c++-2.0" { outputs = [ "lib" "out" ]; src = again; buildInputs = [ tools.dev tools ]; file = ./data.txt; };
  both = mk "both" { inherit flat again; text = "tab\t quote\" back\\ line\n cr\r \${x}"; unicode = "größe"; };
in mk "app-3.0" { args = [ "-c" "\"\\\n\t" ]; deps = [ lib lib.lib tools.man both flat again ]; empty = ""; many = true; }
`

func TestEveryDerivationOfARealGraphIsUnderstood(t *testing.T) {
	nix := nixtest.New(t)
	nix.Expression("data.txt", "data\n")
	top := nix.Run("nix-instantiate", nix.Expression("graph.nix", graph))
	check(t, nix, top, 9)
}

func TestBuiltPathsAreTheComputedOnes(t *testing.T) {
	nix := nixtest.New(t)
	expression := nix.Expression("two.nix", nixtest.TwoPackages)
	app := nix.Run("nix-instantiate", expression, "-A", "app")
	check(t, nix, app, 2)
	built := strings.Fields(nix.Run("nix-store", "--realise", app))
	var computed []string
	d, p := read(t, app)
	paths, err := derivation.NewHasher(load).OutputPaths(p, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		computed = append(computed, path.String())
	}
	slices.Sort(built)
	slices.Sort(computed)
	if !slices.Equal(built, computed) {
		t.Errorf("nix built %v, computed %v", built, computed)
	}
}

func read(t *testing.T, name string) (*derivation.Derivation, storepath.Path) {
	t.Helper()
	p, err := storepath.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := load(p)
	if err != nil {
		t.Fatal(err)
	}
	return d, p
}

func load(p storepath.Path) (*derivation.Derivation, error) {
	raw, err := os.ReadFile(p.String())
	if err != nil {
		return nil, err
	}
	return derivation.Parse(raw)
}

// check looks at every derivation below top, of which there are count.
func check(t *testing.T, nix *nixtest.Root, top string, count int) {
	t.Helper()
	h := derivation.NewHasher(load)
	seen := 0
	for name := range strings.FieldsSeq(nix.Run("nix-store", "--query", "--requisites", top)) {
		if !strings.HasSuffix(name, ".drv") {
			continue
		}
		seen++
		d, p := read(t, name)
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if d.String() != string(raw) {
			t.Errorf("%s printed as\n%s\nnix writes\n%s", filepath.Base(name), d, raw)
		}
		if own, err := d.PathOf(p.Dir, strings.TrimSuffix(p.Name(), ".drv")); err != nil || own != p {
			t.Errorf("the path of %s is computed as %s, %v", p, own, err)
		}
		paths, err := h.OutputPaths(p, d)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		for i, o := range d.Outputs {
			if paths[i] != o.Path {
				t.Errorf("%s: output %s is computed as %s, nix has %s", p, o.Name, paths[i], o.Path)
			}
		}
		var refs []string
		for _, ref := range d.References() {
			refs = append(refs, string(p.Dir)+"/"+string(ref))
		}
		theirs := strings.Fields(nix.Run("nix-store", "--query", "--references", name))
		slices.Sort(theirs)
		if !slices.Equal(refs, theirs) {
			t.Errorf("%s refers to %v, nix says %v", p, refs, theirs)
		}
	}
	if seen != count {
		t.Errorf("%d derivations below %s, want %d", seen, top, count)
	}
}

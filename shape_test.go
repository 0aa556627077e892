package narfold_test

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path before the imports of this repository.
const module = "narfold"

// floors says on which floor a folder and all below it stand. A package imports downwards only: a folder of a lower floor, or
// a package of its own folder. On floor 0, which is the shared vocabulary, neighbours may import each other too; Go itself
// refuses the circles. A folder that is not here has no place yet.
var floors = map[string]int{
	"internal/nixbase32":  0,
	"internal/digest":     0,
	"internal/storepath":  0,
	"internal/sexp":       0,
	"internal/guixkey":    0,
	"internal/nixkey":     0,
	"internal/narinfo":    0,
	"internal/nar":        0,
	"internal/derivation": 0,
	"internal/compress":   0,
	"internal/delta":      0,
	"internal/durable":    0,
	"internal/pace":       0,

	"internal/objstore":  1,
	"internal/httpfront": 1,

	"internal/catalog":    2,
	"internal/feed":       2,
	"internal/fleet":      2,
	"internal/lease":      2,
	"internal/tlsfront":   2,
	"internal/builder":    2,
	"internal/publishapi": 2,
	"internal/sysd":       1,
	"internal/nixdb":      2,
	"internal/narinfodb":  2,

	"coordinator": roleFloor,
	"agent":       roleFloor,
	"herder":      roleFloor,
	"mirror":      roleFloor,
	"gc":          roleFloor,
	"dnsgeo":      roleFloor,

	"cmd/narfold": 4,
}

// roleFloor is where the roles stand. Here also tests may not look sideways: what needs two roles is tested from cmd/narfold.
const roleFloor = 3

// everywhere is the home of a library that any package may import.
const everywhere = ""

var (
	compression = []string{"internal/compress", "internal/delta"}
	commandLine = []string{"cmd/narfold"}
	metrics     = []string{"coordinator", "agent", "herder", "mirror", "gc", "dnsgeo", "cmd/narfold"}
)

// homes says in which folders a third-party library may be imported, by the beginning of its import path; the longest that fits
// counts. The libraries that only tests import are held to it as well.
var homes = map[string][]string{
	"github.com/minio/minio-go": {"internal/objstore/s3"},

	"zombiezen.com/go/sqlite": {"internal/catalog/sqlite", "internal/catalog/catalogbench", "internal/nixdb", "internal/narinfodb"},
	"modernc.org/libc":        {"internal/catalog/sqlite"},
	"github.com/jackc/pgx":    {"internal/catalog/postgres"},

	"github.com/klauspost/compress": compression,
	"github.com/ulikunitz/xz":       compression,
	"github.com/therootcompany/xz":  compression,
	"github.com/andybalholm/brotli": compression,
	"github.com/pierrec/lz4":        compression,

	"filippo.io/edwards25519": {"internal/guixkey"},

	"github.com/alecthomas/kong":   commandLine,
	"github.com/pelletier/go-toml": commandLine,
	"golang.org/x/term":            commandLine,
	"github.com/prometheus":        metrics,
	"github.com/miekg/dns":         {"dnsgeo"},
	"github.com/oschwald":          {"dnsgeo"},
	"golang.org/x/crypto/acme":     {"internal/tlsfront"},

	"golang.org/x/sync": {everywhere},
	"golang.org/x/sys":  {everywhere},
}

const (
	// maxLines is the length at which a source file holds two stories. Tests may be longer: a table is one story.
	maxLines = 600
	// minComment is the length below which a package comment only repeats the package's name.
	minComment = 80
)

func TestTheRepositoryHasItsShape(t *testing.T) {
	sources := map[string]string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != ".":
			if strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
				return fs.SkipDir
			}
			// A module of its own (tools) is not part of the product.
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
		case strings.HasSuffix(name, ".go"):
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			sources[filepath.ToSlash(name)] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, must := range []string{"shape_test.go", "internal/objstore/objstore.go"} {
		if sources[must] == "" {
			t.Fatalf("the walk did not find %s: this test looks at the wrong place", must)
		}
	}
	for _, complaint := range complaints(sources) {
		t.Error(complaint)
	}
}

// complaints says what is wrong with the shape of the given sources (file name from the root of the module, text), one sentence
// beginning with the file or folder each, in the order of the files.
func complaints(sources map[string]string) []string {
	c := &checker{fset: token.NewFileSet(), comments: map[string][]string{}}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		c.file(name, sources[name])
	}
	c.packages()
	return c.said
}

// checker collects complaints over the files of a module.
type checker struct {
	fset *token.FileSet
	said []string
	// comments holds, for each folder with a source that is no test, the files that carry its package comment.
	comments map[string][]string
}

func (c *checker) complain(where, format string, args ...any) {
	c.said = append(c.said, where+": "+fmt.Sprintf(format, args...))
}

func (c *checker) at(n ast.Node) string {
	p := c.fset.Position(n.Pos())
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

func (c *checker) file(name, text string) {
	f, err := parser.ParseFile(c.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		c.said = append(c.said, err.Error()) // it begins with the file and the line
		return
	}
	test := strings.HasSuffix(name, "_test.go")
	if !test {
		c.comment(name, f)
		if n := strings.Count(text, "\n"); n > maxLines {
			c.complain(name, "%d lines, more than %d: there are two stories in it, give each a file", n, maxLines)
		}
	}
	for _, spec := range f.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value) // the parser has refused what is not quoted
		if reason := refusal(path.Dir(name), imported, test); reason != "" {
			c.complain(c.at(spec), "%s", reason)
		}
		if spec.Name != nil && spec.Name.Name == "_" && imported != "embed" {
			c.complain(c.at(spec), "blank import of %s: what a package needs is handed to it by name", imported)
		}
	}
	for _, decl := range f.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			c.complain(c.at(fn), "func init: what must happen is called by name, from main downwards")
		}
	}
	c.skips(f, test)
}

// refusal says why the package in folder may not import a path, or "".
func refusal(folder, imported string, test bool) string {
	first, _, _ := strings.Cut(imported, "/")
	switch {
	case imported == module:
		return "import of the module's root, which holds no code"
	case first == module:
		return refusalInside(folder, strings.TrimPrefix(imported, module+"/"), test)
	case strings.Contains(first, "."):
		return refusalOutside(folder, imported)
	}
	return "" // the standard library
}

// refusalInside judges an import of this module's own folder imported.
func refusalInside(folder, imported string, test bool) string {
	from, ok := place(folder)
	if !ok {
		return "" // said once, of the folder
	}
	to, ok := place(imported)
	if !ok {
		return fmt.Sprintf("import of %s, which has no floor in shape_test.go", imported)
	}
	switch {
	case from == to:
		if floors[from] == roleFloor && imported == from && folder != from {
			return fmt.Sprintf("import of %s from below it: a role imports its parts, not the parts their role", imported)
		}
		return ""
	case floors[to] > floors[from]:
		return fmt.Sprintf("import of %s goes up, from floor %d to floor %d: let the package say what it needs in an interface of its own",
			imported, floors[from], floors[to])
	case floors[to] == floors[from] && floors[from] == roleFloor:
		return fmt.Sprintf("import of %s by %s: roles talk over HTTP or through the catalogue, none imports another", imported, from)
	case floors[to] == floors[from] && floors[from] != 0 && !test:
		return fmt.Sprintf("import of %s goes sideways on floor %d: move what both need one floor down, or join them one floor up", imported, floors[from])
	}
	return ""
}

// refusalOutside judges an import of a third-party library.
func refusalOutside(folder, imported string) string {
	library := longest(maps.Keys(homes), imported)
	if library == "" {
		return fmt.Sprintf("import of %s: give it a home in shape_test.go, or do without it", imported)
	}
	for _, home := range homes[library] {
		if home == everywhere || within(folder, home) {
			return ""
		}
	}
	return fmt.Sprintf("import of %s outside its home: only %s may", imported, strings.Join(homes[library], ", "))
}

// place returns the folder of the table floors in which a package stands.
func place(folder string) (string, bool) {
	p := longest(maps.Keys(floors), folder)
	return p, p != ""
}

// longest returns the longest of the given paths in which p lies, or "".
func longest(paths func(func(string) bool), p string) string {
	best := ""
	for candidate := range paths {
		if within(p, candidate) && len(candidate) > len(best) {
			best = candidate
		}
	}
	return best
}

// within says whether path p is folder or lies below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

// comment remembers and judges the package comment of a file that is no test.
func (c *checker) comment(name string, f *ast.File) {
	folder := path.Dir(name)
	files := c.comments[folder]
	if f.Doc != nil {
		files = append(files, name)
	}
	c.comments[folder] = files // also when there is none yet, so that the folder is known
	if f.Doc == nil {
		return
	}
	begin := "Package " + f.Name.Name + " "
	if f.Name.Name == "main" {
		begin = "Command " + path.Base(folder) + " "
	}
	switch text := f.Doc.Text(); {
	case !strings.HasPrefix(text, begin):
		c.complain(c.at(f.Doc), "the package comment must begin %q", begin)
	case len(text) < minComment:
		c.complain(c.at(f.Doc), "the package comment has %d characters; say what the package is for (at least %d)", len(text), minComment)
	}
}

// packages judges what only shows when all files of a folder are known.
func (c *checker) packages() {
	for _, folder := range slices.Sorted(maps.Keys(c.comments)) {
		if _, ok := place(folder); !ok && folder != "." {
			c.complain(folder, "this package has no floor: give it one in shape_test.go")
		}
		switch files := c.comments[folder]; len(files) {
		case 0:
			c.complain(folder, "no package comment: say in one paragraph what the package is for")
		case 1:
		default:
			c.complain(folder, "the package comment is in %s: one is enough", strings.Join(files, " and "))
		}
	}
}

// platform holds the build tags behind which a test may stand: they follow from the machine and from the race detector, and do
// not have to be asked for.
var platform = map[string]bool{"linux": true, "unix": true, "amd64": true, "arm64": true, "race": true}

// skips refuses every way of not running a test: the Skip methods of T, B, F and TB, testing.Short, and a build tag that the
// usual command does not set. Suites that other packages run are no _test.go files, so all files are read.
func (c *checker) skips(f *ast.File, test bool) {
	for _, group := range f.Comments {
		for _, line := range group.List {
			if !test || !constraint.IsGoBuild(line.Text) {
				continue
			}
			expr, err := constraint.Parse(line.Text)
			if err != nil {
				c.complain(c.at(line), "%v", err)
				continue
			}
			expr.Eval(func(tag string) bool {
				if !platform[tag] {
					c.complain(c.at(line), "a test behind the build tag %q does not run", tag)
				}
				return true
			})
		}
	}

	if !slices.ContainsFunc(f.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == `"testing"` }) {
		return
	}
	takers := testingNames(f)
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		receiver := ""
		switch x := method.X.(type) {
		case *ast.Ident:
			receiver = x.Name
		case *ast.SelectorExpr:
			receiver = x.Sel.Name
		}
		switch method.Sel.Name {
		case "Skip", "Skipf", "SkipNow":
			if takers[receiver] {
				c.complain(c.at(call), "%s.%s: a test that does not run proves nothing; what it needs is installed by make deps, so fail",
					receiver, method.Sel.Name)
			}
		case "Short":
			if receiver == "testing" {
				c.complain(c.at(call), "testing.Short: every test runs every time; make it faster")
			}
		}
		return true
	})
}

// testingNames returns the names under which a file knows a T, B, F or TB of package testing: parameters, fields, variables, and
// the fields that embedding makes.
func testingNames(f *ast.File) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch d := n.(type) {
		case *ast.Field:
			kind, ok := testingKind(d.Type)
			if !ok {
				break
			}
			for _, id := range d.Names {
				names[id.Name] = true
			}
			if len(d.Names) == 0 {
				names[kind] = true
			}
		case *ast.ValueSpec:
			if _, ok := testingKind(d.Type); ok {
				for _, id := range d.Names {
					names[id.Name] = true
				}
			}
		}
		return true
	})
	return names
}

// testingKind returns the T of the types testing.T and *testing.T.
func testingKind(e ast.Expr) (string, bool) {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return sel.Sel.Name, ok && pkg.Name == "testing"
}

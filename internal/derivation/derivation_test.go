package derivation

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"narfold/internal/digest"
	"narfold/internal/storepath"
)

const (
	ha = "gpr97dmy8mpg1w10hbkg3cwmx4c1spc7"
	hb = "5h2w4qi9hk1qzzgi1w83220ydslinr4s"
	hc = "8bhx1hh3kgpp9a9ldgw6wbmnqf4dzh3v"
)

const sample = `Derive([("dev","/gnu/store/` + ha + `-x-dev","",""),("out","/gnu/store/` + hb + `-x","","")],` +
	`[("/gnu/store/` + hb + `-guile-3.0.9.drv",["out"]),("/gnu/store/` + hc + `-bash-5.1.drv",["include","out"])],` +
	`["/gnu/store/` + hc + `-x-builder"],"x86_64-linux","/gnu/store/` + hb + `-guile-3.0.9/bin/guile",` +
	`["--no-auto-compile","a\"b\\c\nd\te\rf"],[("dev","/gnu/store/` + ha + `-x-dev"),("out","/gnu/store/` + hb + `-x")])`

const source = `Derive([("out","/gnu/store/` + ha + `-x-1.0.tar.gz","sha256","da8f2d72774de477dc39911a0859fa71b7f8d17e471b3be38e3c2f9fea2ff322")],[],[],` +
	`"x86_64-linux","builtin:download",[],[("url","\"http://x\"")])`

func mustParse(t testing.TB, text string) *Derivation {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

func mustPath(s string) storepath.Path {
	p, err := storepath.Parse(s)
	if err != nil {
		panic(err)
	}
	return p
}

func ExampleParse() {
	d, err := Parse([]byte(source))
	if err != nil {
		fmt.Println(err)
		return
	}
	url, _ := d.Lookup("url")
	fmt.Println(d.System, d.Builder, url, d.IsFixedOutput())
	// Output: x86_64-linux builtin:download "http://x" true
}

func TestEveryPartIsRead(t *testing.T) {
	got := mustParse(t, sample)
	want := &Derivation{
		Outputs: []Output{{Name: "dev", Path: mustPath("/gnu/store/" + ha + "-x-dev")}, {Name: "out", Path: mustPath("/gnu/store/" + hb + "-x")}},
		InputDrvs: []Input{
			{mustPath("/gnu/store/" + hb + "-guile-3.0.9.drv"), []string{"out"}},
			{mustPath("/gnu/store/" + hc + "-bash-5.1.drv"), []string{"include", "out"}},
		},
		InputSrcs: []storepath.Path{mustPath("/gnu/store/" + hc + "-x-builder")},
		System:    "x86_64-linux",
		Builder:   "/gnu/store/" + hb + "-guile-3.0.9/bin/guile",
		Args:      []string{"--no-auto-compile", "a\"b\\c\nd\te\rf"},
		Env:       []Variable{{"dev", "/gnu/store/" + ha + "-x-dev"}, {"out", "/gnu/store/" + hb + "-x"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if got.String() != sample {
		t.Errorf("printed\n%s\nwant\n%s", got, sample)
	}
	if refs := got.References(); !slices.Equal(refs, []storepath.Base{hb + "-guile-3.0.9.drv", hc + "-bash-5.1.drv", hc + "-x-builder"}) {
		t.Errorf("references are %v", refs)
	}
	if got.IsFixedOutput() || !mustParse(t, source).IsFixedOutput() {
		t.Error("fixed outputs are not told apart")
	}
	if o, ok := got.Output("dev"); !ok || o != want.Outputs[0] {
		t.Errorf("dev is %v, %v", o, ok)
	}
	if o, ok := got.Output("doc"); ok {
		t.Errorf("doc is %v", o)
	}
	if v, ok := got.Lookup("none"); ok {
		t.Errorf("none is %q", v)
	}
}

func TestWhatThePrintersNeverWriteIsRefused(t *testing.T) {
	edit := func(old, with string) string {
		if !strings.Contains(sample, old) {
			t.Fatalf("nothing to edit: %s", old)
		}
		return strings.Replace(sample, old, with, 1)
	}
	for claim, text := range map[string]string{
		"empty":                       "",
		"another term":                "Drive()",
		"a blank":                     edit(`,["--no`, `, ["--no`),
		"something after it":          sample + "\n",
		"cut short":                   sample[:len(sample)-1],
		"cut in a string":             sample[:len(sample)-5],
		"cut after a backslash":       sample[:strings.Index(sample, `\"b`)+1],
		"an unescaped line end":       edit(`\n`, "\n"),
		"an unescaped tab":            edit(`\t`, "\t"),
		"an unescaped CR":             edit(`\r`, "\r"),
		"an unknown escape":           edit(`\n`, `\x`),
		"a trailing comma":            edit(`-x-builder"]`, `-x-builder",]`),
		"no outputs":                  `Derive([],[],[],"","",[],[])`,
		"an output twice":             edit(`("dev","/gnu/store/`+ha+`-x-dev","","")`, `("out","","","")`),
		"an output without a name":    edit(`("dev",`, `("",`),
		"an output with a slash":      edit(`("dev",`, `("../dev",`),
		"an input twice":              edit(hc+`-bash-5.1.drv`, hb+`-guile-3.0.9.drv`),
		"an output of an input twice": edit(`["include","out"]`, `["out","out"]`),
		"an input that is no recipe":  edit(`-bash-5.1.drv`, `-bash-5.1`),
		"a source twice":              edit(`["/gnu/store/`+hc+`-x-builder"]`, `["/gnu/store/`+hc+`-x-builder","/gnu/store/`+hc+`-x-builder"]`),
		"a source outside a store":    edit(`["/gnu/store/`+hc+`-x-builder"]`, `["/etc/passwd"]`),
		"a climbing path":             edit(`"/gnu/store/`+ha, `"/gnu/../store/`+ha),
		"a variable twice":            edit(`[("dev",`, `[("out",`),
		"a tuple of three":            edit(`"","")],`, `"")],`),
	} {
		d, err := Parse([]byte(text))
		var at *SyntaxError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &at) || at.Offset > len(text) {
			t.Errorf("%s: %v, %v", claim, d, err)
		}
	}
	for _, c := range []struct {
		text string
		want error
	}{
		{`DrvWithVersion("xp-dyn-drv",[],[],[],"","",[],[])`, ErrVersion},
		{strings.Repeat(" ", MaxSize+1), ErrTooLarge},
		{`Derive([("out","","","")],[],[],"","",[""` + strings.Repeat(`,""`, MaxStrings) + `],[])`, ErrTooLarge},
	} {
		if _, err := Parse([]byte(c.text)); !errors.Is(err, ErrInvalid) || !errors.Is(err, c.want) {
			t.Errorf("%.40s: %v, want %v", c.text, err, c.want)
		}
	}
}

// load serves recipes from a map of texts.
func load(texts map[string]string) func(storepath.Path) (*Derivation, error) {
	return func(p storepath.Path) (*Derivation, error) {
		text, ok := texts[p.String()]
		if !ok {
			return nil, errors.New("no such derivation")
		}
		return Parse([]byte(text))
	}
}

func TestWhatHasNoPathIsToldApart(t *testing.T) {
	self := "/gnu/store/" + hb + "-x.drv"
	term := func(outputs, inputs string) string {
		return fmt.Sprintf(`Derive([%s],[%s],[],"s","b",[],[("out","")])`, outputs, inputs)
	}
	needsSelf := `("` + self + `",["out"])`
	for claim, c := range map[string]struct {
		text string
		want error
	}{
		"needs itself":                      {term(`("out","","","")`, needsSelf), ErrCycle},
		"content-addressed":                 {term(`("out","","r:sha256","")`, ""), ErrFloating},
		"needs a content-addressed one":     {term(`("out","","","")`, `("/gnu/store/`+hc+`-ca.drv",["out"])`), ErrFloating},
		"needs one whose path is not known": {term(`("out","","","")`, `("/gnu/store/`+hc+`-deferred.drv",["out"])`), ErrFloating},
	} {
		texts := map[string]string{
			self:                                 term(`("out","/gnu/store/`+ha+`-x","","")`, needsSelf),
			"/gnu/store/" + hc + "-ca.drv":       term(`("out","","r:sha256","")`, ""),
			"/gnu/store/" + hc + "-deferred.drv": term(`("out","","","")`, ""),
		}
		h := NewHasher(load(texts))
		if paths, err := h.OutputPaths(mustPath(self), mustParse(t, c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", claim, paths, err, c.want)
		}
	}
	h := NewHasher(load(nil))
	if paths, err := h.OutputPaths(mustPath("/gnu/store/"+hb+"-x"), mustParse(t, source)); !errors.Is(err, ErrName) {
		t.Errorf("not a .drv: %v, %v", paths, err)
	}
	if _, err := h.Modulo(mustPath(self)); err == nil || !strings.Contains(err.Error(), self) {
		t.Errorf("a missing one: %v", err)
	}
}

// The way a source is fetched is not part of what needs it.
func TestAnotherMirrorChangesNothingDownstream(t *testing.T) {
	fetch := func(url string) string {
		return strings.Replace(source, "http://x", url, 1)
	}
	a, b := mustPath("/gnu/store/"+hb+"-x.drv"), mustPath("/gnu/store/"+hc+"-x.drv")
	h := NewHasher(load(map[string]string{a.String(): fetch("http://a"), b.String(): fetch("http://b")}))
	one, err := h.Modulo(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := h.Modulo(b)
	if err != nil || one != two {
		t.Errorf("%s and %s: %v", one, two, err)
	}
	want := digest.Of([]byte("fixed:out:sha256:da8f2d72774de477dc39911a0859fa71b7f8d17e471b3be38e3c2f9fea2ff322:/gnu/store/" + ha + "-x-1.0.tar.gz"))
	if one != want {
		t.Errorf("hash is %s, want %s", one, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(source))
	f.Add([]byte(`Derive([("out","","r:sha256","")],[],[],"","",["\\\"\n\r\t"],[("__json","{\"a\":1}")])`))
	f.Add([]byte(`DrvWithVersion("xp-dyn-drv",[],[],[],"","",[],[])`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Parse(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if d.String() != string(raw) {
			t.Fatalf("%q\nprinted as\n%q", raw, d)
		}
		h := NewHasher(load(nil))
		if paths, err := h.OutputPaths(mustPath("/gnu/store/"+ha+"-x.drv"), d); err == nil && len(paths) != len(d.Outputs) {
			t.Fatalf("%d paths for %d outputs", len(paths), len(d.Outputs))
		}
		d.References()
	})
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(sample)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

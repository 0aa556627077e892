package narfold_test

import (
	"slices"
	"strings"
	"testing"
)

// A package comment long enough for whoever reads it.
const described = "is here so that a test has something to read; it says what it is for in more than eighty characters.\n"

// source is a file of package p that imports the given paths.
func source(p string, imports ...string) string {
	text := "// Package " + p + " " + described + "package " + p + "\n"
	for _, i := range imports {
		text += "import \"" + i + "\"\n"
	}
	return text
}

func TestAGoodShapeIsNotComplainedOf(t *testing.T) {
	got := complaints(map[string]string{
		"doc.go":                              source("narfold"),
		"internal/digest/digest.go":           source("digest", "crypto/sha256", "narfold/internal/nixbase32"),
		"internal/digest/more.go":             "package digest\n",
		"internal/compress/xz.go":             source("compress", "github.com/ulikunitz/xz/lzma", "golang.org/x/sync/errgroup"),
		"internal/catalog/catalog.go":         source("catalog", "narfold/internal/storepath", "narfold/internal/objstore"),
		"internal/catalog/catalog_test.go":    "package catalog_test\nimport \"narfold/internal/catalog/sqlite\"\n",
		"internal/catalog/sqlite/sqlite.go":   source("sqlite", "narfold/internal/catalog", "zombiezen.com/go/sqlite/sqlitex"),
		"internal/nixdb/nixdb.go":             source("nixdb", "zombiezen.com/go/sqlite"),
		"internal/objstore/dir/dir_test.go":   "package dir\nimport \"narfold/internal/objstore/objstoretest\"\n",
		"internal/objstore/s3/s3.go":          source("s3", "github.com/minio/minio-go/v7", "narfold/internal/objstore"),
		"internal/publishapi/client_test.go":  "package publishapi\nimport \"narfold/internal/catalog/sqlite\"\n",
		"herder/herder.go":                    source("herder", "narfold/herder/source", "narfold/internal/catalog", "github.com/prometheus/client_golang/prometheus"),
		"herder/source/source.go":             source("source", "narfold/internal/nixdb", "embed"),
		"cmd/narfold/main.go":                 "// Command narfold " + described + "package main\nimport (\"narfold/herder\"; \"narfold/mirror\"; \"github.com/alecthomas/kong\")\n",
		"internal/nar/linux_test.go":          "//go:build linux && !race\n\npackage nar\n",
		"internal/nar/reader.go":              source("nar") + "func (r *reader) init() { r.t.Skip() }\n",
		"internal/nar/reader_test.go":         "package nar\nimport \"testing\"\nfunc TestSkip(t *testing.T) { dec.Skip(); t.Log(url.Short()) }\n",
		"internal/nar/blank.go":               "package nar\nimport _ \"embed\"\n",
		"internal/nar/long_test.go":           "package nar\n" + strings.Repeat("\n", maxLines),
		"internal/objstore/objstoretest/s.go": source("objstoretest", "testing", "narfold/internal/objstore"),
	})
	if len(got) > 0 {
		t.Errorf("complaints about nothing:\n%s", strings.Join(got, "\n"))
	}
}

func TestABadShapeIsComplainedOf(t *testing.T) {
	for _, c := range []struct {
		name string
		file string
		text string
		want []string // whole complaints, or their beginnings
	}{
		{"up from the vocabulary to the store", "internal/nar/nar.go", source("nar", "narfold/internal/objstore"),
			[]string{"internal/nar/nar.go:3: import of internal/objstore goes up, from floor 0 to floor 1"}},
		{"up from a seam to a role", "internal/catalog/c.go", source("catalog", "narfold/herder"),
			[]string{"internal/catalog/c.go:3: import of herder goes up, from floor 2 to floor 3"}},
		{"up in a test", "internal/lease/lease_test.go", "package lease\nimport \"narfold/gc\"\n",
			[]string{"internal/lease/lease_test.go:2: import of gc goes up, from floor 2 to floor 3"}},
		{"up to the command", "mirror/mirror.go", source("mirror", "narfold/cmd/narfold/config"),
			[]string{"mirror/mirror.go:3: import of cmd/narfold/config goes up, from floor 3 to floor 4"}},
		{"sideways between stores and fronts", "internal/httpfront/h.go", source("httpfront", "narfold/internal/objstore"),
			[]string{"internal/httpfront/h.go:3: import of internal/objstore goes sideways on floor 1"}},
		{"sideways between seams", "internal/fleet/fleet.go", source("fleet", "narfold/internal/catalog/sqlite"),
			[]string{"internal/fleet/fleet.go:3: import of internal/catalog/sqlite goes sideways on floor 2"}},
		{"a role that imports a role", "mirror/mirror.go", source("mirror", "narfold/herder/source"),
			[]string{"mirror/mirror.go:3: import of herder/source by mirror: roles talk over HTTP"}},
		{"a role's test that imports a role", "mirror/mirror_test.go", "package mirror\nimport \"narfold/herder\"\n",
			[]string{"mirror/mirror_test.go:2: import of herder by mirror: roles talk over HTTP"}},
		{"a part that imports its role", "herder/source/s.go", source("source", "narfold/herder"),
			[]string{"herder/source/s.go:3: import of herder from below it"}},
		{"the root", "gc/gc.go", source("gc", "narfold"),
			[]string{"gc/gc.go:3: import of the module's root"}},
		{"a package without a floor", "internal/util/u.go", source("util", "narfold/herder"),
			[]string{"internal/util: this package has no floor"}},
		{"a folder whose name only begins like one", "internal/narrow/n.go", source("narrow"),
			[]string{"internal/narrow: this package has no floor"}},
		{"an import of a package without a floor", "gc/gc.go", source("gc", "narfold/internal/util"),
			[]string{"gc/gc.go:3: import of internal/util, which has no floor in shape_test.go"}},

		{"a library outside its home", "internal/objstore/mem/m.go", source("mem", "github.com/minio/minio-go/v7"),
			[]string{"internal/objstore/mem/m.go:3: import of github.com/minio/minio-go/v7 outside its home: only internal/objstore/s3 may"}},
		{"a database outside its homes", "herder/h.go", source("herder", "zombiezen.com/go/sqlite"),
			[]string{"herder/h.go:3: import of zombiezen.com/go/sqlite outside its home: only internal/catalog/sqlite, internal/catalog/catalogbench, internal/nixdb, internal/narinfodb may"}},
		{"a compressor in a test outside its home", "internal/nar/n_test.go", "package nar\nimport \"github.com/klauspost/compress/zstd\"\n",
			[]string{"internal/nar/n_test.go:2: import of github.com/klauspost/compress/zstd outside its home"}},
		{"a library without a home", "gc/gc.go", source("gc", "github.com/sirupsen/logrus"),
			[]string{"gc/gc.go:3: import of github.com/sirupsen/logrus: give it a home"}},
		{"a neighbour of a library with a home", "internal/tlsfront/t.go", source("tlsfront", "golang.org/x/crypto/acmeish"),
			[]string{"internal/tlsfront/t.go:3: import of golang.org/x/crypto/acmeish: give it a home"}},
		{"a blank import", "gc/gc.go", "// Package gc " + described + "package gc\nimport _ \"net/http/pprof\"\n",
			[]string{"gc/gc.go:3: blank import of net/http/pprof"}},

		{"no package comment", "gc/gc.go", "package gc\n",
			[]string{"gc: no package comment"}},
		{"a detached package comment", "gc/gc.go", "// Package gc " + described + "\npackage gc\n",
			[]string{"gc: no package comment"}},
		{"a package comment with another beginning", "gc/gc.go", "// This package " + described + "package gc\n",
			[]string{`gc/gc.go:1: the package comment must begin "Package gc "`}},
		{"a command that calls itself a package", "cmd/narfold/main.go", "// Package main " + described + "package main\n",
			[]string{`cmd/narfold/main.go:1: the package comment must begin "Command narfold "`}},
		{"a package comment that says nothing", "gc/gc.go", "// Package gc collects garbage.\npackage gc\n",
			[]string{"gc/gc.go:1: the package comment has 29 characters"}},

		{"an init", "gc/gc.go", source("gc") + "func init() {}\n",
			[]string{"gc/gc.go:3: func init"}},
		{"a file of two stories", "gc/gc.go", source("gc") + strings.Repeat("\n", maxLines-1),
			[]string{"gc/gc.go: 601 lines, more than 600"}},
		{"no Go", "gc/gc.go", "package\n",
			[]string{"gc/gc.go:1:9: expected"}},

		{"a skipped test", "gc/gc_test.go", "package gc\nimport \"testing\"\nfunc TestX(t *testing.T) { t.Skip() }\n",
			[]string{"gc/gc_test.go:3: t.Skip: a test that does not run proves nothing"}},
		{"a skipped benchmark and fuzz test", "gc/gc_test.go",
			"package gc\nimport \"testing\"\nfunc BenchmarkX(b *testing.B) { b.SkipNow() }\nfunc FuzzX(f *testing.F) {\n\tf.Fuzz(func(tt *testing.T) { tt.Skipf(\"no\") })\n}\n",
			[]string{"gc/gc_test.go:3: b.SkipNow: ", "gc/gc_test.go:5: tt.Skipf: "}},
		{"a suite that skips", "internal/objstore/objstoretest/s.go", source("objstoretest", "testing") + "type suite struct { testing.TB }\nfunc (s suite) x() { s.TB.Skip() }\n",
			[]string{"internal/objstore/objstoretest/s.go:5: TB.Skip: "}},
		{"a test for long evenings", "gc/gc_test.go", "package gc\nimport \"testing\"\nfunc TestX(t *testing.T) { if testing.Short() { return } }\n",
			[]string{"gc/gc_test.go:3: testing.Short: "}},
		{"a test behind a tag", "gc/gc_test.go", "//go:build integration\n\npackage gc\n",
			[]string{`gc/gc_test.go:1: a test behind the build tag "integration" does not run`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := complaints(map[string]string{c.file: c.text})
			ok := slices.EqualFunc(got, c.want, strings.HasPrefix)
			if !ok {
				t.Errorf("complaints:\n%s\nwant, each from its beginning:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestTwoPackageCommentsAreOneTooMany(t *testing.T) {
	got := complaints(map[string]string{"gc/a.go": source("gc"), "gc/b.go": source("gc"), "gc/c.go": "package gc\n"})
	want := []string{"gc: the package comment is in gc/a.go and gc/b.go: one is enough"}
	if !slices.Equal(got, want) {
		t.Errorf("complaints: %q, want %q", got, want)
	}
}

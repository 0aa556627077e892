package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestASourceIsRecognisedByWhatItIs(t *testing.T) {
	const item = "00000000000000000000000000000000-item"
	d := t.TempDir()
	for _, name := range []string{
		"cache/nix-cache-info", "bare/00000000000000000000000000000000.narinfo", "guix/lzip/" + item + ".narinfo", "guix/lzip/" + item + ".nar",
		"s/store/" + item + "/nix-cache-info", "old/" + item, "new/store/.links/x", "new/var/nix/db/db.sqlite", "other/file",
	} {
		writeFile(t, filepath.Join(d, name), "")
	}
	if err := os.Symlink(d+"/s/store/"+item, d+"/result"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(d)
	cases := []struct {
		source string
		opt    Options
		want   Spec
	}{
		{"cache", Options{}, Spec{Kind: Cache, At: d + "/cache"}},
		{"./bare/", Options{}, Spec{Kind: Cache, At: d + "/bare"}},
		{"guix", Options{}, Spec{Kind: GuixCache, At: d + "/guix"}},
		{"s/store", Options{}, Spec{Kind: Store, At: d + "/s/store"}},
		{"old", Options{}, Spec{Kind: Store, At: d + "/old"}},
		{"new/store", Options{}, Spec{Kind: Store, At: d + "/new/store"}},
		{"other", Options{Database: d + "/new/var/nix/db/db.sqlite"}, Spec{Kind: Store, At: d + "/other"}},
		{"s/store/" + item, Options{}, Spec{Kind: StoreItem, At: d + "/s/store", Item: item}},
		{"s/store/" + item + "/nix-cache-info", Options{}, Spec{Kind: StoreItem, At: d + "/s/store", Item: item}},
		{"result", Options{}, Spec{Kind: StoreItem, At: d + "/s/store", Item: item}},
		{"result/nix-cache-info", Options{}, Spec{Kind: StoreItem, At: d + "/s/store", Item: item}},
		{"bare/00000000000000000000000000000000.narinfo", Options{}, Spec{Kind: Pair, At: d + "/bare/00000000000000000000000000000000.narinfo"}},
		{"guix/lzip/" + item + ".narinfo", Options{}, Spec{Kind: Pair, At: d + "/guix/lzip/" + item + ".narinfo"}},
		{"/gnu/store/" + item, Options{}, Spec{Kind: StoreItem, At: "/gnu/store", Item: item}},
		{"/gnu/store", Options{Real: d}, Spec{Kind: Store, At: "/gnu/store"}},
		{"/gnu/store/" + item, Options{Real: d}, Spec{Kind: StoreItem, At: "/gnu/store", Item: item}},
		{"http://cache.example/x", Options{}, Spec{Kind: Cache, At: "http://cache.example/x"}},
		{"s3://bucket/x?region=y", Options{}, Spec{Kind: Cache, At: "s3://bucket/x?region=y"}},
		{"file:///srv/a%20b/?compression=xz", Options{}, Spec{Kind: Cache, At: "/srv/a b"}},
		{"cache:http://cache.example", Options{}, Spec{Kind: Cache, At: "http://cache.example"}},
		{"cache:other", Options{}, Spec{Kind: Cache, At: d + "/other"}},
		{"store:other", Options{}, Spec{Kind: Store, At: d + "/other"}},
		{"guix-cache:other", Options{}, Spec{Kind: GuixCache, At: d + "/other"}},
		{"item:old/" + item, Options{}, Spec{Kind: StoreItem, At: d + "/old", Item: item}},
		{"narinfo:other/file", Options{}, Spec{Kind: Pair, At: d + "/other/file"}},
	}
	for _, c := range cases {
		got, err := Recognise(c.source, c.opt)
		if err != nil || got != c.want {
			t.Errorf("%s is\n     %+v, %v\nwant %+v", c.source, got, err, c.want)
		}
	}
	for source, say := range map[string]string{
		"":                    "want a file name",
		"missing":             "no such file",
		"other":               "neither nix-cache-info",
		"other/file":          "*.narinfo",
		"ftp://x/y":           "want a file name, or file://",
		"ssh://user@host":     "want a file name, or file://",
		"http://":             "host",
		"http://h/?compress":  "without a query",
		"file://host/x":       "absolute",
		"s3://b":              "name of a bucket",
		"s3://bucket?color=1": "not known",
		"item:other":          "<32 characters>-<name>",
		"store:":              "want a file name",
	} {
		_, err := Recognise(source, Options{})
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v; want ErrUnknown that says %q", source, err, say)
		}
	}
}

func TestAnS3LocationIsReadAsNixWritesIt(t *testing.T) {
	cases := map[string]S3Location{
		"s3://releases":  {Bucket: "releases"},
		"s3://releases/": {Bucket: "releases"},
		"s3://my.bucket_1/a/b/?region=eu-central-1": {Bucket: "my.bucket_1", Prefix: "a/b", Region: "eu-central-1"},
		"s3://releases?endpoint=minio:9000&scheme=http&profile=me": {
			Bucket: "releases", Endpoint: "http://minio:9000", PathStyle: true, Profile: "me"},
		"s3://releases?endpoint=https://s3.example/&path-style=false": {Bucket: "releases", Endpoint: "https://s3.example"},
		"s3://releases?path-style=1":                                  {Bucket: "releases", PathStyle: true},
	}
	for s, want := range cases {
		if got, err := ParseS3(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"s3:releases", "http://releases", "s3://key:secret@releases", "s3://releases#x", "s3://a..b", "s3://-ab", "s3://releases/../x", "s3://releases/a//b",
		"s3://releases?endpoint=", "s3://releases?region=a&region=b", "s3://releases?endpoint=http://h/path", "s3://releases?endpoint=http://u@h",
		"s3://releases?endpoint=ftp://h", "s3://releases?path-style=maybe", "s3://releases?scheme=gopher", "s3://releases?%zz", "s3://releases?x=1",
	} {
		if at, err := ParseS3(s); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %+v, %v", s, at, err)
		}
	}
}

func ExampleParseS3() {
	at, err := ParseS3("s3://releases/nix?endpoint=s3.example.org&region=eu-central-1")
	fmt.Println(at.Bucket, at.Prefix, at.Endpoint, at.Region, at.PathStyle, err)
	// Output: releases nix https://s3.example.org eu-central-1 true <nil>
}

func FuzzParseS3(f *testing.F) {
	f.Add("s3://releases/nix?endpoint=s3.example.org&region=eu-central-1&path-style=true&scheme=http&profile=p")
	f.Add("s3://releases/a%2Fb")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseS3(s)
		if err != nil {
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseS3(at.String())
		if err != nil || again != at {
			t.Errorf("%q is %+v, and %q is %+v, %v", s, at, at, again, err)
		}
	})
}

func FuzzRecognise(f *testing.F) {
	for _, s := range []string{"http://h/", "file:///x?y", "cache:s3://bucket", "item:/x/00000000000000000000000000000000-a", "a\x00b", "store://x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := Recognise(s, Options{Real: "/nowhere"})
		if err != nil {
			return
		}
		if !filepath.IsAbs(spec.At) && !isWeb(spec.At) && !strings.HasPrefix(spec.At, "s3://") {
			t.Errorf("%q is %+v", s, spec)
		}
		if (spec.Kind == StoreItem) != (spec.Item != "") {
			t.Errorf("%q is %+v", s, spec)
		}
	})
}

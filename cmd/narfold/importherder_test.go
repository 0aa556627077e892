package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/narinfo"
	"narfold/internal/narinfodb/narinfodbtest"
	"narfold/internal/storepath"
)

// What somebody has who ran a nar-herder: a database with the narinfos as the farm signed them, and a folder of nars. The layout of
// the tables is the test's own; see docs/operating.md for what could be verified of the real one.
func TestTheContentOfANarHerderIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	secret, public := filepath.Join(dir, "farm.sec"), filepath.Join(dir, "farm.pub")
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", secret, "--public", public)
	storage := filepath.Join(dir, "storage")
	if err := os.MkdirAll(filepath.Join(storage, "nar", "zstd"), 0o755); err != nil {
		t.Fatal(err)
	}
	var signed [][]byte
	item := func(name string, refs ...storepath.Base) parcel {
		p := pack(t, string(storepath.Guix), name, strings.Repeat("contents of "+name, 5000), func(n *narinfo.Narinfo) {
			n.Files[0].URL = narinfo.NarURL(n.Files[0].Compression, n.StorePath.Base)
		}, refs...)
		n, err := narinfo.Parse(p.narinfo)
		if err != nil {
			t.Fatal(err)
		}
		p.narinfo = must(t, narinfo.Guix(n), "narinfo", "sign", "--key", secret)
		spit(t, filepath.Join(storage, "nar", "zstd", string(p.path.Base)), p.nar)
		signed = append(signed, p.narinfo)
		return p
	}
	glibc := item("glibc-2.39")
	hello := item("hello-2.12.1", glibc.path.Base)
	torn := item("torn-1.0", glibc.path.Base)
	spit(t, filepath.Join(storage, "nar", "zstd", string(torn.path.Base)), torn.nar[:len(torn.nar)/2])
	item("above-1.0", torn.path.Base)
	gone := item("gone-1.0")
	if err := os.Remove(filepath.Join(storage, "nar", "zstd", string(gone.path.Base))); err != nil {
		t.Fatal(err)
	}
	forged := item("forged-1.0")
	signed[len(signed)-1] = bytes.Replace(forged.narinfo, []byte("NarSize: "), []byte("NarSize: 1"), 1)
	// The narinfos lie in the order in which nobody can publish them.
	for i, j := 0, len(signed)-1; i < j; i, j = i+1, j-1 {
		signed[i], signed[j] = signed[j], signed[i]
	}
	database := narinfodbtest.Make(t, signed...)

	state := filepath.Join(dir, "state")
	args := []string{"import", "--state", state, "--key", public, "--json", "--nars", storage, database}
	stdout, _, code := narfold(t, nil, args...)
	var sum importSummary
	if err := json.Unmarshal(stdout, &sum); err != nil || code != exitRefused || sum.Published != 2 || sum.Refused != 4 {
		t.Fatalf("exit code %d, %v: %s", code, err, stdout)
	}
	for name, say := range map[string]string{"torn": "truncated", "above": "not published", "gone": "not in the source", "forged": "signature"} {
		found := false
		for _, f := range sum.Failures {
			found = found || strings.Contains(f.Item, name) && strings.Contains(f.Error, say)
		}
		if !found {
			t.Errorf("of %s it is not told that it %q: %s", name, say, stdout)
		}
	}
	s := startService(t, serviceOptions{args: []string{"--state", state, "--listen", "127.0.0.1:0"}})
	for _, p := range []parcel{glibc, hello} {
		r := get(t, s.url()+"/"+string(p.path.HashPart())+".narinfo")
		before, _, _ := bytes.Cut(p.narinfo, []byte("\nURL: "))
		if !strings.HasPrefix(r.body, string(before)+"\n") {
			t.Errorf("%s is served as\n%s\nand was signed as\n%s", p.path, r.body, p.narinfo)
		}
		must(t, nil, "narinfo", "verify", "--key", public, spit(t, filepath.Join(t.TempDir(), "n.narinfo"), []byte(r.body)))
		if r := get(t, s.url()+"/nar/zstd/"+string(p.path.Base)); r.body != string(p.nar) {
			t.Errorf("nar of %s: %d, %d bytes, want %d", p.path, r.status, len(r.body), len(p.nar))
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// What was missing comes back, and the same again takes that alone.
	for _, p := range []parcel{torn, gone} {
		spit(t, filepath.Join(storage, "nar", "zstd", string(p.path.Base)), p.nar)
	}
	stdout, _, code = narfold(t, nil, args...)
	sum = importSummary{}
	if err := json.Unmarshal(stdout, &sum); err != nil || code != exitRefused || sum.Published != 3 || sum.Present != 2 || sum.Refused != 1 {
		t.Errorf("again: exit code %d, %v: %s", code, err, stdout)
	}

	if _, stderr, code := narfold(t, nil, "import", "--state", state, database); code != exitRefused || !strings.Contains(stderr, "try: --nars DIR") {
		t.Errorf("without nars: exit code %d: %s", code, stderr)
	}
}

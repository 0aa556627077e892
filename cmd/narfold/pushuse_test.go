package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/nixkey/nixtest"
)

func TestNixInstallsFromTheHerderWhatItHasDeleted(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	o.pushed("--closure", dev)
	before := nix.Run("nix-hash", "--type", "sha256", dev)
	nix.Run("nix-store", "--delete", dev, app, dep)
	args := []string{"-r", dev, "--option", "substituters", o.url, "--option", "require-sigs", "true"}
	if _, err := nix.Try("nix-store", append(args, "--option", "trusted-public-keys", "stranger-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")...); err == nil {
		t.Error("nix took what no key that it trusts has signed")
	}
	nix.Run("nix-store", append(args, "--option", "trusted-public-keys", o.nixKey())...)
	if got := nix.Run("nix-hash", "--type", "sha256", dev); got != before {
		t.Errorf("%s came back with the hash %s, want %s", dev, got, before)
	}
	nix.Run("nix-store", "--verify", "--check-contents")
	o.holds(dep, app, dev)
}

func TestACacheIsPushedWithItsSignatures(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	in := func(name string) string { return filepath.Join(nix.Dir, name) }
	nix.Run("nix-store", "--generate-binary-cache-key", "farm-1", in("farm.sec"), in("farm.pub"))
	nix.Run("nix", "copy", "--to", "file://"+in("cache")+"?compression=xz&secret-key="+in("farm.sec"), dev)
	o := newOrigin(t, nix, true, nil)
	sum := o.pushed("file://" + in("cache"))
	if sum.Published != 3 {
		t.Errorf("push: %+v", sum)
	}
	o.holds(dep, app, dev)
	for _, item := range []string{dep, app, dev} {
		it := o.item(item)
		if len(it.Files) != 1 || it.Files[0].Compression != compress.Xz {
			t.Errorf("%s is kept as %v, want it as it came", item, it.Files)
		}
		if text := string(it.Narinfo); !strings.Contains(text, "\nSig: farm-1:") || strings.Count(text, "\nSig: ") != 2 {
			t.Errorf("narinfo of %s:\n%s", item, text)
		}
	}
	o.fetch(dep, app, dev)
}

func TestPushSendsTheCompressionsThatAreWanted(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	o.pushed("--compression", "zstd", "--compression", "lzip", "--level", "best", dep)
	var kept []compress.Method
	for _, f := range o.item(dep).Files {
		kept = append(kept, f.Compression)
	}
	if len(kept) != 2 || kept[0] != compress.Lzip || kept[1] != compress.Zstd {
		t.Errorf("kept as %v", kept)
	}
	o.holds(dep)
	o.fetch(dep)
}

func TestPushTellsWhatItNeeds(t *testing.T) {
	nix := nixtest.New(t)
	dep, _, _ := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	token := o.tokenFile()
	empty := spit(t, filepath.Join(t.TempDir(), "empty"), nil)
	for name, c := range map[string]struct {
		args []string
		code exitCode
		says string
	}{
		"no token file":   {[]string{"--to", o.url, "--token-file", empty + "x", dep}, exitRefused, "narfold token create"},
		"empty token":     {[]string{"--to", o.url, "--token-file", empty, dep}, exitRefused, "publishing needs a token"},
		"plain http":      {[]string{"--to", "http://cache.example.org", "--token-file", token, dep}, exitUsage, "--allow-plain-http"},
		"no URL":          {[]string{"--to", "cache.example.org", "--token-file", token, dep}, exitUsage, "want http:// or https://"},
		"compression":     {[]string{"--to", o.url, "--token-file", token, "--compression", "bzip2", dep}, exitUsage, "want zstd, lzip, gzip, xz or none"},
		"workers":         {[]string{"--to", o.url, "--token-file", token, "--workers=-1", dep}, exitUsage, "want a number from 1"},
		"uploads":         {[]string{"--to", o.url, "--token-file", token, "--uploads=0", dep}, exitUsage, "want a number from 1"},
		"not a herder":    {[]string{"--to", o.url + "/elsewhere", "--token-file", token, dep}, exitRefused, "refuses"},
		"nobody there":    {[]string{"--to", "http://127.0.0.1:1", "--token-file", token, "--patience", "0s", dep}, exitUnavailable, "connection refused"},
		"no such item":    {[]string{"--to", o.url, "--token-file", token, filepath.Join(nix.Store, strings.Repeat("0", 32)+"-x")}, exitRefused, "not in the source"},
		"no spool folder": {[]string{"--to", o.url, "--token-file", token, "--spool", filepath.Join(empty, "x"), dep}, exitRefused, "make spool"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := narfold(t, nil, append([]string{"push", "--quiet"}, c.args...)...)
			if code != c.code || !strings.Contains(string(stdout)+stderr, c.says) {
				t.Errorf("exit code %d, says %s%s", code, stdout, stderr)
			}
		})
	}
	o.holds()
}

func TestPushLeavesNothingInItsSpool(t *testing.T) {
	nix := nixtest.New(t)
	_, _, dev := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	spool := t.TempDir()
	o.pushed("--spool", spool, "--closure", dev)
	entries, err := os.ReadDir(spool)
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
)

func TestWithoutACommandTheOverviewIsShown(t *testing.T) {
	stdout, stderr, code := narfold(t, nil)
	if code != exitUsage || len(stdout) > 0 || !strings.HasPrefix(stderr, "Usage: narfold <command>") {
		t.Errorf("exit code %d, %d bytes of answer, said %q", code, len(stdout), stderr)
	}
}

func TestVersion(t *testing.T) {
	defer func(v string) { version = v }(version)
	version = "v1.2-3-gabcdef0"
	stdout, _, code := narfold(t, nil, "version", "--json")
	var answer versionAnswer
	if err := json.Unmarshal(stdout, &answer); err != nil || code != exitDone {
		t.Fatalf("exit code %d, %v", code, err)
	}
	answer.Revision = "" // only some builds record it
	if want := (versionAnswer{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}); answer != want {
		t.Errorf("answered %v, want %v", answer, want)
	}
	if stdout, _, _ := narfold(t, nil, "version"); !strings.HasPrefix(string(stdout), "narfold v1.2-3-gabcdef0 (go") {
		t.Errorf("answered %q", stdout)
	}
	if stdout, _, code := narfold(t, nil, "--version"); string(stdout) != "narfold v1.2-3-gabcdef0\n" || code != exitDone {
		t.Errorf("--version: exit code %d, answered %q", code, stdout)
	}
	version = ""
	if got := thisVersion().Version; got != "unknown" {
		t.Errorf("a build without history is %q", got)
	}
}

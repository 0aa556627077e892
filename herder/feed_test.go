package herder_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

func TestTheFeedOfAHerderIsVerifiedByAStranger(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("%v: install the Debian package python3", err)
	}
	f := newFarm(t, options{})
	small := item{dir: storepath.Guix, name: "small"}
	f.publish([]compress.Method{compress.None}, small)
	// Nobody has to be asked twice: who is told of nothing waits for the first record.
	for {
		a := f.get("GET", "/feed?since=0&wait=10")
		if a.status == 200 && strings.Contains(string(a.body), small.path().String()) {
			break
		}
		if a.status != 200 && a.status != 503 {
			t.Fatalf("the feed is answered %d: %s", a.status, a.body)
		}
	}
	key := filepath.Join(f.d.Config.State, "keys", "feed.pub")
	out, err := exec.CommandContext(t.Context(), python, "-B", "../internal/feed/testdata/verify.py", "--url", key, f.url).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "verified 1 records of ") {
		t.Errorf("%v: %s", err, out)
	}
	text, err := os.ReadFile(key)
	if a := f.get("GET", "/feed/key.pub"); err != nil || string(a.body) != string(text) {
		t.Errorf("the key that is served is %q, the file says %q, %v", a.body, text, err)
	}
	if a := f.get("GET", "/feed/manifest"); a.status != 200 || !strings.HasSuffix(string(a.body), "\nend 1\n") {
		t.Errorf("the manifest is answered %d: %s", a.status, a.body)
	}
}

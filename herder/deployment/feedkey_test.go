package deployment

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"narfold/internal/nixkey"
)

func TestTheFeedHasAKeyOfItsOwnThatIsMadeOnce(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	cfg := Defaults(state)
	cfg.Keys.Host = "farm.example"
	d, err := Open(t.Context(), cfg, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var (
		keys  [4]*nixkey.Secret
		made  [4]string
		group sync.WaitGroup
	)
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], made[i], err = d.FeedKey(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	makers := 0
	for i := range keys {
		if keys[i].Public() != keys[0].Public() {
			t.Errorf("two keys: %s and %s", keys[i].Public(), keys[0].Public())
		}
		if made[i] != "" {
			makers++
		}
	}
	public, err := os.ReadFile(filepath.Join(state, "keys", "feed.pub"))
	if err != nil || string(public) != keys[0].Public().String()+"\n" || keys[0].Name() != "farm.example-feed-1" || makers != 1 {
		t.Errorf("%q, %v; the key is %s; %d made it", public, err, keys[0].Public(), makers)
	}
	if st, err := os.Stat(filepath.Join(state, "keys", "feed.sec")); err != nil || st.Mode().Perm() != 0o400 {
		t.Errorf("secret key: %v, %v", st, err)
	}
	// It signs no narinfo.
	if d.Keys.HasSecret() {
		t.Error("the key of the feed is among those that sign items")
	}
}

func TestAKeyOfTheFeedThatIsNoKeyIsNotReplaced(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	cfg := Defaults(state)
	d, err := Open(t.Context(), cfg, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	file := filepath.Join(state, "keys", "feed.sec")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.FeedKey(); err == nil {
		t.Error("nonsense was taken for a key")
	}
	if text, err := os.ReadFile(file); string(text) != "nonsense" || err != nil {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
}

package deployment

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"narfold/herder/keyring"
	"narfold/internal/storepath"
)

// opened opens a deployment for a test.
func opened(t *testing.T, cfg Config) (*Deployment, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	d, err := Open(t.Context(), cfg, true, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, &logged
}

// secret writes a new secret key and returns its file and the public half.
func secret(t *testing.T, dir storepath.Dir, host string, mode os.FileMode) (file, public string) {
	t.Helper()
	pair, err := keyring.Generate(dir, host)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.sec")
	if err := os.WriteFile(file, pair.Secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(pair.Public))
}

func TestOnlyWhoPutsSomethingInMakesADeployment(t *testing.T) {
	state := filepath.Join(t.TempDir(), "deep", "state")
	log := slog.New(slog.DiscardHandler)
	if d, err := Open(t.Context(), Defaults(state), false, log); d != nil || !errors.Is(err, ErrNoState) || errors.Is(err, ErrConfig) {
		t.Errorf("%v, %v", d, err)
	}
	if c, err := OpenCatalogue(t.Context(), Defaults(state), false); c != nil || !errors.Is(err, ErrNoState) {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := os.Stat(filepath.Dir(state)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking has made %s: %v", filepath.Dir(state), err)
	}
	opened(t, Defaults(state))
	d, err := Open(t.Context(), Defaults(state), false, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestFoldersOfSecretsAreClosed(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	d, _ := opened(t, Defaults(state))
	if _, err := d.EnsureKey(storepath.Nix); err != nil {
		t.Fatal(err)
	}
	for name, forbidden := range map[string]os.FileMode{"": 0o007, "keys": 0o077, "keys/nix.sec": 0o377, "spool": 0o077, "incoming": 0o077} {
		if st, err := os.Stat(filepath.Join(state, name)); err != nil || st.Mode().Perm()&forbidden != 0 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
}

func TestAKeyIsMadeOnce(t *testing.T) {
	state := t.TempDir()
	cfg := Defaults(state)
	cfg.Keys.Host = "cache.example.org"
	var mu sync.Mutex
	made := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		d, _ := opened(t, cfg)
		wg.Go(func() {
			for _, dir := range []storepath.Dir{storepath.Guix, storepath.Nix} {
				public, err := d.EnsureKey(dir)
				if err != nil || !d.Keys.Signs(dir) {
					t.Errorf("key for %s: %v", dir, err)
				}
				if public != "" {
					mu.Lock()
					made[public]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	guix, nix := filepath.Join(state, "keys", "guix.pub"), filepath.Join(state, "keys", "nix.pub")
	if made[guix] != 1 || made[nix] != 1 || len(made) != 2 {
		t.Errorf("made %v", made)
	}
	d, _ := opened(t, cfg)
	public, err := os.ReadFile(guix)
	if err != nil || !bytes.Equal(bytes.TrimSpace(public), bytes.TrimSpace(d.Keys.GuixPublic())) {
		t.Errorf("the public half in %s is of another key: %v", guix, err)
	}
	if again, err := d.EnsureKey(storepath.Guix); again != "" || err != nil {
		t.Errorf("a second key: %q, %v", again, err)
	}
}

func TestNoKeyIsMadeWhereTheConfigurationNamesThem(t *testing.T) {
	file, _ := secret(t, storepath.Nix, "a", 0o400)
	cfg := Defaults(t.TempDir())
	cfg.Keys.Sign = []string{file}
	d, logged := opened(t, cfg)
	if public, err := d.EnsureKey(storepath.Nix); public != "" || err != nil {
		t.Errorf("%q, %v", public, err)
	}
	if public, err := d.EnsureKey(storepath.Guix); public != "" || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "keys.sign: names no key that signs items of /gnu/store") {
		t.Errorf("%q, %v", public, err)
	}
	if _, err := os.Stat(filepath.Join(cfg.State, "keys")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made beside the configured ones: %v", err)
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", logged)
	}
}

func TestASecretThatEverybodyMayReadIsTold(t *testing.T) {
	for mode, warned := range map[os.FileMode]bool{0o400: false, 0o600: false, 0o440: false, 0o444: true, 0o604: true, 0o642: true} {
		t.Run(mode.String(), func(t *testing.T) {
			file, _ := secret(t, storepath.Nix, "a", mode)
			cfg := Defaults(t.TempDir())
			cfg.Keys.Sign = []string{file}
			_, logged := opened(t, cfg)
			if got := strings.Contains(logged.String(), "secret is open to every account of this machine: chmod o= "+file); got != warned {
				t.Errorf("logged %q", logged)
			}
		})
	}
}

func TestCredentialsOfTheServiceManagerComeBeforeTheStateFolder(t *testing.T) {
	own := Defaults(t.TempDir())
	d, _ := opened(t, own)
	if _, err := d.EnsureKey(storepath.Nix); err != nil {
		t.Fatal(err)
	}
	before := d.Keys.NixPublic()
	file, public := secret(t, storepath.Nix, "vault", 0o400)
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if d, _ := opened(t, own); len(d.Keys.NixPublic()) != 1 || d.Keys.NixPublic()[0] != before[0] {
		t.Errorf("without a credential: %v, want %v", d.Keys.NixPublic(), before)
	}
	if err := os.Rename(file, filepath.Join(credentials, "narfold.nix-key")); err != nil {
		t.Fatal(err)
	}
	if d, _ := opened(t, own); len(d.Keys.NixPublic()) != 1 || d.Keys.NixPublic()[0] != public {
		t.Errorf("with a credential: %v, want %v", d.Keys.NixPublic(), public)
	}
	if err := os.WriteFile(filepath.Join(credentials, "narfold.guix-key"), []byte("no key"), 0o400); err != nil {
		t.Fatal(err)
	}
	if d, err := Open(t.Context(), own, true, slog.New(slog.DiscardHandler)); d != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "systemd credential narfold.guix-key: ") {
		t.Errorf("with a credential that is no key: %v, %v", d, err)
	}
}

func TestKeysOfTheCommandLineStandBesideTheDeployments(t *testing.T) {
	cfg := Defaults(t.TempDir())
	d, _ := opened(t, cfg)
	if _, err := d.EnsureKey(storepath.Nix); err != nil {
		t.Fatal(err)
	}
	pair, err := keyring.Generate(storepath.Nix, "other")
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "other.pub")
	if err := os.WriteFile(public, pair.Public, 0o644); err != nil {
		t.Fatal(err)
	}
	ring, err := d.KeysWith([]string{public})
	if err != nil || !ring.Demands() || !ring.Signs(storepath.Nix) || len(ring.NixPublic()) != 1 {
		t.Errorf("%v: %+v", err, ring)
	}
	if d.Keys.Demands() {
		t.Error("the deployment's own ring was changed")
	}
}

func TestADeploymentThatCannotBeOpenedLeavesNoSpool(t *testing.T) {
	state := t.TempDir()
	cfg := Defaults(state)
	cfg.Keys.Sign = []string{"/nonexistent/key"}
	if d, err := Open(t.Context(), cfg, true, slog.New(slog.DiscardHandler)); d != nil || !errors.Is(err, ErrConfig) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", d, err)
	}
	if left, err := os.ReadDir(filepath.Join(state, "spool")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

package deployment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"narfold/herder/keyring"
	"narfold/internal/durable"
	"narfold/internal/storepath"
)

// The key files of a state folder, and the systemd credentials that stand for them.
var stateKeys = []struct{ file, credential string }{
	{"guix.sec", "narfold.guix-key"},
	{"nix.sec", "narfold.nix-key"},
}

// ofState is what keys are called that no configuration names.
const ofState = "signing key of the state folder"

// signing returns the files of the keys that sign here, each with what the configuration calls it.
func (d *Deployment) signing() (files, names []string) {
	for i, name := range d.Config.Keys.Sign {
		files, names = append(files, name), append(names, fmt.Sprintf("keys.sign[%d]", i))
	}
	if len(files) > 0 {
		return files, names
	}
	for _, k := range stateKeys {
		if path := credential(k.credential); path != "" {
			files, names = append(files, path), append(names, "systemd credential "+k.credential)
			continue
		}
		if path := filepath.Join(d.Config.State, "keys", k.file); exists(path) {
			files, names = append(files, path), append(names, ofState)
		}
	}
	return files, names
}

// loadKeys reads the keys that sign here and those that are trusted.
func (d *Deployment) loadKeys() (*keyring.Ring, error) {
	host, err := d.host()
	if err != nil {
		return nil, err
	}
	files, names := d.signing()
	for i, name := range files {
		one, err := keyring.Load(host, name)
		if err != nil && names[i] == ofState {
			return nil, fmt.Errorf("load %s: %w", ofState, err)
		}
		if err != nil {
			return nil, &mistake{names[i], err}
		}
		if one.Demands() || !one.HasSecret() {
			return nil, &mistake{names[i], fmt.Errorf("%s: is no secret key", name)}
		}
		d.WarnIfExposed("signing key", name)
	}
	for i, name := range d.Config.Keys.Trust {
		key := fmt.Sprintf("keys.trust[%d]", i)
		one, err := keyring.Load(host, name)
		if err != nil {
			return nil, &mistake{key, err}
		}
		if one.HasSecret() {
			return nil, &mistake{key, fmt.Errorf("%s: is a secret key: want the public half", name)}
		}
	}
	ring, err := keyring.Load(host, slices.Concat(files, d.Config.Keys.Trust)...)
	if err != nil {
		return nil, &mistake{"keys", err}
	}
	return ring, nil
}

// KeysWith returns the deployment's own signing keys, and the keys in files beside them.
func (d *Deployment) KeysWith(files []string) (*keyring.Ring, error) {
	host, err := d.host()
	if err != nil {
		return nil, err
	}
	own, _ := d.signing()
	return keyring.Load(host, slices.Concat(own, files)...)
}

func (d *Deployment) host() (string, error) {
	if d.Config.Keys.Host != "" {
		return d.Config.Keys.Host, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("learn the host's name for signatures (or set keys.host): %w", err)
	}
	return host, nil
}

// EnsureKey makes a key for items of dir in the state folder if the ring has none that signs them, and returns the file of the
// public key that it made, or "". Of several processes that do so at once, one makes the key and the others take it. Where the
// configuration names the keys, none is made.
func (d *Deployment) EnsureKey(dir storepath.Dir) (public string, err error) {
	if d.Keys.Signs(dir) {
		return "", nil
	}
	if len(d.Config.Keys.Sign) > 0 {
		return "", &mistake{"keys.sign", fmt.Errorf("names no key that signs items of %s", dir)}
	}
	keys := filepath.Join(d.Config.State, "keys")
	if err := durable.MkdirAll(keys, 0o700); err != nil {
		return "", fmt.Errorf("make folder of keys: %w", err)
	}
	pair, err := keyring.Generate(dir, d.Keys.Host)
	if err != nil {
		return "", err
	}
	public = filepath.Join(keys, pair.Name+".pub")
	err = durable.CreateFile(filepath.Join(keys, pair.Name+".sec"), pair.Secret, 0o400)
	switch {
	case errors.Is(err, fs.ErrExist):
		public = "" // another process was faster, and tells of it
	case err != nil:
		return "", fmt.Errorf("keep secret key: %w", err)
	default:
		if err := durable.WriteFile(public, pair.Public, 0o644); err != nil {
			return "", fmt.Errorf("keep public key: %w", err)
		}
	}
	ring, err := d.loadKeys()
	if err != nil {
		return public, err
	}
	d.Keys = ring
	if !d.Keys.Signs(dir) {
		return public, fmt.Errorf("the key in %s does not sign items of %s", keys, dir)
	}
	return public, nil
}

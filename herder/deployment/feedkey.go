package deployment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"narfold/internal/durable"
	"narfold/internal/nixkey"
)

// feedCredential is the systemd credential that stands for the key of the change feed.
const feedCredential = "narfold.feed-key"

// FeedKey returns the key that signs the heads of the change feed: the systemd credential narfold.feed-key, or keys/feed.sec of the
// state folder, which is made here, with keys/feed.pub beside it, if it is not there. made is the file of the public key if it was
// made by this call, else "". Of several processes that do so at once, one makes the key and the others take it.
func (d *Deployment) FeedKey() (key *nixkey.Secret, made string, err error) {
	file := credential(feedCredential)
	if file == "" {
		file = filepath.Join(d.Config.State, "keys", "feed.sec")
		if !exists(file) {
			if made, err = d.makeFeedKey(file); err != nil {
				return nil, "", err
			}
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", fmt.Errorf("load key of the change feed: %w", err)
	}
	if key, err = nixkey.ParseSecret(text); err != nil {
		return nil, "", fmt.Errorf("load key of the change feed %s: %w", file, err)
	}
	d.WarnIfExposed("key of the change feed", file)
	return key, made, nil
}

func (d *Deployment) makeFeedKey(file string) (public string, err error) {
	host, err := d.host()
	if err != nil {
		return "", err
	}
	key, err := nixkey.Generate(host+"-feed-1", rand.Reader)
	if err != nil {
		return "", err
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("make folder of keys: %w", err)
	}
	switch err := durable.CreateFile(file, key.File(), 0o400); {
	case errors.Is(err, fs.ErrExist):
		return "", nil // another process was faster, and tells of it
	case err != nil:
		return "", fmt.Errorf("keep key of the change feed: %w", err)
	}
	public = filepath.Join(filepath.Dir(file), "feed.pub")
	if err := durable.WriteFile(public, []byte(key.Public().String()+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("keep public key of the change feed: %w", err)
	}
	return public, nil
}

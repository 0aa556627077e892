package deployment

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"narfold/herder/keyring"
	"narfold/internal/durable"
	"narfold/internal/nixkey"
	"narfold/internal/storepath"
)

// Upstream is another substitute server, from which this herder is kept supplied. What is taken from it is all that its change feed
// says if FeedKey is set; else Items and List; and without any of these, what its own list says.
type Upstream struct {
	// URL is the root of the server, http or https.
	URL string `toml:"url"`
	// Trust are public key files and Guix acls: only narinfos that one of these signed are taken.
	Trust []string `toml:"trust"`
	// Items are store paths, names of store items or their hash parts.
	Items []string `toml:"items"`
	// List is a file or URL with store paths, one a line, or the manifest of a Guix profile; compressed if its name says so.
	List string `toml:"list"`
	// FeedKey is a file with the key of the change feed, if the server is a Narfold herder.
	FeedKey string `toml:"feed_key"`
	// OnDemand has what users ask for here in vain taken from the server too, and nothing else if FeedKey, Items and List are not set.
	// Default: false.
	OnDemand bool `toml:"on_demand"`
	// Every is how long after a look the next one comes. Default: 15m.
	Every Duration `toml:"every"`
	// Rate is how many bytes of nars are taken in a second. Default: 0, as many as there come.
	Rate Size `toml:"rate"`
}

// Interval is Every, or its default.
func (u *Upstream) Interval() time.Duration {
	if u.Every == 0 {
		return 15 * time.Minute
	}
	return time.Duration(u.Every)
}

func (c *Config) validateUpstreams() error {
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		if err := u.validate(); err != nil {
			return fmt.Errorf("upstream[%d].%w", i, err) // it names the key
		}
		if slices.IndexFunc(c.Upstreams, func(other Upstream) bool { return other.URL == u.URL }) < i {
			return fmt.Errorf("upstream[%d].url: %q: is there twice", i, u.URL)
		}
	}
	return nil
}

func (u *Upstream) validate() error {
	at, err := url.Parse(u.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.RawQuery != "" || at.Fragment != "" {
		return fmt.Errorf(`url: %q: want the URL of a substitute server, such as "https://cache.example.org"`, u.URL)
	}
	if len(u.Trust) == 0 {
		return errors.New("trust: want the files of the keys that sign there: what nobody known has signed is not taken")
	}
	for i, name := range u.Trust {
		if !filepath.IsAbs(name) {
			return fmt.Errorf("trust[%d]: %q: want the absolute path of a public key file or of a Guix acl", i, name)
		}
	}
	for i, item := range u.Items {
		_, notPath := storepath.Parse(item)
		_, notBase := storepath.ParseBase(item)
		_, notHash := storepath.ParseHashPart(item)
		if notPath != nil && notBase != nil && notHash != nil {
			return fmt.Errorf("items[%d]: %q: want a store path, or a part of one", i, item)
		}
	}
	if u.List != "" && !strings.HasPrefix(u.List, "http://") && !strings.HasPrefix(u.List, "https://") {
		if err := absolute("list", u.List); err != nil {
			return err
		}
	}
	if u.FeedKey != "" && (len(u.Items) > 0 || u.List != "") {
		return errors.New("feed_key: is set beside items or list: want what the feed says, or what is listed")
	}
	if err := absolute("feed_key", u.FeedKey); err != nil {
		return err
	}
	if u.Every != 0 && u.Every < Duration(time.Second) {
		return fmt.Errorf(`every: %v: want a length of time in quotes, such as "15m"`, time.Duration(u.Every))
	}
	if u.Rate < 0 {
		return fmt.Errorf(`rate: %d: want bytes in a second, such as "10MiB"`, u.Rate)
	}
	return nil
}

// UpstreamKeys reads the keys that an upstream's narinfos must be signed by, and that of its change feed if there is one. key is what
// errors call the upstream.
func (d *Deployment) UpstreamKeys(u *Upstream, key string) (trusted *keyring.Ring, feed *nixkey.PublicKey, err error) {
	if trusted, err = keyring.Load(d.Keys.Host, u.Trust...); err != nil {
		return nil, nil, &mistake{key + ".trust", err}
	}
	if trusted.HasSecret() {
		return nil, nil, &mistake{key + ".trust", errors.New("there is a secret key in it: want the public half")}
	}
	if u.FeedKey == "" {
		return trusted, nil, nil
	}
	text, err := os.ReadFile(u.FeedKey)
	if err != nil {
		return nil, nil, &mistake{key + ".feed_key", err}
	}
	public, err := nixkey.ParsePublic(text)
	if err != nil {
		return nil, nil, &mistake{key + ".feed_key", fmt.Errorf("%s: %w", u.FeedKey, err)}
	}
	return trusted, &public, nil
}

// followFolder is where it is kept how far upstreams were followed, in the state folder.
const followFolder = "follow"

// FollowFolder makes the folder in which it is kept how far upstreams were followed, and returns it.
func (d *Deployment) FollowFolder() (string, error) {
	dir := filepath.Join(d.Config.State, followFolder)
	if err := durable.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make folder for what is followed: %w", err)
	}
	return dir, nil
}

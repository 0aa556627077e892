package deployment

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"narfold/internal/compress"
	"narfold/internal/nixkey"
	"narfold/internal/objstore/s3"
	"narfold/internal/storepath"
)

// ErrConfig is wrapped by errors that name a key of the configuration whose value cannot be.
var ErrConfig = errors.New("configuration")

// mistake is an ErrConfig about one key.
type mistake struct {
	key   string // "" if the error names it
	cause error
}

// Mistake returns an ErrConfig that says what is wrong with the value of key.
func Mistake(key string, cause error) error { return &mistake{key, cause} }

func (m *mistake) Error() string {
	if m.key == "" {
		return m.cause.Error()
	}
	return m.key + ": " + m.cause.Error()
}
func (m *mistake) Unwrap() error        { return m.cause }
func (m *mistake) Is(target error) bool { return target == ErrConfig }

// Validate returns the first thing that is wrong, named by its key, or nil. It opens no files. Its errors are ErrConfig.
func (c *Config) Validate() error {
	for _, part := range []func() error{c.validateState, c.validateAddresses, c.Catalogue.validate, c.validateObjects, c.Keys.validate, c.Serve.validate, c.Publish.validate, c.Check.validate, c.Feed.validate, c.TLS.validate, c.validateUpstreams} {
		if err := part(); err != nil {
			return &mistake{cause: err}
		}
	}
	return nil
}

func (c *Config) validateState() error {
	if c.State == "" {
		return errors.New(`state: want the folder of this deployment, such as "/var/lib/narfold"`)
	}
	return absolute("state", c.State)
}

// absolute accepts "" too.
func absolute(key, name string) error {
	if name != "" && !filepath.IsAbs(name) {
		return fmt.Errorf("%s: %q: want an absolute path", key, name)
	}
	return nil
}

func (c *Config) validateAddresses() error {
	if len(c.Listen) == 0 {
		return errors.New("listen: want at least one address, such as 127.0.0.1:8080")
	}
	for i, a := range c.Listen {
		if _, ok := splitAddress(a); !ok {
			return fmt.Errorf("listen[%d]: %q: want host:port, such as 127.0.0.1:8080 or [::]:80", i, a)
		}
		if a != "" && slices.Index(c.Listen, a) < i && !strings.HasSuffix(a, ":0") {
			return fmt.Errorf("listen[%d]: %q: is there twice", i, a)
		}
	}
	if c.DebugListen == "" {
		return nil
	}
	host, ok := splitAddress(c.DebugListen)
	if ip := net.ParseIP(host); !ok || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("debug_listen: %q: want a loopback address, such as 127.0.0.1:6060", c.DebugListen)
	}
	return nil
}

// splitAddress says whether a is host:port with a port in digits, and returns the host.
func splitAddress(a string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return "", false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return host, err == nil
}

func (c *Config) validateObjects() error {
	o := &c.Objects
	if _, ok := addressing[o.PathStyle]; !ok {
		return fmt.Errorf("objects.path_style: %q: want auto, path or virtual", o.PathStyle)
	}
	for _, f := range []struct{ key, value string }{
		{"objects.directory", o.Directory}, {"objects.access_key_file", o.AccessKeyFile}, {"objects.secret_key_file", o.SecretKeyFile}, {"objects.credentials_file", o.CredentialsFile},
	} {
		if err := absolute(f.key, f.value); err != nil {
			return err
		}
	}
	if o.Endpoint == "" {
		for _, f := range []struct{ key, value string }{
			{"bucket", o.Bucket}, {"prefix", o.Prefix}, {"region", o.Region},
			{"access_key_file", o.AccessKeyFile}, {"secret_key_file", o.SecretKeyFile}, {"credentials_file", o.CredentialsFile},
		} {
			if f.value != "" {
				return fmt.Errorf("objects.%s: is set, but objects.endpoint is not: want the S3 server's URL", f.key)
			}
		}
		if o.Redirect {
			return errors.New("objects.redirect: a directory store has nowhere to redirect to")
		}
		return c.validateDirectory()
	}
	if o.Directory != "" {
		return errors.New("objects.directory: is set beside objects.endpoint: want one of them")
	}
	switch {
	case o.CredentialsFile != "" && o.AccessKeyFile != "":
		return errors.New("objects.access_key_file: is set beside objects.credentials_file: want one of them")
	case o.CredentialsFile != "" && o.SecretKeyFile != "":
		return errors.New("objects.secret_key_file: is set beside objects.credentials_file: want one of them")
	case o.AccessKeyFile != "" && o.SecretKeyFile == "":
		return errors.New("objects.secret_key_file: want it beside objects.access_key_file")
	case o.AccessKeyFile == "" && o.SecretKeyFile != "":
		return errors.New("objects.access_key_file: want it beside objects.secret_key_file")
	}
	if err := o.bucket().Validate(); err != nil {
		return fmt.Errorf("objects.%w", err) // it names the key
	}
	return nil
}

// validateDirectory refuses to publish what is private: objects may be let out by any server of files.
func (c *Config) validateDirectory() error {
	if c.Objects.Directory == "" {
		return nil
	}
	within := func(dir, name string) bool {
		rel, err := filepath.Rel(dir, name)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	if within(c.Objects.Directory, c.State) {
		return fmt.Errorf("objects.directory: %q: holds the state folder, with its keys: want a folder for objects alone", c.Objects.Directory)
	}
	for _, taken := range []string{"keys", "spool", "incoming", followFolder} {
		if within(filepath.Join(c.State, taken), c.Objects.Directory) {
			return fmt.Errorf("objects.directory: %q: is for other files: want a folder for objects alone", c.Objects.Directory)
		}
	}
	return nil
}

// bucket is the bucket without credentials.
func (o *Objects) bucket() s3.Config {
	return s3.Config{Endpoint: o.Endpoint, Bucket: o.Bucket, Prefix: o.Prefix, Region: o.Region, Addressing: addressing[o.PathStyle]}
}

var addressing = map[string]s3.Addressing{"": s3.Auto, "auto": s3.Auto, "path": s3.Path, "virtual": s3.Virtual}

func (k *Keys) validate() error {
	for i, name := range k.Sign {
		if name == "" || !filepath.IsAbs(name) {
			return fmt.Errorf("keys.sign[%d]: %q: want the absolute path of a secret key file", i, name)
		}
	}
	for i, name := range k.Trust {
		if name == "" || !filepath.IsAbs(name) {
			return fmt.Errorf("keys.trust[%d]: %q: want the absolute path of a public key file or of a Guix acl", i, name)
		}
	}
	// It ends up between colons in names of Nix keys and between semicolons in Guix signatures.
	if k.Host != "" && (nixkey.CheckName(k.Host+"-1") != nil || strings.Contains(k.Host, ";")) {
		return fmt.Errorf("keys.host: %q: want a host name, such as cache.example.org", k.Host)
	}
	return nil
}

func (s *Serve) validate() error {
	for _, d := range []struct {
		key   string
		value Duration
	}{{"ttl", s.TTL}, {"new_ttl", s.NewTTL}, {"negative_ttl", s.NegativeTTL}} {
		// A number without quotes reaches us as nanoseconds, and clients are told seconds.
		if d.value < 0 || d.value%Duration(time.Second) != 0 {
			return fmt.Errorf(`serve.%s: %v: want whole seconds with a unit, in quotes, such as "36h"`, d.key, time.Duration(d.value))
		}
	}
	if s.NewTTL > s.TTL {
		return fmt.Errorf("serve.new_ttl: %v is longer than serve.ttl, %v: clients would keep narinfos for longer than their nars stay", time.Duration(s.NewTTL), time.Duration(s.TTL))
	}
	if s.StoreDir != "" {
		if _, err := storepath.ParseDir(string(s.StoreDir)); err != nil {
			return fmt.Errorf("serve.store_dir: %w", err)
		}
	}
	if s.Priority < 1 || s.Priority > 1_000_000 {
		return fmt.Errorf("serve.priority: %d: want a number from 1", s.Priority)
	}
	if _, err := compress.ParseMethod(string(s.Prefer)); err != nil {
		return fmt.Errorf("serve.prefer: %w", err)
	}
	return nil
}

func (p *Publish) validate() error {
	for i, m := range p.Compressions {
		if !m.Writable() {
			return fmt.Errorf("publish.compressions[%d]: %q: want zstd, lzip, gzip, xz or none", i, m)
		}
		if slices.Index(p.Compressions, m) < i {
			return fmt.Errorf("publish.compressions[%d]: %q: is there twice", i, m)
		}
	}
	if _, err := p.level(); err != nil {
		return err
	}
	if p.Reserve < 0 {
		return fmt.Errorf(`publish.reserve: %d: want a size, such as "1GiB"`, p.Reserve)
	}
	return nil
}

func (p *Publish) level() (compress.Level, error) {
	switch p.Level {
	case "fastest":
		return compress.Fastest, nil
	case "", "default":
		return compress.Default, nil
	case "best":
		return compress.Best, nil
	}
	return 0, fmt.Errorf("publish.level: %q: want fastest, default or best", p.Level)
}

// leastEvery is the shortest time within which everything may be read again.
const leastEvery = Duration(time.Hour)

func (c *Check) validate() error {
	if c.Every < 0 || c.Every > 0 && c.Every < leastEvery {
		return fmt.Errorf(`check.every: %s: want "0s" or at least 1h, such as "30d"`, time.Duration(c.Every))
	}
	if c.Rate < 0 {
		return fmt.Errorf(`check.rate: %d: want bytes a second, such as "20MiB"`, c.Rate)
	}
	return nil
}

func (f *Feed) validate() error {
	if f.SnapshotEvery < 0 {
		return fmt.Errorf(`feed.snapshot_every: %s: want "0s" or a time such as "24h"`, time.Duration(f.SnapshotEvery))
	}
	if f.SnapshotKeep < 0 {
		return fmt.Errorf(`feed.snapshot_keep: %s: want a time such as "72h"`, time.Duration(f.SnapshotKeep))
	}
	return nil
}

func (t *TLS) validate() error {
	switch {
	case t.CertificateFile != "" && t.KeyFile == "":
		return errors.New("tls.key_file: want it beside tls.certificate_file")
	case t.CertificateFile == "" && t.KeyFile != "":
		return errors.New("tls.certificate_file: want it beside tls.key_file")
	}
	if err := absolute("tls.certificate_file", t.CertificateFile); err != nil {
		return err
	}
	return absolute("tls.key_file", t.KeyFile)
}

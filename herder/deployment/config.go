// Package deployment opens what a configuration describes: the catalogue, the object store, the keys and the spool of one herder.
//
// With a state directory alone everything is in it: catalogue.db, objects/, keys/ and spool/. A configuration moves what outgrows
// the machine elsewhere.
package deployment

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// Config is a herder's configuration file. Every field has a default but State; unknown keys are errors of whoever decodes it.
type Config struct {
	// State is the folder of this deployment.
	State string `toml:"state"`
	// Listen are the addresses to serve on, host:port. Default: 127.0.0.1:8080. Sockets handed over by systemd come instead.
	Listen []string `toml:"listen"`
	// DebugListen serves pprof and metrics; it must be a loopback address. Default: none.
	DebugListen string `toml:"debug_listen"`

	Objects Objects `toml:"objects"`
	Keys    Keys    `toml:"keys"`
	Serve   Serve   `toml:"serve"`
	Publish Publish `toml:"publish"`
	TLS     TLS     `toml:"tls"`
}

// Objects says where nars are kept.
type Objects struct {
	// Directory is the folder of a directory store. Default: objects in the state folder.
	Directory string `toml:"directory"`
	// Endpoint is the URL of an S3 server, such as https://s3.example.org; it makes the store a bucket.
	Endpoint string `toml:"endpoint"`
	Bucket   string `toml:"bucket"`
	// Prefix is put before every key, without a slash at its end. Default: none.
	Prefix string `toml:"prefix"`
	Region string `toml:"region"`
	// AccessKeyFile and SecretKeyFile hold the credentials, or CredentialsFile both, on two lines.
	AccessKeyFile   string `toml:"access_key_file"`
	SecretKeyFile   string `toml:"secret_key_file"`
	CredentialsFile string `toml:"credentials_file"`
	// PathStyle puts the bucket into the path of URLs instead of the host name: "auto", "path" or "virtual". Default: auto.
	PathStyle string `toml:"path_style"`
	// Redirect sends clients that follow redirects to the bucket for nars. Default: false, all passes through here.
	Redirect bool `toml:"redirect"`
}

// Keys says who signs and who is trusted.
type Keys struct {
	// Sign are secret key files, of Guix or of Nix. Default: the files in keys/ of the state folder; made at the first import of
	// store items if there are none.
	Sign []string `toml:"sign"`
	// Trust are public key files and Guix acls. Narinfos from elsewhere must be signed by one, if there are any.
	Trust []string `toml:"trust"`
	// Host is named in Guix signatures and in the names of new Nix keys. Default: the host's name.
	Host string `toml:"host"`
}

// Serve says what clients are told.
type Serve struct {
	// TTL is how long clients may keep a narinfo, and so how long a nar stays after its narinfo was withdrawn. Default: 36h.
	TTL Duration `toml:"ttl"`
	// NewTTL is what clients are told instead while TTL is being shortened. Default: TTL.
	NewTTL Duration `toml:"new_ttl"`
	// NegativeTTL is how long clients may remember that an item is not here. Default: 2m.
	NegativeTTL Duration `toml:"negative_ttl"`
	// StoreDir is named in nix-cache-info. Default: the directory of most items that are not Guix's, else /nix/store.
	StoreDir storepath.Dir `toml:"store_dir"`
	// Priority is named in nix-cache-info: lower is asked first. Default: 50.
	Priority int `toml:"priority"`
	// Prefer is the compression that Nix is given if an item has several. Default: zstd.
	Prefer compress.Method `toml:"prefer"`
}

// Publish says what becomes of nars on their way in.
type Publish struct {
	// Compressions are made of every nar. Default: zstd for what comes uncompressed; what comes compressed stays as it is.
	Compressions []compress.Method `toml:"compressions"`
	// Level is fastest, default or best.
	Level string `toml:"level"`
	// Programs lets the lzip and xz programs compress, if they are to be written: smaller, and several times as fast.
	Programs bool `toml:"programs"`
	// Reserve is how much room stays free on the file systems of spool, catalogue and directory store. Default: 1GiB.
	Reserve Size `toml:"reserve"`
}

// TLS serves HTTPS with a certificate from files. Default: plain HTTP.
type TLS struct {
	CertificateFile string `toml:"certificate_file"`
	KeyFile         string `toml:"key_file"`
}

// Duration is a time.Duration written as "90s", "36h" or "30d".
type Duration time.Duration

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	days, ok := strings.CutSuffix(s, "d")
	if n, err := strconv.ParseUint(days, 10, 16); ok && err == nil {
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a length of time such as 90s, 36h or 30d", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Size is a number of bytes written as "512MiB", "1GiB" or "1000000".
type Size int64

// UnmarshalText reads it.
func (z *Size) UnmarshalText(text []byte) error {
	s, unit := string(text), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = strings.TrimSpace(number), int64(1)<<(10*(i+1))
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size such as 512MiB or 1GiB", text)
	}
	*z = Size(n * unit)
	return nil
}

// MarshalText writes it.
func (z Size) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(z), 10), nil }

// Defaults returns the configuration of an embedded deployment in state.
func Defaults(state string) Config {
	return Config{
		State:   state,
		Listen:  []string{"127.0.0.1:8080"},
		Serve:   Serve{TTL: Duration(36 * time.Hour), NegativeTTL: Duration(2 * time.Minute), Priority: 50, Prefer: compress.Zstd},
		Publish: Publish{Level: "default", Reserve: 1 << 30},
		Objects: Objects{PathStyle: "auto"},
	}
}

// Validate returns the first thing that is wrong, named by its key.
func (c *Config) Validate() error {
	if c.State == "" {
		return errors.New(`state: want the folder of this deployment, such as "/var/lib/narfold"`)
	}
	if !filepath.IsAbs(c.State) {
		return fmt.Errorf("state: %q: want an absolute path", c.State)
	}
	for i, a := range c.Listen {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("listen[%d]: %q: want host:port, such as 127.0.0.1:8080 or [::]:80", i, a)
		}
	}
	if c.DebugListen != "" {
		host, _, err := net.SplitHostPort(c.DebugListen)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("debug_listen: %q: want a loopback address, such as 127.0.0.1:6060", c.DebugListen)
		}
	}
	if err := c.Objects.validate(); err != nil {
		return err
	}
	s := c.Serve
	if s.NewTTL > s.TTL {
		return fmt.Errorf("serve.new_ttl: %v is longer than serve.ttl, %v: clients would keep narinfos for longer than their nars stay", time.Duration(s.NewTTL), time.Duration(s.TTL))
	}
	if s.StoreDir != "" {
		if _, err := storepath.ParseDir(string(s.StoreDir)); err != nil {
			return fmt.Errorf("serve.store_dir: %w", err)
		}
	}
	if _, err := compress.ParseMethod(string(s.Prefer)); err != nil {
		return fmt.Errorf("serve.prefer: %w", err)
	}
	for i, m := range c.Publish.Compressions {
		if !m.Writable() {
			return fmt.Errorf("publish.compressions[%d]: %q: want zstd, lzip, gzip, xz or none", i, m)
		}
	}
	if _, err := c.Publish.level(); err != nil {
		return err
	}
	if (c.TLS.CertificateFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("tls: want both certificate_file and key_file, or neither")
	}
	return nil
}

func (o *Objects) validate() error {
	switch o.PathStyle {
	case "auto", "path", "virtual":
	default:
		return fmt.Errorf("objects.path_style: %q: want auto, path or virtual", o.PathStyle)
	}
	if o.Endpoint == "" {
		for key, value := range map[string]string{"bucket": o.Bucket, "prefix": o.Prefix, "region": o.Region} {
			if value != "" {
				return fmt.Errorf("objects.%s: is set, but objects.endpoint is not: want the S3 server's URL", key)
			}
		}
		if o.Redirect {
			return errors.New("objects.redirect: a directory store has nowhere to redirect to")
		}
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("objects.endpoint: %q: want a URL such as https://s3.example.org", o.Endpoint)
	}
	if o.Bucket == "" {
		return errors.New("objects.bucket: want the name of the bucket")
	}
	if o.Directory != "" {
		return errors.New("objects.directory: is set beside objects.endpoint: want one of them")
	}
	if o.CredentialsFile == "" && (o.AccessKeyFile == "") != (o.SecretKeyFile == "") {
		return errors.New("objects: want both access_key_file and secret_key_file, or credentials_file")
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

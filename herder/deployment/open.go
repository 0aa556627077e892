package deployment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/compress"
	"narfold/internal/durable"
	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/s3"
	"narfold/internal/storepath"
)

// Deployment is what a Config describes, open.
type Deployment struct {
	Config    Config
	Catalogue catalog.Catalogue
	Objects   objstore.Store
	// Root is the folder of a directory store, else "".
	Root string
	// Presigner is the bucket's, or nil.
	Presigner objstore.Presigner
	Keys      *keyring.Ring
	Log       *slog.Logger

	spool *spool
	close []func() error
}

// ErrNoState says that a state directory is not one; a command that only looks does not make it.
var ErrNoState = errors.New("no deployment here")

// Open opens the deployment, making what is missing in its state folder if create is set. A bucket is probed first, and refused if
// it does not do what publication depends on.
func Open(ctx context.Context, cfg Config, create bool, log *slog.Logger) (d *Deployment, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	d = &Deployment{Config: cfg, Log: log}
	defer func() {
		if err != nil {
			d.Close()
			d = nil
		}
	}()
	db := filepath.Join(cfg.State, "catalogue.db")
	if _, err := os.Stat(db); errors.Is(err, fs.ErrNotExist) && !create {
		return d, fmt.Errorf("%w: %s does not exist", ErrNoState, db)
	}
	if err := durable.MkdirAll(cfg.State, 0o750); err != nil {
		return d, fmt.Errorf("make state folder: %w", err)
	}
	if err := durable.MkdirAll(d.Incoming(), 0o700); err != nil {
		return d, fmt.Errorf("make folder for uploads: %w", err)
	}
	if d.spool, err = openSpool(filepath.Join(cfg.State, "spool")); err != nil {
		return d, err
	}
	d.close = append(d.close, d.spool.Close)
	if err := d.openObjects(ctx); err != nil {
		return d, err
	}
	c, err := sqlite.Open(ctx, db)
	if err != nil {
		return d, err
	}
	d.Catalogue = c
	d.close = append(d.close, c.Close)
	if d.Keys, err = d.loadKeys(); err != nil {
		return d, err
	}
	return d, nil
}

// Close closes what Open opened, the last first.
func (d *Deployment) Close() error {
	var errs []error
	for len(d.close) > 0 {
		last := len(d.close) - 1
		errs = append(errs, d.close[last]())
		d.close = d.close[:last]
	}
	return errors.Join(errs...)
}

func (d *Deployment) openObjects(ctx context.Context) error {
	o := d.Config.Objects
	if o.Endpoint == "" {
		root := o.Directory
		if root == "" {
			root = filepath.Join(d.Config.State, "objects")
		}
		if err := durable.MkdirAll(root, 0o755); err != nil {
			return fmt.Errorf("make object folder: %w", err)
		}
		store, err := dir.Open(root)
		if err != nil {
			return fmt.Errorf("open object store: %w", err)
		}
		d.Objects, d.Root = store, root
		d.close = append(d.close, store.Close)
		return nil
	}
	access, secret, err := o.credentials()
	if err != nil {
		return err
	}
	store, err := s3.New(s3.Config{Endpoint: o.Endpoint, Bucket: o.Bucket, Prefix: o.Prefix, Region: o.Region, AccessKey: access, SecretKey: secret, Addressing: addressing[o.PathStyle]})
	if err != nil {
		return fmt.Errorf("open object store: %w", err)
	}
	if err := store.Probe(ctx); err != nil {
		return fmt.Errorf("open object store: %w", err)
	}
	d.Objects = store
	if o.Redirect {
		d.Presigner = store
	}
	return nil
}

// credential returns the path of a systemd credential that was handed over, or "".
func credential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func (o *Objects) credentials() (access, secret string, err error) {
	read := func(name string) (string, error) {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read object store credentials: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	both := o.CredentialsFile
	if both == "" && o.AccessKeyFile == "" {
		both = credential("narfold.s3")
	}
	switch {
	case both != "":
		text, err := read(both)
		if err != nil {
			return "", "", err
		}
		fields := strings.Fields(text)
		if len(fields) != 2 {
			return "", "", fmt.Errorf("read object store credentials %s: want the access key and the secret key, on two lines", both)
		}
		return fields[0], fields[1], nil
	case o.AccessKeyFile != "":
		if access, err = read(o.AccessKeyFile); err != nil {
			return "", "", err
		}
		secret, err = read(o.SecretKeyFile)
		return access, secret, err
	}
	access, secret = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if access == "" || secret == "" {
		return "", "", errors.New("object store credentials: want objects.credentials_file, or objects.access_key_file and objects.secret_key_file")
	}
	return access, secret, nil
}

// The key files of a state folder, and the systemd credentials that stand for them.
var stateKeys = []struct{ file, credential string }{
	{"guix.sec", "narfold.guix-key"},
	{"nix.sec", "narfold.nix-key"},
}

func (d *Deployment) loadKeys() (*keyring.Ring, error) { return d.ring(d.Config.Keys.Trust) }

// ring makes a ring of the keys that sign here and of those in more.
func (d *Deployment) ring(more []string) (*keyring.Ring, error) {
	host, err := d.host()
	if err != nil {
		return nil, err
	}
	sign := d.Config.Keys.Sign
	if len(sign) == 0 {
		for _, k := range stateKeys {
			if path := credential(k.credential); path != "" {
				sign = append(sign, path)
				continue
			}
			path := filepath.Join(d.Config.State, "keys", k.file)
			if _, err := os.Stat(path); err == nil {
				sign = append(sign, path)
			}
		}
	}
	return keyring.Load(host, slices.Concat(sign, more)...)
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
// public key that it made, or "".
func (d *Deployment) EnsureKey(dir storepath.Dir) (public string, err error) {
	if d.Keys.Signs(dir) {
		return "", nil
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
	if err := durable.CreateFile(filepath.Join(keys, pair.Name+".sec"), pair.Secret, 0o400); err != nil {
		return "", fmt.Errorf("keep secret key: %w", err)
	}
	if err := durable.WriteFile(public, pair.Public, 0o644); err != nil {
		return "", fmt.Errorf("keep public key: %w", err)
	}
	d.Keys, err = d.loadKeys()
	return public, err
}

// Publisher returns a publisher into this deployment.
func (d *Deployment) Publisher() *publish.Publisher {
	level, _ := d.Config.Publish.level() // Validate has asked
	return &publish.Publisher{
		Catalogue:    d.Catalogue,
		Objects:      d.Objects,
		Keys:         d.Keys,
		Spool:        d.spool.dir,
		Compressions: d.Config.Publish.Compressions,
		Options:      compress.Options{Level: level, Workers: 1, Programs: d.Config.Publish.Programs},
		Log:          d.Log,
	}
}

// Incoming is the folder for nars that were uploaded and whose narinfos have not come yet.
func (d *Deployment) Incoming() string { return filepath.Join(d.Config.State, "incoming") }

var addressing = map[string]s3.Addressing{"auto": s3.Auto, "path": s3.Path, "virtual": s3.Virtual}

// KeysWith returns the deployment's own signing keys, and the keys in files beside them.
func (d *Deployment) KeysWith(files []string) (*keyring.Ring, error) {
	return d.ring(files)
}

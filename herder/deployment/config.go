// Package deployment opens what a configuration describes: the catalogue, the object store, the keys and the spool of one herder.
//
// With a state directory alone everything is in it: catalogue.db, objects/, keys/ and spool/. A configuration moves what outgrows
// the machine elsewhere.
package deployment

import (
	"time"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// Config is a herder's configuration file. Every field has a default but State; unknown keys are errors of whoever decodes it. File
// names are absolute: a service has no working directory to speak of.
type Config struct {
	// State is the folder of this deployment.
	State string `toml:"state"`
	// Listen are the addresses to serve on, host:port. Default: 127.0.0.1:8080. Sockets handed over by systemd come instead.
	Listen []string `toml:"listen"`
	// DebugListen serves pprof and metrics; it must be a loopback address. Default: none.
	DebugListen string `toml:"debug_listen"`

	Catalogue Catalogue `toml:"catalogue"`
	Objects   Objects   `toml:"objects"`
	Keys      Keys      `toml:"keys"`
	Serve     Serve     `toml:"serve"`
	Publish   Publish   `toml:"publish"`
	Check     Check     `toml:"check"`
	Feed      Feed      `toml:"feed"`
	TLS       TLS       `toml:"tls"`
	// Upstreams are substitute servers from which this one is kept supplied. Default: none.
	Upstreams []Upstream `toml:"upstream"`
}

// Catalogue says where it is kept what is published.
type Catalogue struct {
	// Database is the URL of a PostgreSQL database, for herders on several hosts. Default: catalogue.db in the state folder.
	Database string `toml:"database"`
	// PasswordFile holds the database's password. Default: the systemd credential narfold.database, else what PostgreSQL's own
	// programs read (PGPASSFILE).
	PasswordFile string `toml:"password_file"`
}

// Objects says where nars are kept.
type Objects struct {
	// Directory is the folder of a directory store. Default: objects in the state folder. In the state folder it may be in no
	// folder that has a use already.
	Directory string `toml:"directory"`
	// Endpoint is the URL of an S3 server, such as https://s3.example.org; it makes the store a bucket.
	Endpoint string `toml:"endpoint"`
	Bucket   string `toml:"bucket"`
	// Prefix is put before every key, without a slash at its end. Default: none.
	Prefix string `toml:"prefix"`
	// AccessKeyFile and SecretKeyFile hold the credentials, or CredentialsFile both, on two lines.
	// Default: the systemd credential narfold.s3, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment.
	AccessKeyFile   string `toml:"access_key_file"`
	SecretKeyFile   string `toml:"secret_key_file"`
	CredentialsFile string `toml:"credentials_file"`
	// Region is the bucket's. Default: the server is asked.
	Region string `toml:"region"`
	// PathStyle puts the bucket into the path of URLs instead of the host name: "auto", "path" or "virtual". Default: auto.
	PathStyle string `toml:"path_style"`
	// Redirect sends clients that follow redirects to the bucket for nars, and lets publishers put large ones there. Default: false, all
	// passes through here.
	Redirect bool `toml:"redirect"`
}

// Keys says who signs and who is trusted.
type Keys struct {
	// Sign are secret key files, of Guix or of Nix. Default: the systemd credentials narfold.guix-key and narfold.nix-key, and for
	// what is not among them keys/guix.sec and keys/nix.sec of the state folder, made at the first import of store items.
	Sign []string `toml:"sign"`
	// Trust are public key files and Guix acls. Narinfos from elsewhere must be signed by one, if there are any. Default: none.
	Trust []string `toml:"trust"`
	// Host is named in Guix signatures and in the names of new Nix keys. Default: the host's name.
	Host string `toml:"host"`
}

// Serve says what clients are told.
type Serve struct {
	// TTL is how long clients may keep a narinfo, and so how long a nar stays after its narinfo was withdrawn. Default: 36h.
	// Durations here are whole seconds.
	TTL Duration `toml:"ttl"`
	// NewTTL is what clients are told instead while TTL is being shortened. Default: TTL.
	NewTTL Duration `toml:"new_ttl"`
	// NegativeTTL is how long clients may remember that an item is not here. Default: 2m.
	NegativeTTL Duration `toml:"negative_ttl"`
	// StoreDir is named in nix-cache-info. Default: the directory of most items that are not Guix's, else /nix/store.
	StoreDir storepath.Dir `toml:"store_dir"`
	// Priority is named in nix-cache-info: lower is asked first, and cache.nixos.org is 40. Default: 50.
	Priority int `toml:"priority"`
	// Prefer is the compression that Nix is given if an item has several. Default: zstd.
	Prefer compress.Method `toml:"prefer"`
}

// Publish says what becomes of nars on their way in.
type Publish struct {
	// Compressions are made of every nar. Default: zstd for what comes uncompressed; what comes compressed stays as it is.
	Compressions []compress.Method `toml:"compressions"`
	// Level is fastest, default or best. Default: default.
	Level string `toml:"level"`
	// Programs lets the lzip and xz programs compress, if they are to be written: smaller, and several times as fast.
	// Default: false.
	Programs bool `toml:"programs"`
	// Reserve is how much room uploads and imports leave free on the file systems of the state folder and of a directory store. An
	// upload that would use it up is refused, and may be sent again; while less than twice as much would stay free, a few are taken
	// at a time. An import ends before. Default: 1GiB.
	Reserve Size `toml:"reserve"`
}

// Check says how a running herder looks after what it has.
type Check struct {
	// Every is within how long each object is read and hashed again; 0 is never. Default: 30d.
	Every Duration `toml:"every"`
	// Rate is how many bytes are read in a second for that; 0 is as many as there are. Default: 20MiB.
	Rate Size `toml:"rate"`
}

// Feed says how a running herder keeps the change feed in the object store.
type Feed struct {
	// SnapshotEvery is how far apart snapshots of what is served are, and the manifest with them; 0 is none. One is made earlier, though
	// not before an eighth of it, if there are very many changes. Default: 24h.
	SnapshotEvery Duration `toml:"snapshot_every"`
	// SnapshotKeep is how long the files of a snapshot stay when there is a later one, for those who read it. Default: 72h.
	SnapshotKeep Duration `toml:"snapshot_keep"`
}

// TLS serves HTTPS, and nothing else, with a certificate from files. Default: plain HTTP.
type TLS struct {
	// CertificateFile holds the certificate and those between it and the authority, in PEM; KeyFile its secret key.
	CertificateFile string `toml:"certificate_file"`
	KeyFile         string `toml:"key_file"`
}

// Defaults returns the configuration of an embedded deployment in state.
func Defaults(state string) Config {
	return Config{
		State:   state,
		Listen:  []string{"127.0.0.1:8080"},
		Serve:   Serve{TTL: Duration(36 * time.Hour), NegativeTTL: Duration(2 * time.Minute), Priority: 50, Prefer: compress.Zstd},
		Publish: Publish{Level: "default", Reserve: 1 << 30},
		Check:   Check{Every: Duration(30 * 24 * time.Hour), Rate: 20 << 20},
		Feed:    Feed{SnapshotEvery: Duration(24 * time.Hour), SnapshotKeep: Duration(72 * time.Hour)},
		Objects: Objects{PathStyle: "auto"},
	}
}

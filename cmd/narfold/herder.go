package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"narfold/herder"
	"narfold/herder/check"
	"narfold/herder/deployment"
	"narfold/herder/feedserver"
	"narfold/herder/follow"
	"narfold/herder/serve"
	"narfold/herder/upload"
	"narfold/internal/compress"
	"narfold/internal/storepath"
	"narfold/internal/sysd"
)

// herderCommands are the nar store.
type herderCommands struct {
	Run herderRun `cmd:"" help:"Serve what is published, and take what publishers put."`
}

type herderRun struct {
	deploymentFlags
	Listen      []string `placeholder:"HOST:PORT" help:"Serve here instead of where the configuration says. May be given several times."`
	DebugListen string   `placeholder:"HOST:PORT" help:"Serve profiles and metrics on this loopback address."`
}

// Help is shown by --help.
func (herderRun) Help() string {
	return `Serves narinfos, nars, logs and source files to Guix and Nix, and takes uploads from "narfold push" and "nix copy --to" whose token
allows them. What another process imports into the same deployment is served at once. SIGTERM lets what has begun finish;
SIGHUP reads the configuration again, for what clients are told and for certificates. Sockets handed over by systemd are
used instead of --listen. The servers that [[upstream]] of the configuration names are followed meanwhile.

Examples:
  narfold herder run --state /var/lib/narfold --listen 127.0.0.1:8080
  narfold herder run --config /etc/narfold.toml`
}

// Run serves until it is told to stop.
func (c *herderRun) Run(ctx context.Context, inv *invocation) (err error) {
	// From the beginning, since a hangup that nobody handles ends the process.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, err := c.configuration()
	if err != nil {
		return err
	}
	d, err := c.openAs(ctx, inv, cfg, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if len(cfg.Keys.Sign) == 0 {
		// What is pushed must be signed, whatever it is for.
		for _, dir := range []storepath.Dir{storepath.Guix, storepath.Nix} {
			made, err := d.EnsureKey(dir)
			if err != nil {
				return err
			}
			if made != "" {
				inv.log.Info("signing key made", "for", dir, "public", made)
			}
		}
	}
	changes, err := newFeed(inv, d)
	if err != nil {
		return err
	}
	upstreams, err := followers(d)
	if err != nil {
		return c.inConfig(err)
	}
	certificate, err := newCertificate(d)
	if err != nil {
		return c.inConfig(err)
	}
	sockets, err := listen(ctx, cfg, certificate)
	if err != nil {
		return err
	}
	h, err := herder.New(herder.Parts{
		Serve:     serving(d),
		Publisher: d.Publisher(),
		Uploads: &upload.Uploads{Dir: d.Incoming(), Store: d.Root, Reserve: int64(cfg.Publish.Reserve), Catalogue: d.Catalogue, Leaser: d.Catalogue, Objects: d.Objects, Presigner: d.Presigner,
			Log: inv.log, Keep: 24 * time.Hour},
		Feed:       changes,
		Check:      checking(d),
		Popularity: d.Catalogue,
		Debug:      sockets.debug,
		Missed:     wanting(upstreams),
		Metrics:    []prometheus.Collector{follow.Metrics(upstreams)},
		Log:        inv.log,
	})
	if err != nil {
		sockets.close()
		return err
	}
	for _, l := range sockets.serve {
		inv.log.Info("serving", "address", l.Addr().String(), "tls", certificate != nil, "state", cfg.State)
	}
	if sockets.debug != nil {
		inv.log.Info("serving profiles and metrics", "address", sockets.debug.Addr().String())
	}
	if !d.Keys.HasSecret() {
		inv.log.Warn("no signing key: uploads without a signature are refused; import store items or set keys.sign, and start again")
	}
	tell(inv, sysd.Notify("READY=1"))

	var beside sync.WaitGroup
	running, done := context.WithCancel(ctx)
	beside.Go(func() { boundGarbage(running) })
	beside.Go(func() { c.reloadOnHangup(running, hangups, inv, d, h, certificate) })
	for _, f := range upstreams {
		// It logs what goes wrong, and returns nil.
		beside.Go(func() { _ = f.Run(running) })
	}
	beside.Go(func() {
		<-running.Done()
		tell(inv, sysd.Notify("STOPPING=1"))
	})
	err = h.Run(ctx, sockets.serve...)
	done()
	beside.Wait()
	return err
}

// manyRecords is after how many changes another snapshot is made before its time.
const manyRecords = 500_000

// newFeed returns the server of the deployment's change feed. Its key is made at first use.
func newFeed(inv *invocation, d *deployment.Deployment) (*feedserver.Server, error) {
	key, made, err := d.FeedKey()
	if err != nil {
		return nil, err
	}
	if made != "" {
		inv.log.Info("key of the change feed made", "public", made)
	}
	s, err := feedserver.New(d.Catalogue, d.Objects, key, rand.Reader, inv.log)
	if err != nil {
		return nil, err
	}
	s.KeepSnapshots(feedserver.Snapshots{Every: time.Duration(d.Config.Feed.SnapshotEvery), Records: manyRecords, Keep: time.Duration(d.Config.Feed.SnapshotKeep),
		Spool: d.Publisher().Spool, Deleter: d.Objects})
	return s, nil
}

// configuration is what the file and the flags say together.
func (c *herderRun) configuration() (deployment.Config, error) {
	cfg, err := c.load()
	if err != nil {
		return cfg, err
	}
	if c.DebugListen != "" {
		cfg.DebugListen = c.DebugListen
	}
	if len(c.Listen) > 0 {
		cfg.Listen = c.Listen
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usagef("%v", err) // the file was right, so it is a flag
	}
	return cfg, nil
}

// tell logs that the service manager could not be told. Serving goes on without it.
func tell(inv *invocation, err error) {
	if err != nil {
		inv.log.Warn("service manager cannot be told", "error", err)
	}
}

// checking is what a configuration says about looking after what is there, or nil.
func checking(d *deployment.Deployment) *check.Scrub {
	c := d.Config.Check
	if c.Every == 0 {
		return nil
	}
	return &check.Scrub{Every: time.Duration(c.Every), Config: check.Config{
		Catalogue: d.Catalogue, Objects: d.Objects, Rate: int64(c.Rate), Workers: 1, OlderThan: 24 * time.Hour, Log: d.Log}}
}

// serving is what a configuration says about serving.
func serving(d *deployment.Deployment) serve.Config {
	s := d.Config.Serve
	return serve.Config{
		Catalogue: d.Catalogue, Objects: d.Objects, Root: d.Root, Presign: d.Presigner,
		TTL: time.Duration(s.TTL), NewTTL: time.Duration(s.NewTTL), NegativeTTL: time.Duration(s.NegativeTTL),
		StoreDir: s.StoreDir, Priority: s.Priority, Prefer: []compress.Method{s.Prefer},
		Keys: serve.PublicKeys{Guix: d.Keys.GuixPublic(), Nix: d.Keys.NixPublic()},
		Log:  d.Log,
	}
}

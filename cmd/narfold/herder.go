package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"narfold/herder"
	"narfold/herder/deployment"
	"narfold/herder/serve"
	"narfold/herder/upload"
	"narfold/internal/compress"
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
used instead of --listen.

Examples:
  narfold herder run --state /var/lib/narfold --listen 127.0.0.1:8080
  narfold herder run --config /etc/narfold.toml`
}

// Run serves until it is told to stop.
func (c *herderRun) Run(ctx context.Context, inv *invocation) (err error) {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if c.DebugListen != "" {
		cfg.DebugListen = c.DebugListen
	}
	if len(c.Listen) > 0 {
		cfg.Listen = c.Listen
	}
	if err := cfg.Validate(); err != nil {
		return usagef("%v", err)
	}
	d, err := deployment.Open(ctx, cfg, true, inv.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	certificate, err := newCertificate(cfg.TLS)
	if err != nil {
		return err
	}
	listeners, err := listen(ctx, cfg, certificate)
	if err != nil {
		return err
	}
	parts := herder.Parts{
		Serve:     serving(d),
		Publisher: d.Publisher(),
		Uploads: &upload.Uploads{Dir: d.Incoming(), Reserve: int64(cfg.Publish.Reserve), Catalogue: d.Catalogue, Objects: d.Objects,
			Log: inv.log, Keep: 24 * time.Hour},
		Log: inv.log,
	}
	if cfg.DebugListen != "" {
		if parts.Debug, err = net.Listen("tcp", cfg.DebugListen); err != nil {
			closeAll(listeners)
			return fmt.Errorf("listen for debugging on %s: %w", cfg.DebugListen, err)
		}
	}
	h, err := herder.New(parts)
	if err != nil {
		closeAll(listeners)
		return err
	}
	for _, l := range listeners {
		inv.log.Info("serving", "address", l.Addr().String(), "state", cfg.State)
	}
	stopReloading := c.reloadOnHangup(ctx, inv, d, h, certificate)
	defer stopReloading()
	if err := sysd.Notify("READY=1"); err != nil {
		inv.log.Warn("service manager cannot be told", "error", err)
	}
	defer context.AfterFunc(ctx, func() { sysd.Notify("STOPPING=1") })()
	return h.Run(ctx, listeners...)
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

// listen opens the sockets, or takes those that systemd has opened.
func listen(ctx context.Context, cfg deployment.Config, certificate *certificate) (listeners []net.Listener, err error) {
	if listeners, err = sysd.Listeners(); err != nil {
		return nil, err
	}
	if len(listeners) == 0 {
		var lc net.ListenConfig
		for _, address := range cfg.Listen {
			l, err := lc.Listen(ctx, "tcp", address)
			if err != nil {
				closeAll(listeners)
				return nil, hint(fmt.Errorf("listen on %s: %w", address, err), "another address: --listen 127.0.0.1:8081")
			}
			listeners = append(listeners, l)
		}
	}
	if certificate != nil {
		for i, l := range listeners {
			listeners[i] = tls.NewListener(l, &tls.Config{GetCertificate: certificate.current, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
		}
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// certificate is a certificate from files, which may be read again.
type certificate struct {
	files  deployment.TLS
	loaded atomic.Pointer[tls.Certificate]
}

// newCertificate returns nil if there is none to load.
func newCertificate(files deployment.TLS) (*certificate, error) {
	if files.CertificateFile == "" {
		return nil, nil
	}
	c := &certificate{files: files}
	return c, c.load()
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.files.CertificateFile, c.files.KeyFile)
	if err != nil {
		return fmt.Errorf("load certificate %s: %w", c.files.CertificateFile, err)
	}
	c.loaded.Store(&pair)
	return nil
}

func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.loaded.Load(), nil
}

// reloadOnHangup reads the configuration again at each SIGHUP, until the function that it returns is called. What is wrong leaves
// everything as it was.
func (c *herderRun) reloadOnHangup(ctx context.Context, inv *invocation, d *deployment.Deployment, h *herder.Herder, certificate *certificate) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-hangups:
				sysd.Notify("RELOADING=1")
				if err := c.reload(d, h, certificate); err != nil {
					inv.log.Error("configuration was not reloaded", "error", err)
				} else {
					inv.log.Info("configuration reloaded")
				}
				sysd.Notify("READY=1")
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
		<-ended
	}
}

func (c *herderRun) reload(d *deployment.Deployment, h *herder.Herder, certificate *certificate) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if certificate != nil {
		if err := certificate.load(); err != nil {
			return err
		}
	}
	now := *d
	now.Config.Serve = cfg.Serve
	return h.Reload(serving(&now))
}

package main

import (
	"context"
	"crypto/tls"
	"os"
	"strings"

	"narfold/herder"
	"narfold/herder/deployment"
	"narfold/internal/sysd"
)

// reloadOnHangup reads the configuration again at each hangup, until ctx ends. What is wrong leaves everything as it was.
func (c *herderRun) reloadOnHangup(ctx context.Context, hangups <-chan os.Signal, inv *invocation, d *deployment.Deployment, h *herder.Herder, cert *certificate) {
	for {
		select {
		case <-hangups:
			tell(inv, sysd.Reloading())
			if err := c.reload(d, h, cert); err != nil {
				inv.log.Error("configuration was not reloaded", "error", err)
			} else {
				inv.log.Info("configuration reloaded")
			}
			tell(inv, sysd.Notify("READY=1"))
		case <-ctx.Done():
			return
		}
	}
}

// reload takes over what can change in a running herder. Everything is read and checked before anything is changed.
func (c *herderRun) reload(d *deployment.Deployment, h *herder.Herder, cert *certificate) error {
	cfg, err := c.configuration()
	if err != nil {
		return err
	}
	now := *d
	now.Config.Serve = cfg.Serve
	var pair *tls.Certificate
	if cert != nil && cfg.TLS != (deployment.TLS{}) {
		now.Config.TLS = cfg.TLS
		if pair, err = loadCertificate(&now); err != nil {
			return c.inConfig(err)
		}
	}
	if err := h.Reload(serving(&now)); err != nil {
		return err
	}
	if pair != nil {
		cert.loaded.Store(pair)
	}
	if keys := d.Config.Restart(cfg); len(keys) > 0 {
		d.Log.Warn("some of what changed takes a restart", "keys", strings.Join(keys, " "))
	}
	return nil
}

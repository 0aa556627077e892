package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"narfold/herder/deployment"
)

// deploymentFlags say which deployment a command is about.
type deploymentFlags struct {
	State  string `placeholder:"DIR" help:"Folder of an embedded deployment: catalogue, objects, keys and spool."`
	Config string `placeholder:"FILE" help:"Configuration file, for anything larger."`
}

// load returns the configuration that the flags name, checked.
func (f deploymentFlags) load() (deployment.Config, error) {
	if f.State == "" && f.Config == "" {
		return deployment.Config{}, hint(usagef("want --state or --config: which deployment is meant?"), "--state ./narfold")
	}
	cfg := deployment.Defaults("")
	if f.Config != "" {
		if err := readConfig(f.Config, &cfg); err != nil {
			return deployment.Config{}, err
		}
	}
	if f.State != "" {
		abs, err := filepath.Abs(f.State)
		if err != nil {
			return deployment.Config{}, fmt.Errorf("find %s: %w", f.State, err)
		}
		cfg.State = abs
	}
	if err := cfg.Validate(); err != nil {
		return deployment.Config{}, f.inConfig(err)
	}
	return cfg, nil
}

// inConfig says of an error about a value of the configuration where that was read.
func (f deploymentFlags) inConfig(err error) error {
	if errors.Is(err, errConfig) {
		return &configError{f.Config, err}
	}
	return err
}

// open opens the deployment that the flags name. Only a command that puts something into it makes one that is not there.
func (f deploymentFlags) open(ctx context.Context, inv *invocation, create bool) (*deployment.Deployment, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	return f.openAs(ctx, inv, cfg, create)
}

// openAs opens the deployment of a configuration that comes of the flags.
func (f deploymentFlags) openAs(ctx context.Context, inv *invocation, cfg deployment.Config, create bool) (*deployment.Deployment, error) {
	d, err := deployment.Open(ctx, cfg, create, inv.log)
	if err != nil {
		return nil, f.openError(cfg, err)
	}
	return d, nil
}

func (f deploymentFlags) openError(cfg deployment.Config, err error) error {
	if errors.Is(err, deployment.ErrNoState) {
		return hint(err, "narfold import --state "+cfg.State+" SOURCE, which makes one")
	}
	return f.inConfig(err)
}

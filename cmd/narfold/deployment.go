package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

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
		return deployment.Config{}, &configError{f.Config, err}
	}
	return cfg, nil
}

// configError is a mistake in a configuration file: usage, and no accident.
type configError struct {
	file string
	error
}

func (e *configError) Error() string {
	if e.file == "" {
		return "configuration: " + e.error.Error()
	}
	return "configuration " + e.file + ": " + e.error.Error()
}
func (e *configError) Unwrap() error        { return e.error }
func (e *configError) Is(target error) bool { return target == errConfig }

// errConfig is wrapped by mistakes in a configuration file.
var errConfig = errors.New("configuration")

// readConfig decodes a file strictly: a key that is not known is a typing mistake, and is named.
func readConfig(name string, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		first := strict.Errors[0]
		line, _ := first.Position()
		return &configError{name, fmt.Errorf("line %d: %s: there is no such key", line, dotted(first.Key()))}
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		if key := dotted(wrong.Key()); key != "" {
			return &configError{name, fmt.Errorf("line %d, column %d: %s: %w", line, column, key, err)}
		}
		return &configError{name, fmt.Errorf("line %d, column %d: %w", line, column, err)}
	case err != nil:
		return &configError{name, err}
	}
	return nil
}

func dotted(key toml.Key) string {
	s := ""
	for i, part := range key {
		if i > 0 {
			s += "."
		}
		s += part
	}
	return s
}

// open opens the deployment that the flags name. Only a command that puts something into it makes one that is not there.
func (f deploymentFlags) open(ctx context.Context, inv *invocation, create bool) (*deployment.Deployment, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	d, err := deployment.Open(ctx, cfg, create, inv.log)
	if errors.Is(err, deployment.ErrNoState) {
		return nil, hint(err, "narfold import --state "+cfg.State+" SOURCE, which makes one")
	}
	return d, err
}

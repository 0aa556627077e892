package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/alecthomas/kong"
)

// version is set by the Makefile: -ldflags "-X main.version=...", from git describe.
var version string

type versionCommand struct{}

func (versionCommand) Help() string {
	return `Tells the version, the Go release that compiled it, the revision of its sources if the build recorded it, and the platform.

Examples:

    narfold version
    narfold version --json`
}

// versionAnswer is the JSON answer of narfold version.
type versionAnswer struct {
	Version  string `json:"version"`            // as git describe says; "unknown" for a build without history
	Go       string `json:"go"`                 // go1.26.0
	Revision string `json:"revision,omitempty"` // commit, if the build recorded it
	Platform string `json:"platform"`           // linux/amd64
}

func (versionCommand) Run(_ context.Context, inv *invocation) error {
	a := thisVersion()
	return inv.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "narfold %s (%s, %s", a.Version, a.Go, a.Platform)
		if a.Revision != "" {
			fmt.Fprintf(w, ", %s", a.Revision)
		}
		fmt.Fprintln(w, ")")
	})
}

func thisVersion() versionAnswer {
	a := versionAnswer{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if a.Version == "" {
		a.Version = "unknown"
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				a.Revision = s.Value
			}
		}
	}
	return a
}

// versionFlag is --version, which programs that know nothing of subcommands ask for.
type versionFlag bool

// IgnoreDefault tells the parser that the flag is an action.
func (versionFlag) IgnoreDefault() {}

// BeforeReset prints the version and ends the program.
func (versionFlag) BeforeReset(app *kong.Kong) error {
	if _, err := fmt.Fprintf(app.Stdout, "narfold %s\n", thisVersion().Version); err != nil {
		return err
	}
	app.Exit(0)
	return nil
}

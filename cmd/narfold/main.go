// Command narfold builds, keeps, mirrors and serves substitutes: ready-built packages for GNU Guix and for Nix. Each role and
// each tool is a subcommand. This package is wiring: it reads the command line, builds the stack that the command names, runs
// it, and turns what came of it into an exit code.
package main

import (
	"context"
	"os"
)

func main() {
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(int(code))
}

#!/usr/bin/env bash
# Runs what a change must pass, cheapest first. Arguments: packages (default ./...). Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
bin=${BIN:-.cache/bin}
packages=("${@:-./...}")

step() { echo "test: $*"; }

step "gofmt"
# The gofmt beside the go command in use: another one in PATH may format differently.
unformatted=$(find . \( -path ./.git -o -path ./.cache \) -prune -o -name '*.go' -print0 | xargs -0 "$("$go" env GOROOT)/bin/gofmt" -l)
if [ -n "$unformatted" ]; then
  echo "gofmt would change these files; run gofmt -w on them:" >&2
  echo "$unformatted" >&2
  exit 1
fi

step "go vet ${packages[*]}"
"$go" vet "${packages[@]}"

step "staticcheck ${packages[*]}"
"$bin/staticcheck" "${packages[@]}"

step "go test -race ${packages[*]}"
# The race detector is the one thing here that needs cgo and so a C compiler.
CGO_ENABLED=1 exec "$go" test -race -timeout "${TEST_TIMEOUT:-20m}" "${packages[@]}"

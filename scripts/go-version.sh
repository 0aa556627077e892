#!/usr/bin/env bash
# Says clearly what is missing where Go is absent or older than go.mod asks for, instead of letting the first build fail oddly.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
want=$(awk '$1 == "go" { print $2 }' go.mod)

if ! command -v "$go" >/dev/null; then
  echo "go: not found. Narfold is built with Go $want or newer; install it and put its bin directory into PATH." >&2
  exit 1
fi
# Run inside the module: a Go that can fetch the toolchain go.mod asks for answers with that one.
if ! have=$("$go" env GOVERSION); then
  echo "go: $(command -v "$go") cannot provide Go $want, which go.mod asks for." >&2
  exit 1
fi
have=${have#go}
have=${have%% *}
if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
  echo "go: $(command -v "$go") is Go $have; Narfold is built with Go $want or newer." >&2
  exit 1
fi

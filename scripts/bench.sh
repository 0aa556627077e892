#!/usr/bin/env bash
# Measures Narfold against nix, go-nix and nginx on this machine, prints the ratios, and writes docs/benchmarks/part1.md.
# BENCH="serving import" measures only these parts (import, serving, signatures, objects, nar) and writes no page.
# BENCH_ROUNDS (default 7) says how often each peer has its turn. Called by `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
bin=${BIN:-.cache/bin}
read -ra parts <<< "${BENCH:-}"

mkdir -p "$bin" docs/benchmarks
(cd tools && "$go" build -trimpath -buildvcs=false -o "../$bin/bench" ./bench)
exec "$bin/bench" -narfold ./narfold -versitygw "$bin/versitygw" -rounds "${BENCH_ROUNDS:-7}" -out docs/benchmarks/part1.md "${parts[@]}"

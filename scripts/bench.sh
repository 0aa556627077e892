#!/usr/bin/env bash
# Measures Narfold against nix, go-nix and nginx on this machine, prints the ratios, and writes docs/benchmarks/part1.md.
# BENCH="serving import" measures only these parts (import, serving, signatures, objects, nar) and writes no page; BENCH=catalogue
# measures the catalogue and writes docs/benchmarks/part2.md, with BENCH_ITEMS items (default 1000000; "1000000,10000000" does both,
# one after the other) and its peer up to BENCH_PEER_ITEMS (default 1000000).
# BENCH_ROUNDS (default 7) says how often each peer has its turn. BENCH_DISK is a folder for databases and nars (default: the
# temporary one). Called by `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
bin=${BIN:-.cache/bin}
read -ra parts <<< "${BENCH:-}"

mkdir -p "$bin" docs/benchmarks
(cd tools && "$go" build -trimpath -buildvcs=false -o "../$bin/bench" ./bench)
exec "$bin/bench" -narfold ./narfold -versitygw "$bin/versitygw" -rounds "${BENCH_ROUNDS:-7}" \
	-items "${BENCH_ITEMS:-1000000}" -peer-items "${BENCH_PEER_ITEMS:-1000000}" -disk "${BENCH_DISK:-${TMPDIR:-/tmp}}" \
	-out docs/benchmarks/part1.md -out2 docs/benchmarks/part2.md "${parts[@]}"

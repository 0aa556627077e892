#!/usr/bin/env bash
# Runs every fuzz test of the given packages (default ./...) for FUZZTIME each, one after the other, and prints one line for each:
# the result, the executions, and how many inputs the corpus holds, both checked in (testdata/fuzz) and found so far (Go's cache).
# A failing input is written to the package's testdata/fuzz by Go; commit it with the fix. Called by `make fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
fuzztime=${FUZZTIME:-30s}
cache=$("$go" env GOCACHE)/fuzz
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# count DIR: the number of files in it, 0 where it does not exist.
count() { find "$1" -type f 2>/dev/null | wc -l; }

failed=0 total=0
printf '%-6s %12s %8s %8s  %s\n' result executions seeds found "test ($fuzztime each)"
while read -r package dir; do
  names=$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*testing\.F).*/\1/p' "$dir"/*_test.go 2>/dev/null | sort) || true
  for name in $names; do
    total=$((total + 1))
    result=ok
    "$go" test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package" > "$log" 2>&1 < /dev/null || { result=FAIL; failed=$((failed + 1)); }
    executions=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    printf '%-6s %12s %8s %8s  %s\n' "$result" "${executions:-0}" "$(count "$dir/testdata/fuzz/$name")" "$(count "$cache/$package/$name")" "$package $name"
    [ "$result" = ok ] || sed 's/^/    /' "$log"
  done
done < <("$go" list -f '{{.ImportPath}} {{.Dir}}' "${@:-./...}")

if [ "$total" -eq 0 ]; then
  echo "fuzz: no fuzz test in ${*:-./...}" >&2
  exit 1
fi
echo "fuzz: $((total - failed)) of $total passed"
[ "$failed" -eq 0 ]

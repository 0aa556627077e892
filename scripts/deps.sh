#!/usr/bin/env bash
# Installs the Debian packages that the tests run: the real peers (Nix, the Guile libraries of Guix, nginx) and the compressors
# whose files Narfold must read. Does nothing when all are there; asks for nothing when root; says what to type when not.
set -euo pipefail

packages=(
  # Clients and servers of the field.
  nix-bin guile-3.0 guile-gcrypt guile-zlib guile-lzlib guile-zstd nginx-light curl wrk
  # Every compression a narinfo may name, by the program that defines it.
  gzip lzip xz-utils zstd bzip2 brotli lz4
  # A file tree that is the same on every machine, and a static binary for sandboxes.
  busybox-static
  # What Go needs: certificates for the module proxy, a C compiler for the race detector.
  ca-certificates gcc libc6-dev
  # pgrep, ps and kill for the demo and the benchmarks.
  procps
  # The catalogue for several herders; the tests start servers of their own.
  postgresql
  # The feed's verifier, which was written from the documentation alone.
  python3
  # Who copies a deployment by its manifest.
  rsync
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "deps: this is no Debian. Install what these Debian packages hold, then run scripts/test.sh:" >&2
  echo "  ${packages[*]}" >&2
  exit 1
fi

missing=()
for p in "${packages[@]}"; do
  # The nginx packages exclude each other; any of them will do, and nobody's web server is replaced.
  [ "$p" != nginx-light ] || [ ! -x /usr/sbin/nginx ] || continue
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "deps: these Debian packages are missing: ${missing[*]}" >&2
  echo "deps: run this, then try again:" >&2
  echo "  sudo make deps" >&2
  echo "or, by hand:" >&2
  echo "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

echo "deps: installing ${missing[*]}"

# Debian starts a server when it is installed. The tests start their own on free ports, so nothing may be started, now or at the
# next boot: policy-rc.d forbids the first for the time of the installation, update-rc.d undoes the second.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
ours=
cleanup() {
  rm -f "$log"
  [ -z "$ours" ] || rm -f "$policy"
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
  ours=yes
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi

# quietly runs a command, and shows what it said only if it fails.
quietly() {
  "$@" > "$log" 2>&1 && return
  cat "$log" >&2
  echo "deps: $* failed" >&2
  exit 1
}
export DEBIAN_FRONTEND=noninteractive
quietly apt-get update -qq
# A machine that has just booted may still be upgrading itself: wait for it.
quietly apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends "${missing[@]}"
case " ${missing[*]} " in
  *" nginx-light "*) quietly update-rc.d nginx disable ;;
esac
case " ${missing[*]} " in
  *" postgresql "*) quietly update-rc.d postgresql disable ;;
esac
echo "deps: done"

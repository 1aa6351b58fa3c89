#!/bin/sh
# Measures our union in user space against fuse-overlayfs, on the same work. Needs root and the package fuse-overlayfs.
#
#	bench/unionfs.sh [rounds]     default 3; of each figure the best round counts
set -eu
cd "$(dirname "$0")/.."
command -v fuse-overlayfs >/dev/null || { echo "bench: fuse-overlayfs is missing: apt-get install fuse-overlayfs" >&2; exit 1; }
program=$(mktemp)
trap 'rm -f "$program"' EXIT
CGO_ENABLED=0 go build -o "$program" ./bench/unionfs
"$program" "${1:-3}"

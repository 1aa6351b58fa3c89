#!/bin/sh
# Measures how long a root file system of 250 MB takes to become an image with its files on disk, to be loaded, and a small change
# of it to be committed, side by side with tar, umoci, podman, buildah and docker, plain and compressed. Needs root; a peer that is
# not installed, or a docker without its daemon, is named and left out.
#
#	bench/image.sh [rounds]     default 5; a figure is the median over all rounds
#
# NSLAB=PROGRAM measures that one instead of building it. BENCH_DIR=FOLDER works there instead of in /var/tmp.
set -eu
cd "$(dirname "$0")/.."
test "$(id -u)" = 0 || { echo "bench: owners and devices are kept: run this as root" >&2; exit 1; }
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export CGO_ENABLED=0
if test -z "${NSLAB:-}"; then
	NSLAB=$build/nslab
	go build -trimpath -ldflags '-s -w' -o "$NSLAB" ./cmd/nslab
fi
go build -o "$build/bench" ./bench/image
# Not in the background and not with exec: what is interrupted with ctrl-c still takes away what it has made.
trap : INT TERM
"$build/bench" -nslab "$NSLAB" "${1:-5}"

#!/bin/sh
# Measures nslab's containers side by side with crun, runc, podman and docker, on the same root file system. Needs root
# and hyperfine; a peer that is not installed is named and left out.
#
#	bench/runtime.sh [rounds]     default 3; a figure is the median over all rounds
#
# NSLAB=PROGRAM measures that one instead of building it. BENCH_DIR=FOLDER has images and containers there instead of in
# /var/tmp: they belong on the file system where they would lie in earnest, since part of the work is to write them.
set -eu
cd "$(dirname "$0")/.."
test "$(id -u)" = 0 || { echo "bench: containers are started: run this as root" >&2; exit 1; }
command -v hyperfine >/dev/null || { echo "bench: hyperfine is missing: apt-get install hyperfine" >&2; exit 1; }
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export CGO_ENABLED=0
if test -z "${NSLAB:-}"; then
	NSLAB=$build/nslab
	go build -trimpath -ldflags '-s -w' -o "$NSLAB.linked" ./cmd/nslab
	cp "$NSLAB.linked" "$NSLAB" # as the Makefile does, and whoever installs it
fi
go build -o "$build/bench" ./bench/runtime
if command -v gcc >/dev/null; then
	gcc -O2 -o "$build/floor" bench/runtime/floor/floor.c
fi
# Not in the background and not with exec: what is interrupted with ctrl-c still takes away what it has made.
trap : INT TERM
"$build/bench" -nslab "$NSLAB" -floor "$build/floor" "${1:-3}"

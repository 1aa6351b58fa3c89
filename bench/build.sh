#!/bin/bash
# Measures builds of six steps, without and with cache, side by side with buildah, podman and docker, and prints the ratios.
# Needs root. A peer that is not installed, or a docker that does not answer (DOCKER_HOST), is named and left out.
#
#	bench/build.sh [rounds]     default 5; a figure is the median over all rounds, which the programs take in turns
#
# NSLAB=PROGRAM measures that one instead of building it. BENCH_DIR=FOLDER works there instead of in /var/tmp.
set -euo pipefail
cd "$(dirname "$0")/.."
test "$(id -u)" = 0 || { echo "bench: run this as root" >&2; exit 1; }
rounds=${1:-5}
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/nslab-bench-build-XXXXXX")

export CGO_ENABLED=0 NSLAB_ROOT=$work/nslab NSLAB_RUN_ROOT=$work/run
if test -z "${NSLAB:-}"; then
	NSLAB=$work/bin
	go build -trimpath -ldflags '-s -w' -o "$NSLAB" ./cmd/nslab
fi

# The peers have stores of their own in the same folder, so all of it is on one file system.
store=(--root "$work/containers" --runroot "$work/containers-run" --storage-driver overlay)
printf '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\n' > "$work/containers.conf"
printf '{"default":[{"type":"insecureAcceptAnything"}]}' > "$work/policy.json"
export CONTAINERS_CONF=$work/containers.conf

leave() {
	trap - EXIT
	if command -v buildah > /dev/null; then buildah "${store[@]}" rm -a > /dev/null 2>&1 || true; fi
	if command -v podman > /dev/null; then podman "${store[@]}" rmi -af > /dev/null 2>&1 || true; fi
	if test -n "${docker:-}"; then docker rmi -f nslab-bench nslab-bench-base > /dev/null 2>&1 || true; fi
	umount "$work/containers/overlay" 2> /dev/null || true
	rm -rf "$work"
}
trap leave EXIT
trap : INT TERM

# The base is this machine's own shell and what it needs.
"$NSLAB" image bootstrap -t base > /dev/null 2>&1 || "$NSLAB" image bootstrap base > /dev/null
id=$("$NSLAB" container create base sh)
"$NSLAB" container export "$id" > "$work/base.tar"
"$NSLAB" container rm "$id" > /dev/null

mkdir "$work/context"
for n in $(seq 100); do echo "file $n" > "$work/context/$n.txt"; done
cat > "$work/context/Dockerfile" <<-EOF
	FROM nslab-bench-base
	WORKDIR /app
	COPY . /app
	RUN echo one > /one && ls /app > /list
	RUN echo two > /two
	ENV NAME World
	CMD ["cat", "/one"]
EOF

peers=(nslab)
"$NSLAB" image import "$work/base.tar" nslab-bench-base > /dev/null
if command -v buildah > /dev/null; then
	peers+=(buildah)
	c=$(buildah "${store[@]}" from scratch)
	buildah "${store[@]}" add -q "$c" "$work/base.tar" / > /dev/null
	buildah "${store[@]}" commit -q "$c" nslab-bench-base > /dev/null 2>&1
	buildah "${store[@]}" rm "$c" > /dev/null
	command -v podman > /dev/null && peers+=(podman) || echo "podman: not installed" >&2
else
	echo "buildah, podman: not installed" >&2
fi
if docker info > /dev/null 2>&1; then
	docker=yes
	peers+=(docker)
	docker import "$work/base.tar" nslab-bench-base > /dev/null
else
	echo "docker: no daemon answers" >&2
fi

build() { # PEER FLAGS
	local peer=$1
	shift
	case $peer in
	nslab) "$NSLAB" image build -t nslab-bench "$@" "$work/context" ;;
	buildah) buildah "${store[@]}" build --layers --signature-policy "$work/policy.json" --runtime "${RUNTIME:-runc}" --network none -t nslab-bench "$@" "$work/context" ;;
	podman) podman "${store[@]}" build --signature-policy "$work/policy.json" --runtime "${RUNTIME:-runc}" --network none -t nslab-bench "$@" "$work/context" ;;
	docker) DOCKER_BUILDKIT=0 docker build --network none -t nslab-bench "$@" "$work/context" ;;
	esac > "$work/out" 2>&1 || { echo "bench: $peer build failed:" >&2; tail -5 "$work/out" >&2; return 1; }
}

now() { date +%s%N; }

measure() { # NAME FLAGS: writes the microseconds of each round to $work/NAME.PEER
	local name=$1 peer start
	shift
	for peer in "${peers[@]}"; do build "$peer" "$@"; done # once for the caches
	for _ in $(seq "$rounds"); do
		for peer in "${peers[@]}"; do
			start=$(now)
			build "$peer" "$@"
			echo $((($(now) - start) / 1000)) >> "$work/$name.$peer"
		done
	done
}

median() { sort -n "$1" | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

report() { # NAME TITLE
	local peer ours theirs
	ours=$(median "$work/$1.nslab")
	printf '%s\n' "$2"
	for peer in "${peers[@]}"; do
		theirs=$(median "$work/$1.$peer")
		printf '  %-8s %9.1f ms   nslab takes %.3f of it\n' "$peer" "$(echo "$theirs" | awk '{print $1 / 1000}')" \
			"$(awk -v a="$ours" -v b="$theirs" 'BEGIN {print a / b}')"
	done
}

measure fresh --no-cache
report fresh "six steps without cache (two RUN, a COPY of 100 files)"
measure cached
report cached "the same with everything in the cache"

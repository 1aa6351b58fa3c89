#!/bin/sh
# Measures what goes through a published port, side by side with docker and podman: how much in a second (iperf3), and how
# many new connections. The client is another machine (a network namespace at the other end of a wire), and then the host
# itself, by 127.0.0.1. Each engine has a host of its own, a network namespace as well, so that the machine's rules stay as
# they are. Needs root, iperf3, iproute2; a peer that is not installed is named and left out.
#
#	bench/network.sh [rounds]     default 3; a figure is the median over all rounds
#
# NSLAB=PROGRAM measures that one instead of building it.
set -eu
cd "$(dirname "$0")/.."
test "$(id -u)" = 0 || { echo "bench: networks are made: run this as root" >&2; exit 1; }
for tool in iperf3 ip nsenter; do
	command -v $tool >/dev/null || { echo "bench: $tool is missing: apt-get install iperf3 iproute2 util-linux" >&2; exit 1; }
done
rounds=${1:-3} seconds=3
work=$(mktemp -d /var/tmp/nslab-bench-net-XXXXXX)
export CGO_ENABLED=0 NSLAB_ROOT="$work/root" NSLAB_RUN_ROOT="$work/run"
if test -z "${NSLAB:-}"; then
	NSLAB=$work/nslab
	go build -trimpath -ldflags '-s -w' -o "$NSLAB" ./cmd/nslab
fi
go build -trimpath -ldflags '-s -w' -o "$work/network" ./bench/network

peers="nslab docker podman" dockerd=
host() { e=$1; shift; nsenter --net=/run/netns/nslab-bench-$e "$@"; }
client() { e=$1; shift; nsenter --net=/run/netns/nslab-bench-$e-client "$@"; }
nslab() { host nslab "$NSLAB" "$@"; }
docker_() { DOCKER_HOST=unix://$work/docker.sock docker "$@"; }
podman_() { CONTAINERS_CONF=$work/containers.conf host podman podman --root "$work/podman" --runroot "$work/podman-run" --tmpdir "$work/podman-tmp" --cgroup-manager cgroupfs "$@"; }

finish() {
	trap '' INT TERM
	set +e
	for e in $peers; do stop_$e; done >/dev/null 2>&1
	nslab system prune -f >/dev/null 2>&1
	if test -n "$dockerd"; then kill $dockerd; wait $dockerd 2>/dev/null; fi
	for e in nslab docker podman; do
		ip netns delete nslab-bench-$e 2>/dev/null; ip netns delete nslab-bench-$e-client 2>/dev/null
	done
	grep -o " $work[^ ]*" /proc/self/mounts | sort -r | xargs -r umount -l 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

machines() {
	ip netns add nslab-bench-$1 && ip netns add nslab-bench-$1-client
	ip link add eth0 netns nslab-bench-$1 type veth peer name eth0 netns nslab-bench-$1-client
	host $1 sh -c 'ip link set lo up; ip address add 198.51.100.1/24 dev eth0; ip link set eth0 up'
	client $1 sh -c 'ip link set lo up; ip address add 198.51.100.2/24 dev eth0; ip link set eth0 up'
}
start_nslab() {
	nslab image import "$work/root.tar" bench >/dev/null
	nslab container run -d --name iperf -p 5201:5201 bench /iperf3 -s >/dev/null
	nslab container run -d --name serve -p 5301:5301 bench /network serve :5301 >/dev/null
}
stop_nslab() { nslab container rm -f iperf serve; }
start_docker() {
	command -v dockerd >/dev/null || { echo "not installed"; return 1; }
	echo '{}' > "$work/daemon.json"
	# exec, so that the process which is ended later is dockerd, and not a shell that waits for it.
	(exec nsenter --net=/run/netns/nslab-bench-docker dockerd --config-file "$work/daemon.json" --data-root "$work/docker" \
		--exec-root "$work/docker-exec" -p "$work/docker.pid" -H "unix://$work/docker.sock" >"$work/docker.log" 2>&1) & dockerd=$!
	n=0; until docker_ version >/dev/null 2>&1; do n=$((n + 1)); test $n -lt 150 || { tail -n 1 "$work/docker.log"; return 1; }; sleep 0.2; done
	docker_ import "$work/root.tar" bench >/dev/null
	docker_ run -d --name iperf -p 5201:5201 bench /iperf3 -s >/dev/null
	docker_ run -d --name serve -p 5301:5301 bench /network serve :5301 >/dev/null
}
stop_docker() { docker_ rm -f iperf serve; }
start_podman() {
	command -v podman >/dev/null || { echo "not installed"; return 1; }
	# Podman raises two limits for its containers, and does not start where it may not.
	echo "[containers]
default_ulimits = [ \"$(awk '/Max open files/ {f = $5} /Max processes/ {p = ($4 > 32768 ? 32768 : $4)} END {printf "nofile=%s:%s\", \"nproc=%s:%s", f, f, p, p}' /proc/self/limits)\" ]
[engine]
events_logger = \"none\"" | sed 's/unlimited/1048576/g' > "$work/containers.conf"
	podman_ import "$work/root.tar" bench >/dev/null 2>&1
	for runtime in crun runc; do
		podman_ --runtime $runtime run -d --name iperf -p 5201:5201 localhost/bench /iperf3 -s >/dev/null 2>"$work/podman.log" && break
		podman_ rm -f iperf >/dev/null 2>&1
	done
	podman_ --runtime $runtime run -d --name serve -p 5301:5301 localhost/bench /network serve :5301 >/dev/null 2>"$work/podman.log" || { tail -n 1 "$work/podman.log"; return 1; }
}
stop_podman() { podman_ rm -f --time 0 iperf serve; }

# A root file system of two programs and what they are linked with.
mkdir -p "$work/rootfs"/proc "$work/rootfs"/dev "$work/rootfs"/sys "$work/rootfs"/etc "$work/rootfs"/tmp
cp "$work/network" "$work/rootfs/network"
iperf=$(command -v iperf3); cp "$iperf" "$work/rootfs/iperf3"
ldd "$iperf" | grep -o '/[^ ]*' | while read -r lib; do mkdir -p "$work/rootfs$(dirname "$lib")"; cp -L "$lib" "$work/rootfs$lib"; done
tar -C "$work/rootfs" -cf "$work/root.tar" .

sides=
for e in $peers; do
	machines $e
	if start_$e > "$work/why" 2>&1; then sides="$sides $e"; else echo "left out: $e: $(tail -n 1 "$work/why")"; fi
done

throughput() { "$@" -J -t $seconds | sed -n '/"sum_received"/,/}/s/.*"bits_per_second":[^0-9]*\([0-9.e+]*\).*/\1/p' | awk '{printf "%.2f\n", $1 / 1e9}'; }
wait_for() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); test $n -lt 50 || return 1; sleep 0.1; done; }
for e in $sides; do
	wait_for client $e "$work/network" dial 198.51.100.1:5301 0 || echo "bench: $e does not answer" >&2
done
round=0
while test $round -lt "$rounds"; do
	round=$((round + 1))
	for e in $sides; do
		throughput client $e iperf3 -c 198.51.100.1 >> "$work/outside-Gbit-$e"
		client $e "$work/network" dial 198.51.100.1:5301 $seconds >> "$work/outside-connections-$e"
		throughput host $e iperf3 -c 127.0.0.1 >> "$work/loopback-Gbit-$e"
		host $e "$work/network" dial 127.0.0.1:5301 $seconds >> "$work/loopback-connections-$e"
	done
done

median() { sort -g "$1" | awk '{v[NR] = $1} END {print NR ? v[int((NR + 1) / 2)] : "-"}'; }
printf '%-34s' 'through a published port'; for e in $sides; do printf '%12s' "$e"; done; echo '   nslab : the best peer'
for work_ in 'outside-Gbit:from outside, Gbit/s' 'outside-connections:from outside, new connections/s' \
	'loopback-Gbit:by 127.0.0.1, Gbit/s' 'loopback-connections:by 127.0.0.1, new connections/s'; do
	printf '%-34s' "${work_#*:}"
	best=0 own=0
	for e in $sides; do
		m=$(median "$work/${work_%%:*}-$e")
		printf '%12s' "$m"
		if test $e = nslab; then own=$m; else best=$(echo "$best $m" | awk '{print ($1 > $2 ? $1 : $2)}'); fi
	done
	echo "$own $best" | awk '{if ($2 > 0) printf "   %.2f\n", $1 / $2; else print ""}'
done

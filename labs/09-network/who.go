package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// whoHas finds the process whose socket has a port: the kernel lists sockets with their inodes in /proc/net, and processes
// with the inodes of what they have open. 0 where it cannot be told: a socket of another user's, or of a process in another PID
// namespace.
func whoHas(proto string, addr netip.AddrPort) (pid int, command string) {
	inodes := socketInodes(proto, addr)
	if len(inodes) == 0 {
		return 0, ""
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + p.Name() + "/fd/"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // somebody else's, or gone
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + fd.Name())
			if err == nil && slices.Contains(inodes, link) {
				comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return pid, strconv.QuoteToGraphic(strings.TrimSpace(string(comm)))
			}
		}
	}
	return 0, ""
}

// socketInodes lists the sockets that have the port at an address that gets in the way of addr, as /proc/PID/fd calls them.
func socketInodes(proto string, addr netip.AddrPort) (list []string) {
	for _, suffix := range []string{"", "6"} {
		f, err := os.Open("/proc/thread-self/net/" + proto + suffix)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
			fields := strings.Fields(s.Text())
			if len(fields) < 10 || proto == "tcp" && fields[3] != "0A" { // 0A is TCP_LISTEN
				continue
			}
			local, ok := parseLocal(fields[1])
			if !ok || local.Port() != addr.Port() {
				continue
			}
			a, b := local.Addr(), addr.Addr()
			if a == b || a.IsUnspecified() || b.IsUnspecified() {
				list = append(list, fmt.Sprintf("socket:[%s]", fields[9]))
			}
		}
		f.Close()
	}
	return list
}

// parseLocal reads 0100007F:0FA0, where each four bytes of the address are a number in the machine's order.
func parseLocal(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		for i := 0; i < len(raw); i += 4 {
			slices.Reverse(raw[i : i+4])
		}
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

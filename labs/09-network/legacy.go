package network

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The older packet filter, ip_tables, knows nothing of netlink: a table is one block of bytes that getsockopt(2) returns. See
// linux/netfilter_ipv4/ip_tables.h. Its tables are asked as well as those of nf_tables, so its policies count, too.
const (
	getInfo    = 64 // IPT_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES

	tableName  = 32 // bytes at the beginning of both structures
	infoSize   = 84 // struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
	underflows = tableName + 4 + 5*4
	sizeAt     = infoSize - 4
	entriesAt  = 40  // in struct ipt_get_entries
	entrySize  = 112 // struct ipt_entry: what a rule matches
	targetSize = 32  // struct xt_entry_target: what it does, before the verdict

	hookForward = 2
	verdictDrop = -1 - int32(0) // a verdict is kept as its negative, less one; NF_DROP is 0
)

// legacyDrops says whether ip_tables' chain FORWARD drops what no rule of it decides. A table that nobody has made is not
// asked for: that would make it.
func legacyDrops() (bool, error) {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
		return false, nil // not there, or not for us to see
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info, "filter")
	if err := getsockopt(fd, getInfo, info); err != nil {
		return false, &Error{"read firewall table", legacyFilter, err}
	}
	size := binary.NativeEndian.Uint32(info[sizeAt:])
	entries := make([]byte, entriesAt+int(size))
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[tableName:], size)
	if err := getsockopt(fd, getEntries, entries); err != nil {
		return false, &Error{"read firewall table", legacyFilter, err} // EAGAIN: it has just been changed
	}
	// A chain's policy is the verdict of its last rule, which matches everything.
	last := entriesAt + int(binary.NativeEndian.Uint32(info[underflows+4*hookForward:]))
	if at := last + entrySize + targetSize; at+4 <= len(entries) {
		return int32(binary.NativeEndian.Uint32(entries[at:])) == verdictDrop, nil
	}
	return false, nil
}

func getsockopt(fd, option int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

package pages

import (
	"bytes"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOwn is how many bytes of memory of its own an idle process keeps without a collection. The first one costs half a
// megabyte for good, the collector's own tables, so it must be worth it.
const maxOwn = 3 << 20

// Settle hands back what a process does not need while it waits: garbage, if there is much, and its text. It takes less than
// a millisecond, and is to be called when there has been nothing to do for a while.
//
// It does most for a process that was started with GOGC=off, GOMEMLIMIT=8MiB and GOMAXPROCS=1 in its environment, so that there
// is no collection every two minutes, which would touch everything that has just been handed back.
func Settle() {
	if own() > maxOwn {
		debug.FreeOSMemory()
	}
	ReleaseText()
}

// own returns how much memory is not mapped from files: proc_pid_statm(5). runtime.ReadMemStats would tell about the heap
// alone, and takes a quarter of a megabyte for it.
func own() int {
	fd, err := unix.Open("/proc/self/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var buf [128]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0
	}
	f := bytes.Fields(buf[:n]) // size, resident, shared, …, in pages
	if len(f) < 3 {
		return 0
	}
	resident, _ := strconv.Atoi(string(f[1]))
	shared, _ := strconv.Atoi(string(f[2]))
	return (resident - shared) * unix.Getpagesize()
}

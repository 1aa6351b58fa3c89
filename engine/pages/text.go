package pages

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReleaseText hands back the pages of the program itself: its code and constants, which are mapped from its file. They stay
// in the page cache, and come back one by one as they are needed.
//
// While a program starts it runs through megabytes of itself that it never needs again, and they count as its memory. What
// an idle Go program still needs, for its poller and scheduler, are some 60 pages; but the kernel maps fifteen neighbours with
// each, since they are there (fault-around). It does not for a range that is registered with userfaultfd(2) for tracking
// writes, here of pages that nobody writes: since Linux 6.7 (UFFD_FEATURE_WP_ASYNC), which never asks anybody anything. On an
// older kernel, or where userfaultfd is forbidden, the neighbours come, too.
//
// It is for a process that has done all it had to and now waits. It never fails: what cannot be handed back stays.
func ReleaseText() {
	ranges := text()
	// The code that does this is on those pages, and none of it may come back: two system calls, and nothing around them.
	for i := range ranges {
		r := &ranges[i]
		unix.RawSyscall(unix.SYS_MADVISE, r.start, r.size, unix.MADV_DONTNEED)
	}
}

// text is found out once: it does not change.
var text = sync.OnceValue(func() []textRange {
	ranges := textRanges()
	trackWrites(ranges)
	return ranges
})

type textRange struct{ start, size uintptr }

// textRanges finds the mappings of the program's own file that are not written: proc_pid_maps(5).
func textRanges() []textRange {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	var ranges []textRange
	for line := range bytes.Lines(maps) {
		// 00400000-007d7000 r-xp 00000000 fe:00 10167815      /usr/bin/nslab
		fields := bytes.Fields(line)
		if len(fields) < 6 || !bytes.HasSuffix(bytes.TrimSpace(line), []byte(exe)) || fields[1][1] != '-' {
			continue
		}
		lo, hi, _ := bytes.Cut(fields[0], []byte{'-'})
		start, err1 := strconv.ParseUint(string(lo), 16, 64)
		end, err2 := strconv.ParseUint(string(hi), 16, 64)
		if err1 == nil && err2 == nil {
			ranges = append(ranges, textRange{uintptr(start), uintptr(end - start)})
		}
	}
	return ranges
}

// From linux/userfaultfd.h, which x/sys/unix does not have.
const (
	uffdAPI        = 0xaa
	uffdWPAsync    = 1 << 15
	uffdModeWP     = 1 << 1
	uffdIOAPI      = 0xc018aa3f
	uffdIORegister = 0xc020aa00
	uffdUserOnly   = 1
)

// trackWrites registers the ranges with a userfaultfd, which stays open as long as the process lives.
func trackWrites(ranges []textRange) {
	fd, _, errno := unix.RawSyscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserOnly, 0, 0)
	if errno != 0 {
		return
	}
	api := struct{ api, features, ioctls uint64 }{api: uffdAPI, features: uffdWPAsync}
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, uffdIOAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		unix.Close(int(fd))
		return
	}
	for _, r := range ranges {
		reg := struct{ start, size, mode, ioctls uint64 }{uint64(r.start), uint64(r.size), uffdModeWP, 0}
		unix.RawSyscall(unix.SYS_IOCTL, fd, uffdIORegister, uintptr(unsafe.Pointer(&reg)))
	}
}

package pages

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetProgram takes the pages of this process's own program, code and constants, out of its memory. They come back one by
// one, from the page cache, as they are used. It is for a process that has done most of what it will ever do: of a program of
// many megabytes, what it touched at its start would else count as its own for as long as it waits.
//
// Nothing is lost: only mappings are taken that are backed by the program's file and cannot be written.
func ForgetProgram() {
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	type region struct{ from, to uintptr }
	var found []region
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// "00400000-0097f000 r-xp 00000000 fe:00 10684837    /usr/bin/nslab", see proc_pid_maps(5).
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); n == 3 && mode[1] == '-' && strings.HasSuffix(lines.Text(), " "+own) {
			found = append(found, region{from, to})
		}
	}
	for _, r := range found {
		// It can only fail for a mapping that is gone, and ours stay.
		unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED)
	}
}

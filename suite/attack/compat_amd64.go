package main

import "golang.org/x/sys/unix"

func int80(trap, arg uint32) int32

// compat asks for the same things through the other tables that an x86 kernel has: a filter that looks at numbers only, and
// not at whose numbers they are, lets them through.
func compat() {
	for name, trap := range map[string]uint32{"unshare": 310, "mount": 21, "keyctl": 288, "bpf": 357, "init_module": 128} {
		arg := uint32(0)
		if name == "unshare" {
			arg = unix.CLONE_NEWUSER
		}
		answer(name+" by int 0x80", unix.Errno(-int80(trap, arg)))
	}
	const x32 = 0x40000000
	for name, trap := range map[string]uintptr{"unshare": unix.SYS_UNSHARE, "mount": unix.SYS_MOUNT, "keyctl": unix.SYS_KEYCTL} {
		arg := uintptr(0)
		if name == "unshare" {
			arg = unix.CLONE_NEWUSER
		}
		_, _, errno := unix.RawSyscall(x32|trap, arg, 0, 0)
		answer(name+" of x32", errno)
	}
}

func answer(name string, errno unix.Errno) {
	if errno != 0 && refused(errno) {
		result(name, errno)
		return
	}
	breaks(name, "it was let through: "+errno.Error())
}

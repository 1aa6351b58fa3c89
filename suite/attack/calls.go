package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one that a container may not make. The arguments are such that it does no harm where it is allowed.
type call struct {
	name string
	trap uintptr
	args [6]uintptr
}

func text(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// kept is what the numbers in arguments point to.
var kept [][]byte

// refused are the answers of a filter, of a missing capability, and of a kernel that lacks the call. Anything else, EINVAL or
// EFAULT for example, means that the call was let through to the code that looks at its arguments.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EACCES)
}

func calls() {
	bad := ^uintptr(0)
	for _, c := range []call{
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{text("user"), text("attack"), text("x"), 1, uintptr(0xfffffffd)}},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{text("user"), text("attack"), 0, 0}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, uintptr(0xfffffffd), 0}},
		{"unshare(CLONE_NEWUSER)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"unshare(CLONE_NEWNS)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}},
		{"unshare(CLONE_NEWNET)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNET}},
		{"unshare(CLONE_NEWCGROUP)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWCGROUP}},
		{"clone(CLONE_NEWUSER)", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}},
		{"setns", unix.SYS_SETNS, [6]uintptr{bad, 0}},
		{"mount tmpfs", unix.SYS_MOUNT, [6]uintptr{text("tmpfs"), text("/tmp"), text("tmpfs"), 0, 0}},
		{"mount a control group", unix.SYS_MOUNT, [6]uintptr{text("cgroup"), text("/tmp"), text("cgroup"), 0, text("memory")}},
		{"mount cgroup2", unix.SYS_MOUNT, [6]uintptr{text("cgroup2"), text("/tmp"), text("cgroup2"), 0, 0}},
		{"mount proc", unix.SYS_MOUNT, [6]uintptr{text("proc"), text("/tmp"), text("proc"), 0, 0}},
		{"remount /proc/sys", unix.SYS_MOUNT, [6]uintptr{0, text("/proc/sys"), 0, unix.MS_REMOUNT | unix.MS_BIND, 0}},
		{"remount /sys", unix.SYS_MOUNT, [6]uintptr{0, text("/sys"), 0, unix.MS_REMOUNT | unix.MS_BIND, 0}},
		{"umount2 /proc/interrupts", unix.SYS_UMOUNT2, [6]uintptr{text("/proc/interrupts"), unix.MNT_DETACH}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{text("/tmp"), text("/tmp")}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{text("tmpfs"), 0}},
		{"fspick", unix.SYS_FSPICK, [6]uintptr{bad, text("/"), 0}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{bad, text("/tmp"), unix.OPEN_TREE_CLONE}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{bad, text("/tmp"), bad, text("/tmp"), 0}},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{bad, text("/"), 0, 0, 0}},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, 0, 0}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{0, 0, bad, bad, 0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{0, 0}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, bad, 0, 0}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{0, 0, 0}},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{bad, 0, 0}},
		{"delete_module", unix.SYS_DELETE_MODULE, [6]uintptr{text("no-such-module"), unix.O_NONBLOCK}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{bad, 0, 0}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0}}, // not the numbers that it wants
		{"swapon", unix.SYS_SWAPON, [6]uintptr{text("/no/such/file"), 0}},
		{"acct", unix.SYS_ACCT, [6]uintptr{text("/no/such/file")}},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{bad, 0, 0, 0}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{unix.CLOCK_REALTIME, 0}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{bad, 0}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{text("attack"), 6}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{3, text("          "), 10}},
		{"vhangup", unix.SYS_VHANGUP, [6]uintptr{}},
		{"chroot and mount", unix.SYS_MOUNT, [6]uintptr{text("/"), text("/tmp"), 0, unix.MS_BIND | unix.MS_REC, 0}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{0, 0}},
		{"move_pages of process 1", unix.SYS_MOVE_PAGES, [6]uintptr{1, 1, 0, 0, 0, 0}},
		{"socket(AF_VSOCK)", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, 0}},
		{"a vring of the kernel's keys", unix.SYS_KEYCTL, [6]uintptr{11, 1, text("          "), 10}},
	} {
		_, _, errno := unix.RawSyscall6(c.trap, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		switch {
		case errno == 0:
			breaks(c.name, "it was allowed")
		case refused(errno):
			result(c.name, errno)
		default:
			breaks(c.name, "it was let through: "+errno.Error())
		}
	}
	hostParameters()
}

// hostParameters are what the network, IPC and UTS namespaces do not cover.
func hostParameters() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		more := unix.Rlimit{Cur: limit.Cur, Max: limit.Max + 1}
		result("raise a hard limit", unix.Setrlimit(unix.RLIMIT_NOFILE, &more))
	}
	result("nice -20", unix.Setpriority(unix.PRIO_PROCESS, 0, -20))
}

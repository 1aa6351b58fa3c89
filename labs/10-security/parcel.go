package security

import "github.com/opencontainers/runtime-spec/specs-go"

// The numbers of i386's two calls that stand for many: socketcall(SYS_CONNECT, args) is connect, ipc(SEMOP, …) is semop.
// Most have had numbers of their own since Linux 4.3 and 5.1, and both ways work.
const (
	i386Socketcall = 102
	i386IPC        = 117
)

// parcel is how a rule for a call looks where it is one of many under another number: that of the other call, and which
// first argument means this one. What the real arguments are a filter can't see, as they lie in memory. So a rule with
// conditions is taken without them where it refuses, and not at all where it allows.
func parcel(name string, entry specs.LinuxSyscall) (number uint32, condition specs.LinuxSeccompArg, ok bool) {
	if len(entry.Args) > 0 && (entry.Action == specs.ActAllow || entry.Action == specs.ActLog || entry.Action == specs.ActTrace) {
		return 0, condition, false
	}
	number, which := parcelOf(name)
	condition = specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: which}
	if number == i386IPC { // which takes a version in the upper bits
		condition = specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 0xffff, ValueTwo: which}
	}
	return number, condition, number != 0
}

// parcelOf is a switch and not a map, as a map would be filled at every start. See socketcall(2), ipc(2), and
// include/uapi/linux/net.h and ipc.h.
func parcelOf(name string) (number uint32, which uint64) {
	switch name {
	case "socket":
		return i386Socketcall, 1
	case "bind":
		return i386Socketcall, 2
	case "connect":
		return i386Socketcall, 3
	case "listen":
		return i386Socketcall, 4
	case "accept":
		return i386Socketcall, 5
	case "getsockname":
		return i386Socketcall, 6
	case "getpeername":
		return i386Socketcall, 7
	case "socketpair":
		return i386Socketcall, 8
	case "send":
		return i386Socketcall, 9
	case "recv":
		return i386Socketcall, 10
	case "sendto":
		return i386Socketcall, 11
	case "recvfrom":
		return i386Socketcall, 12
	case "shutdown":
		return i386Socketcall, 13
	case "setsockopt":
		return i386Socketcall, 14
	case "getsockopt":
		return i386Socketcall, 15
	case "sendmsg":
		return i386Socketcall, 16
	case "recvmsg":
		return i386Socketcall, 17
	case "accept4":
		return i386Socketcall, 18
	case "recvmmsg":
		return i386Socketcall, 19
	case "sendmmsg":
		return i386Socketcall, 20
	case "semop":
		return i386IPC, 1
	case "semget":
		return i386IPC, 2
	case "semctl":
		return i386IPC, 3
	case "semtimedop":
		return i386IPC, 4
	case "msgsnd":
		return i386IPC, 11
	case "msgrcv":
		return i386IPC, 12
	case "msgget":
		return i386IPC, 13
	case "msgctl":
		return i386IPC, 14
	case "shmat":
		return i386IPC, 21
	case "shmdt":
		return i386IPC, 22
	case "shmget":
		return i386IPC, 23
	case "shmctl":
		return i386IPC, 24
	}
	return 0, 0
}

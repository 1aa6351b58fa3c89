package security

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Allows tells what the filter answers to a call by the machine's own table: whether it is simply allowed. It runs the program
// as the kernel does, as far as programs that [Compile] writes go.
func (f *Filter) Allows(number uint32, args ...uint64) bool {
	var data [argumentsAt + 6*8]byte
	binary.NativeEndian.PutUint32(data[numberAt:], number)
	for _, own := range abis[:min(1, len(abis))] {
		binary.NativeEndian.PutUint32(data[archAt:], own.audit)
	}
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[argumentsAt+8*i:], a)
	}
	var a uint32 // the accumulator
	for at := 0; at+size <= len(f.Program); at += size {
		b := f.Program[at:]
		code, k := binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint32(b[4:])
		var holds bool
		switch code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if int(k)+4 > len(data) {
				return false
			}
			a = binary.NativeEndian.Uint32(data[k:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= k
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			at += int(k) * size
			continue
		case unix.BPF_RET | unix.BPF_K:
			return k&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ALLOW || k&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_LOG
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = a == k
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = a >= k
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = a > k
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = a&k != 0
		default:
			return false
		}
		skip := b[3]
		if holds {
			skip = b[2]
		}
		at += int(skip) * size
	}
	return false
}

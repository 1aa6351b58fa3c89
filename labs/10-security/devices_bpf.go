package security

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// The program for v2 is written instruction by instruction: six kinds are enough. It gets in register 1 the address of
//
//	struct bpf_cgroup_dev_ctx { __u32 access_type; __u32 major; __u32 minor; }
//
// whose first word is access << 16 | type, and returns 1 in register 0 for yes. See bpf(2) and
// Documentation/bpf/standardization/instruction-set.rst.

// instruction is a struct bpf_insn.
type instruction struct {
	code uint8
	regs uint8 // source << 4 | destination
	off  int16 // of a jump: how many instructions to leave out
	imm  int32
}

// The registers.
const (
	regResult = iota
	regContext
	regType
	regAccess // what is asked for and not allowed yet
	regMajor
	regMinor
)

// What unix has no name for, since it only knows the older machine.
const (
	bpfLoadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	bpfALU      = unix.BPF_ALU | unix.BPF_K
	bpfJump32   = 0x06 // BPF_JMP32: compares 32 bits
	bpfMove     = 0xb0 // BPF_MOV
	bpfNotEqual = 0x50 // BPF_JNE
	bpfExit     = 0x95 // BPF_JMP | BPF_EXIT
	deviceBlock = 1    // BPF_DEVCG_DEV_BLOCK
	deviceChar  = 2    // BPF_DEVCG_DEV_CHAR
)

// deviceProgram goes through the rules from the last to the first. For each kind of access the first that it meets is the
// one that counts: a refusal ends it, a permission is struck off the list of what is still wanted.
func deviceProgram(rules []deviceRule) []instruction {
	code := []instruction{
		{code: bpfLoadWord, regs: regContext<<4 | regType},
		{code: unix.BPF_ALU | unix.BPF_X | bpfMove, regs: regType<<4 | regAccess},
		{code: bpfALU | unix.BPF_AND, regs: regType, imm: 0xffff},
		{code: bpfALU | unix.BPF_RSH, regs: regAccess, imm: 16},
		{code: bpfLoadWord, regs: regContext<<4 | regMajor, off: 4},
		{code: bpfLoadWord, regs: regContext<<4 | regMinor, off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		code = append(code, rules[i].compile()...)
	}
	return append(code, instruction{code: bpfALU | bpfMove, regs: regResult}, instruction{code: bpfExit})
}

// compile is one rule; where it does not apply, the program goes on behind it.
func (r deviceRule) compile() []instruction {
	var code []instruction
	unless := func(reg uint8, value uint32) {
		code = append(code, instruction{code: bpfJump32 | bpfNotEqual, regs: reg, imm: int32(value)})
	}
	switch r.kind {
	case 'c':
		unless(regType, deviceChar)
	case 'b':
		unless(regType, deviceBlock)
	}
	if r.major >= 0 {
		unless(regMajor, uint32(r.major))
	}
	if r.minor >= 0 {
		unless(regMinor, uint32(r.minor))
	}
	tests := len(code)
	if r.allow {
		code = append(code,
			instruction{code: bpfALU | unix.BPF_AND, regs: regAccess, imm: int32(^r.access)},
			instruction{code: bpfJump32 | bpfNotEqual, regs: regAccess, off: 2},
			instruction{code: bpfALU | bpfMove, regs: regResult, imm: 1},
			instruction{code: bpfExit})
	} else {
		code = append(code,
			instruction{code: bpfJump32 | unix.BPF_JSET, regs: regAccess, imm: int32(r.access), off: 1},
			instruction{code: unix.BPF_JMP | unix.BPF_JA, off: 2},
			instruction{code: bpfALU | bpfMove, regs: regResult},
			instruction{code: bpfExit})
	}
	for i := range tests {
		code[i].off = int16(len(code) - i - 1)
	}
	return code
}

// attachDevices puts the program of these rules on a group in place of the one that is there. Nothing holds it but the
// group: no file, no descriptor. Rules that allow everything need no program.
func attachDevices(ctx context.Context, dir string, rules []deviceRule) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{Op: "open", What: dir, Err: err}
	}
	defer unix.Close(fd)
	old, err := attached(fd)
	if err != nil {
		return &Error{Op: "bpf", What: "BPF_PROG_QUERY " + dir, Err: err}
	}
	if !(len(rules) == 1 && rules[0].everything() && rules[0].allow) {
		prog, err := loadDevices(ctx, deviceProgram(rules))
		if err != nil {
			return err
		}
		defer unix.Close(prog)
		// Several programs on one group, and those of the groups above it, must all say yes.
		err = bpfAttach(ctx, unix.BPF_PROG_ATTACH, "BPF_PROG_ATTACH", dir,
			attachAttr{target: uint32(fd), program: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI})
		if err != nil {
			return err
		}
	}
	// The old ones go last: in between both decide, which refuses too much rather than too little.
	for _, id := range old {
		if err := detach(ctx, fd, dir, id); err != nil {
			return err
		}
	}
	return nil
}

// loadDevices has the kernel check the program, and returns a descriptor of it.
func loadDevices(ctx context.Context, code []instruction) (fd int, err error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	attr := struct {
		kind, count      uint32
		code             *instruction
		license          *byte
		logLevel, logLen uint32
		log              *byte
		version, flags   uint32
		name             [16]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)), code: &code[0], license: &license[0]}
	copy(attr.name[:], "nslab_devices")
	err = trace.Call(ctx, 2,
		func() string {
			return fmt.Sprintf("bpf(BPF_PROG_LOAD, {BPF_PROG_TYPE_CGROUP_DEVICE, insn_cnt=%d}) = %d", len(code), fd)
		},
		func() (err error) {
			fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
			return err
		})
	if err != nil {
		return -1, &Error{Op: "bpf", What: fmt.Sprintf("BPF_PROG_LOAD (%d instructions)", len(code)), Err: err}
	}
	return fd, nil
}

// attachAttr is what BPF_PROG_ATTACH and BPF_PROG_DETACH take.
type attachAttr struct{ target, program, kind, flags uint32 }

func bpfAttach(ctx context.Context, command int, name, dir string, attr attachAttr) error {
	err := trace.Call(ctx, 3,
		func() string {
			return fmt.Sprintf("bpf(%s, {%d<%s>, %d, BPF_CGROUP_DEVICE})", name, attr.target, dir, attr.program)
		},
		func() error {
			_, err := bpf(command, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
			return err
		})
	if err != nil {
		return &Error{Op: "bpf", What: name + " " + dir, Err: err}
	}
	return nil
}

// attached lists the programs for devices that a group itself has, by their numbers.
func attached(group int) ([]uint32, error) {
	ids := make([]uint32, 64) // as many as a group may have
	attr := struct {
		target, kind, flags, attachFlags uint32
		ids                              *uint32
		count                            uint32
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: &ids[0], count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, err
	}
	return ids[:attr.count], nil
}

// detach takes a program off a group. One that is gone is no error.
func detach(ctx context.Context, group int, dir string, id uint32) error {
	attr := struct{ id, next, flags uint32 }{id: id}
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &Error{Op: "bpf", What: fmt.Sprintf("BPF_PROG_GET_FD_BY_ID %d", id), Err: err}
	}
	defer unix.Close(prog)
	return bpfAttach(ctx, unix.BPF_PROG_DETACH, "BPF_PROG_DETACH", dir,
		attachAttr{target: uint32(group), program: uint32(prog), kind: unix.BPF_CGROUP_DEVICE})
}

// bpf is bpf(2). What it takes has pointers where the kernel has 64-bit numbers, which is the same on the machines that
// this package is for; as pointers, they are followed if Go moves what they point to. EAGAIN is a signal that came while the program was checked.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for range 100 {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return -1, errno
		}
	}
	return -1, unix.EAGAIN
}

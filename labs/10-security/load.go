package security

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/walker"
)

// Filter is a compiled seccomp filter: a program for the kernel's classic BPF machine, that which tcpdump uses, with the
// number of the system call and its arguments in place of a packet. It is plain data, so it can travel to the process
// that is to load it.
type Filter struct {
	Program []byte `json:"program"` // struct sock_filter[], as the kernel reads it
	Flags   uint32 `json:"flags"`   // SECCOMP_FILTER_FLAG_*
}

// size is that of a struct sock_filter.
const size = int(unsafe.Sizeof(unix.SockFilter{}))

// Load puts the filter before every later call of the calling thread and of all its children. It cannot be taken away
// again; loading another only adds refusals. The caller is about to execute the program, and nothing else: a call that
// the program may not make is refused to it, too.
//
// It takes no_new_privs or CAP_SYS_ADMIN (else EACCES).
func (f *Filter) Load(ctx context.Context) error {
	return makeAll(ctx, []setns.Call{f.load()}, nil)
}

func (f *Filter) load() setns.Call {
	// struct sock_fprog: the number of instructions, and where they are.
	count := len(f.Program) / size
	prog := &walker.Data{Bytes: make([]byte, unsafe.Sizeof(unix.SockFprog{})), Points: map[int]*walker.Data{
		int(unsafe.Offsetof(unix.SockFprog{}.Filter)): {Bytes: f.Program},
	}}
	binary.NativeEndian.PutUint16(prog.Bytes, uint16(count))
	return setns.Call{
		Trap: unix.SYS_SECCOMP, Op: "seccomp", At: setns.Here(-1),
		Args: [6]uintptr{unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags)}, Data: [6]*walker.Data{2: prog},
		Text: fmt.Sprintf("seccomp(SECCOMP_SET_MODE_FILTER, %s, {len=%d})", flagNames(f.Flags), count),
	}
}

type filterFlag struct {
	flag uint32
	name string
}

// filterFlags are the flags of seccomp(2) that have a name in the runtime-spec.
var filterFlags = [...]filterFlag{
	{unix.SECCOMP_FILTER_FLAG_TSYNC, "SECCOMP_FILTER_FLAG_TSYNC"},
	{unix.SECCOMP_FILTER_FLAG_LOG, "SECCOMP_FILTER_FLAG_LOG"},
	{unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"},
}

func flagNames(flags uint32) string {
	var names []string
	for _, f := range filterFlags {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("%#x", flags)
	}
	return strings.Join(names, "|")
}

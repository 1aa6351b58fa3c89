package setns

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/nslab/nslab/walker"
)

// The child, and why it is another program.
//
// setns(2) acts on one thread, and the kernel lets nobody with several into another user, mount or time namespace. Go has
// several before its first line runs. Nor can it fork and go on: fork(2) copies the memory of a process and *one* of its
// threads, and the copy finds a scheduler whose other threads do not exist, and locks that nobody will ever release. And what
// enters a container must not be nslab at all: its file could be reached through /proc/self/exe from inside.
//
// So the child is a walker: a program of two hundred instructions that makes the system calls of a list and reports what the
// kernel said, see package walker. It decides nothing. The list, plan.go, is what this lab is about.

// Call is a system call that is written down, to be made by a child, or by the calling thread.
type Call struct {
	Trap uintptr
	Args [6]uintptr
	Data [6]*walker.Data // memory that the argument points to, in place of a number
	Op   string          // its name: "prctl"
	What string          // what it is about, for an error
	Text string          // as strace would show it
	May  bool            // it may be refused
	At   uintptr         // where in the source it was chosen, from [Here]; 0 is the place where it is added to a list
}

// Here is the program counter of the caller's caller, for skip 1 of that one's, and so on.
func Here(skip int) uintptr {
	var pc [1]uintptr
	runtime.Callers(3+skip, pc[:])
	return pc[0]
}

// Make makes the call on the calling thread.
func (c *Call) Make() error {
	args := c.Args
	var keep []any
	for i, d := range c.Data {
		if d != nil {
			args[i] = addressOf(d, &keep)
		}
	}
	_, _, errno := syscall.RawSyscall6(c.Trap, args[0], args[1], args[2], args[3], args[4], args[5])
	runtime.KeepAlive(keep) // what the numbers point to
	if errno != 0 {
		return errno
	}
	return nil
}

// addressOf copies memory to where this process has it, and where the garbage collector leaves it as long as it is in keep.
func addressOf(d *walker.Data, keep *[]any) uintptr {
	words := make([]uint64, (len(d.Bytes)+7)/8+1)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	copy(bytes, d.Bytes)
	for at, to := range d.Points {
		binary.NativeEndian.PutUint64(bytes[at:], uint64(addressOf(to, keep)))
	}
	*keep = append(*keep, words)
	return uintptr(unsafe.Pointer(&words[0]))
}

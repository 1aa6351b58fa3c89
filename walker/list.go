package walker

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a step is, besides a call that must succeed.
const (
	Must     = iota
	Optional // its error does not matter
	Locates  // getcwd: the answer must begin with "/"
	Seals    // seccomp: what follows is asked for, even the reading of a clock
	Forks    // clone: the caller reports the new number and ends, the new process goes on
	Attempts // execve: where the program is not found, the next step tries another place
	receives // recvfrom: less than was asked for is the end of the walker
)

// Step is one system call.
type Step struct {
	Trap uintptr
	Args [6]uintptr
	Kind uintptr
}

// Report is what a walker tells of a step that is done.
type Report struct {
	Step  int32 // which one
	Errno int32
	Value int64 // what the kernel returned
	Nanos int64 // how long it took
	Stop  bool  // the walker does not go on
}

// ReportSize is the size of a report as it comes through the socket; all that are sent together come in one piece.
const ReportSize = int(unsafe.Sizeof(Report{}))

// Outside is the errno for a working folder that lies outside of the root: no system call returns it for getcwd.
const Outside = syscall.EXDEV

// Data is memory that an argument of a call points to.
type Data struct {
	Bytes  []byte
	Points map[int]*Data // at these offsets stand pointers to more of it
}

// List is a list of steps while it is written, with all the memory that they point to: the walker has it at the same addresses.
type List struct {
	Steps  []Step
	memory []byte // what is laid out so far, from the address base+head on
}

// head is what stands before the memory: where the steps are, and how many.
const head = 16

// Add writes down one more step.
func (l *List) Add(kind, trap uintptr, args ...uintptr) {
	s := Step{Trap: trap, Kind: kind}
	copy(s.Args[:], args)
	l.Steps = append(l.Steps, s)
}

// Put lays out memory for the list, and returns its address.
func (l *List) Put(d *Data) uintptr {
	bytes := append([]byte(nil), d.Bytes...)
	for at, to := range d.Points {
		binary.NativeEndian.PutUint64(bytes[at:], uint64(l.Put(to)))
	}
	return l.place(bytes)
}

func (l *List) place(bytes []byte) uintptr {
	for len(l.memory)%16 != 0 {
		l.memory = append(l.memory, 0)
	}
	at := base + head + uintptr(len(l.memory))
	l.memory = append(l.memory, bytes...)
	return at
}

// Text lays out a string as the kernel wants it. One with a NUL in it is EINVAL.
func (l *List) Text(s string) (uintptr, error) {
	b, err := syscall.ByteSliceFromString(s)
	if err != nil {
		return 0, fmt.Errorf("walker: %q: %w", s, err)
	}
	return l.place(b), nil
}

// Texts lays out a list of strings as execve(2) wants it.
func (l *List) Texts(list []string) (uintptr, error) {
	var pointers []byte
	for _, s := range list {
		at, err := l.Text(s)
		if err != nil {
			return 0, err
		}
		pointers = binary.NativeEndian.AppendUint64(pointers, uint64(at))
	}
	return l.place(binary.NativeEndian.AppendUint64(pointers, 0)), nil
}

// Take is the message in which a walker receives the files of [Walker.Give], with recvmsg(2). They get the lowest numbers that are free.
func Take(files int) *Data {
	return message(&Data{Bytes: []byte{0}}, &Data{Bytes: make([]byte, unix.CmsgSpace(4*files))})
}

// Send is the message in which a walker sends its maker a file, with sendmsg(2), by its number: see [Walker.Hear].
func Send(fd int) *Data {
	nothing := make([]byte, ReportSize) // beside a file there has to be something, and what there is, is a report
	binary.NativeEndian.PutUint32(nothing, math.MaxUint32)
	return message(&Data{Bytes: nothing}, &Data{Bytes: unix.UnixRights(fd)})
}

// message is a struct msghdr, see recvmsg(2): where the bytes are, and where what comes beside them.
func message(bytes, control *Data) *Data {
	vector := &Data{Bytes: make([]byte, unsafe.Sizeof(unix.Iovec{})), Points: map[int]*Data{0: bytes}}
	binary.NativeEndian.PutUint64(vector.Bytes[unsafe.Offsetof(unix.Iovec{}.Len):], uint64(len(bytes.Bytes)))
	h := &Data{Bytes: make([]byte, unsafe.Sizeof(unix.Msghdr{})), Points: map[int]*Data{
		int(unsafe.Offsetof(unix.Msghdr{}.Iov)): vector, int(unsafe.Offsetof(unix.Msghdr{}.Control)): control,
	}}
	binary.NativeEndian.PutUint64(h.Bytes[unsafe.Offsetof(unix.Msghdr{}.Iovlen):], 1)
	binary.NativeEndian.PutUint64(h.Bytes[unsafe.Offsetof(unix.Msghdr{}.Controllen):], uint64(len(control.Bytes)))
	return h
}

// Cwd is where a walker looks for the answer to getcwd, and how much room there is.
func Cwd() (address, size uintptr) { return scratch + cwdOffset, cwdSize }

// encode is the list as it goes through the socket: its length, and then what is to lie from base on.
func (l *List) encode() []byte {
	for len(l.memory)%16 != 0 {
		l.memory = append(l.memory, 0)
	}
	size := head + len(l.memory) + len(l.Steps)*stepSize
	b := make([]byte, 0, 8+size)
	b = binary.NativeEndian.AppendUint64(b, uint64(size))
	b = binary.NativeEndian.AppendUint64(b, base+head+uint64(len(l.memory)))
	b = binary.NativeEndian.AppendUint64(b, uint64(len(l.Steps)))
	b = append(b, l.memory...)
	for _, s := range l.Steps {
		b = s.encode(b)
	}
	return b
}

func (s *Step) encode(b []byte) []byte {
	b = binary.NativeEndian.AppendUint64(b, uint64(s.Trap))
	for _, a := range s.Args {
		b = binary.NativeEndian.AppendUint64(b, uint64(a))
	}
	return binary.NativeEndian.AppendUint64(b, uint64(s.Kind))
}

// stepSize is that of a step in the walker's memory.
const stepSize = 64

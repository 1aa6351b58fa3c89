package walker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// What a walker's memory looks like. No address is below what a process may map (vm.mmap_min_addr), and all are multiples of
// the largest page, 64 KiB.
const (
	code    = 0x400000 // the instructions
	scratch = 0x420000 // what the instructions keep: see walk.h
	base    = 0x500000 // the list, and all that it points to

	scratchSize = 0x10000
	most        = 16 << 20 // for the list: the kernel takes 6 MiB of arguments at most (execve(2))

	cwdOffset, cwdSize = 0x2000, unix.PathMax
	loader             = 0x3000 // the steps that receive a list
	alone              = 0x3100 // what a walker says that has nobody to receive one from

	page = 0x10000 // in the file
)

// walk is the program, and address is where it begins. They are in the walk_*.s of the architecture.
//
//lint:ignore U1000 nobody calls it: address knows where it is
func walk()
func address() uintptr

// end marks the end of the program.
var end = []byte("nslab.end.")

// instructions returns a copy of the program.
func instructions() ([]byte, error) {
	at := address()
	text := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), page/2)
	n := bytes.Index(text, end)
	if n < 0 {
		return nil, errors.New("walker: its end is not found")
	}
	return bytes.Clone(text[:n]), nil
}

// Program makes a file in memory that the kernel can execute, and seals it: nobody can change it any more, whatever he may. Its name
// is that by which a child can execute it.
func Program() (*os.File, error) {
	text, err := instructions()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all may be executed
		fd, err = unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("walker: make a program in memory: %w", ErrForbidden)
	}
	if err != nil {
		return nil, fmt.Errorf("walker: make a program in memory: %w", err)
	}
	// A descriptor that is open for writing cannot be executed (ETXTBSY), so it is opened once more.
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, append(header(len(text)), text...), 0); err != nil {
		return nil, fmt.Errorf("walker: write the program: %w", err)
	}
	if _, err := unix.Pwrite(fd, ownData(), page+loader); err != nil {
		return nil, fmt.Errorf("walker: write the program: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("walker: seal the program: %w", err)
	}
	name := "/proc/self/fd/" + strconv.Itoa(fd)
	again, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("walker: open the program: %w", err)
	}
	// By our number: in the child, descriptors are rearranged before it executes.
	return os.NewFile(uintptr(again), "/proc/"+strconv.Itoa(os.Getpid())+"/fd/"+strconv.Itoa(again)), nil
}

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// ErrForbidden is a kernel that executes nothing from memory.
var ErrForbidden error = forbidden{}

type forbidden struct{}

func (forbidden) Error() string { return "the sysctl vm.memfd_noexec forbids it" }

// Conditions has the remedy.
func (forbidden) Conditions() []diagnosis.Condition {
	value, err := os.ReadFile("/proc/sys/vm/memfd_noexec")
	setting := strings.TrimSpace(string(value))
	return []diagnosis.Condition{{
		What: "what lies in memory may be executed", Detail: "vm.memfd_noexec = " + setting, OK: err == nil && setting != "2",
		Remedy: "'sysctl vm.memfd_noexec=1' allows it to who asks for it, as nslab does",
	}}
}

// aloneText has the length that walk.h gives.
const aloneText = "nslab: what is executed here is a part of nslab that cannot do anything by itself, and no program of the image: /proc/self/exe?\n"

// ownData is what stands in the scratch page from the beginning. The first is a list, the only one of the walker's own: receive the
// length of a list, receive the list. The first call puts the length where the second has its own.
func ownData() []byte {
	length := uintptr(scratch + loader + stepSize + 8*3)
	first := Step{syscall.SYS_RECVFROM, [6]uintptr{Socket, length, 8, syscall.MSG_WAITALL}, receives}
	second := Step{syscall.SYS_RECVFROM, [6]uintptr{Socket, base, 0, syscall.MSG_WAITALL}, receives}
	data := second.encode(first.encode(nil))
	return append(append(data, make([]byte, alone-loader-len(data))...), aloneText...)
}

// The fields of an executable, see elf(5).
const (
	elfHeader, programHeader = 64, 56 // their sizes

	load, gnuStack             = 1, 0x6474e551
	executes, writes, readable = 1, 2, 4
)

// header is all that makes a file an executable: which part of it goes to which address, and where to begin.
func header(text int) []byte {
	type segment struct {
		kind, flags           uint32
		offset, address       uint64
		sizeInFile, sizeThere uint64
	}
	segments := []segment{
		{load, readable | executes, 0, code, uint64(begin + text), uint64(begin + text)},
		{load, readable | writes, page, scratch, alone + uint64(len(aloneText)), scratchSize},
		{load, readable | writes, page, base, 0, most},
		{gnuStack, readable | writes, 0, 0, 0, 0}, // no instructions on the stack
	}
	le := binary.LittleEndian
	h := append([]byte("\x7fELF"), 2, 1, 1) // 64 bits, the low byte first, version 1
	h = append(h, make([]byte, 9)...)
	h = le.AppendUint16(h, 2) // ET_EXEC: it is to lie where it says
	h = le.AppendUint16(h, machine)
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, code+begin)
	h = le.AppendUint64(h, elfHeader) // where the segments stand
	h = le.AppendUint64(h, 0)
	h = le.AppendUint32(h, 0)
	for _, n := range []uint16{elfHeader, programHeader, uint16(len(segments)), 0, 0, 0} {
		h = le.AppendUint16(h, n)
	}
	for _, s := range segments {
		h = le.AppendUint32(h, s.kind)
		h = le.AppendUint32(h, s.flags)
		for _, n := range []uint64{s.offset, s.address, s.address, s.sizeInFile, s.sizeThere, page} {
			h = le.AppendUint64(h, n)
		}
	}
	return append(h, make([]byte, begin-len(h))...)
}

// begin is where the instructions lie in the file, behind the headers.
const begin = 512

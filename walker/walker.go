// Package walker is the smallest program that can enter a container: it makes system calls from a list.
//
// Between the moment when a process is in a container and the execve(2) of the container's program, that process is nslab. Two
// things are wrong with that. It is a large program, which takes milliseconds to start and has threads, while the kernel
// gives some namespaces only to a process of one. And its file is the host's: a container that is asked to run /proc/self/exe runs
// that file, and could write to it once it is not executed any more (CVE-2019-5736).
//
// So here is a program of some two hundred instructions that knows nothing. It receives a [List] of system calls from its maker,
// through a socket, makes one after the other, and reports what the kernel said to each: nothing is decided in it but whether to
// go on. It has one thread, two pages of memory, no libraries and no signal handlers, and it is executed from a file in memory that
// nobody can write to and that no path leads to. What is inside a container before the program is there, is this.
//
// The instructions stand in walk_amd64.s and walk_arm64.s. Go's assembler makes them, as a part of nslab, and [Start] copies
// them from there into the file: image.go says how little an executable needs. list.go is the language of the lists.
package walker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is the descriptor through which a walker talks with its maker.
const Socket = 3

// First is that of the first of the further files in [Attr].
const First = Socket + 1

// Attr is how a walker is started.
type Attr struct {
	Streams []*os.File // becomes descriptor 0, 1, 2; nil, or less than three, leaves the rest closed
	Files   []*os.File // becomes First, First+1 …
	Sys     *syscall.SysProcAttr
	Signals uint64 // the mask that it starts with: those that are blocked
}

// Walker is one that was started.
type Walker struct {
	Pid    int
	Socket *os.File // the maker's end; the other one is closed when the walker ends, or becomes another program
}

// Start starts a walker on the calling thread, which stands for "the parent" where the kernel means a thread (PR_SET_PDEATHSIG).
// It waits for its first list.
func Start(a Attr) (_ *Walker, err error) {
	if len(a.Streams) > Socket {
		return nil, fmt.Errorf("walker: %d streams: %w", len(a.Streams), errors.ErrUnsupported)
	}
	program, err := program()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("walker: make a socket pair: %w", err)
	}
	defer unix.Close(fds[1])
	w := &Walker{Socket: os.NewFile(uintptr(fds[0]), "walker")}
	files := []uintptr{closed, closed, closed, uintptr(fds[1])}
	for i, f := range a.Streams {
		files[i] = f.Fd()
	}
	for _, f := range a.Files {
		files = append(files, f.Fd())
	}
	// By our number: in the child, descriptors are rearranged before it executes.
	path := "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(program.Fd()))
	before := SetMask(a.Signals)
	w.Pid, err = syscall.ForkExec(path, []string{Name}, &syscall.ProcAttr{Files: files, Sys: a.Sys})
	SetMask(before)
	runtime.KeepAlive(a)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("walker: execute it: %w", err), w.Socket.Close())
	}
	return w, nil
}

// closed is a descriptor that the child is not to have.
const closed = ^uintptr(0)

// Name is a walker's argv[0].
const Name = "nslab-walker"

// Tell hands over a list, to be walked as soon as the one before is at its end.
func (w *Walker) Tell(l *List) error {
	if _, err := w.Socket.Write(l.encode()); err != nil {
		return fmt.Errorf("walker: tell what to do: %w", err)
	}
	return nil
}

// SetMask makes a set of signals the blocked ones of the calling thread, and returns those that were before. See sigsetops(3): the
// first signal is the lowest bit.
func SetMask(mask uint64) (before uint64) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&mask)),
		uintptr(unsafe.Pointer(&before)), sigsetSize, 0, 0)
	return before
}

// sigsetSize is the size of the kernel's sigset_t: 64 signals.
const sigsetSize = 8

// AllSignals is the mask of all of them. SIGKILL and SIGSTOP come through all the same.
const AllSignals = ^uint64(0)

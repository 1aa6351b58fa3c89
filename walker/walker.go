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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"
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

// Walker is one that was started, seen by its maker.
type Walker struct {
	Pid    int
	socket *os.File // the other end is closed when the walker ends, or becomes another program
	rest   []byte   // of a report that has not come as a whole
}

// New makes the two ends of a walker's socket: theirs is to become descriptor Socket of a process that executes [Program].
func New() (w *Walker, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true) // ours: Go waits for it in its poller
	}
	if err != nil {
		return nil, nil, fmt.Errorf("walker: make a socket pair: %w", err)
	}
	return &Walker{socket: os.NewFile(uintptr(fds[0]), Name)}, os.NewFile(uintptr(fds[1]), Name), nil
}

// Start starts a walker on the calling thread, which stands for "the parent" where the kernel means a thread (PR_SET_PDEATHSIG).
// It waits for its first list.
func Start(a Attr) (*Walker, error) {
	if len(a.Streams) > Socket {
		return nil, fmt.Errorf("walker: %d streams: %w", len(a.Streams), errors.ErrUnsupported)
	}
	program, err := Program()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	w, theirs, err := New()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	files := []uintptr{closed, closed, closed, theirs.Fd()}
	for i, f := range a.Streams {
		files[i] = f.Fd()
	}
	for _, f := range a.Files {
		files = append(files, f.Fd())
	}
	before := SetMask(a.Signals)
	w.Pid, err = syscall.ForkExec(program.Name(), []string{Name}, &syscall.ProcAttr{Files: files, Sys: a.Sys})
	SetMask(before)
	runtime.KeepAlive(a)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("walker: execute it: %w", err), w.Close())
	}
	return w, nil
}

// closed is a descriptor that the child is not to have.
const closed = ^uintptr(0)

// Name is a walker's argv[0].
const Name = "nslab-walker"

// Tell hands over a list, to be walked as soon as the one before is at its end.
func (w *Walker) Tell(l *List) error {
	if _, err := w.socket.Write(l.encode()); err != nil {
		return fmt.Errorf("walker: tell what to do: %w", err)
	}
	return nil
}

// Give hands over files, to a list that receives them: see [Take].
func (w *Walker) Give(files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	raw, err := w.socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	runtime.KeepAlive(files)
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("walker: hand over files: %w", err)
	}
	return nil
}

// Hear waits for the next reports, and for files that come with them; io.EOF is the walker's end, or that it has become another
// program. When ctx is done it returns: a process in a frozen control group never reports.
func (w *Walker) Hear(ctx context.Context) (reports []Report, files []*os.File, err error) {
	stop := context.AfterFunc(ctx, func() { w.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := w.socket.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	data, oob := make([]byte, mostReports*ReportSize), make([]byte, unix.CmsgSpace(4*mostFiles))
	var n, oobn int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, failed = unix.Recvmsg(int(fd), data, oob, unix.MSG_CMSG_CLOEXEC)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case failed == unix.ECONNRESET: // it has ended with something unread
		return nil, nil, io.EOF
	case err != nil || failed != nil:
		return nil, nil, fmt.Errorf("walker: hear what it says: %w", errors.Join(err, failed))
	case n == 0:
		return nil, nil, io.EOF
	}
	for data = append(w.rest, data[:n]...); len(data) >= ReportSize; data = data[ReportSize:] {
		if r := *(*Report)(unsafe.Pointer(&data[0])); r.Step >= 0 {
			reports = append(reports, r)
		}
	}
	w.rest = bytes.Clone(data)
	return reports, received(oob[:oobn]), nil
}

const (
	mostReports = 64 // that a walker sends at once: see walk.h
	mostFiles   = 4
)

func received(oob []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), Name))
			}
		}
	}
	return files
}

// Close lets go of a walker. One that waits for a list ends.
func (w *Walker) Close() error { return w.socket.Close() }

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

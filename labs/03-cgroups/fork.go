package cgroups

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/trace"
)

// The fork loop for the pids controller.
//
// The controller counts threads, and a Go program has as many as its runtime likes, so no number would be exact with one in
// the group; worse, the runtime aborts when it is refused a thread. So the loop runs in a bare fork of the actor: one
// thread, which makes system calls and nothing else. It waits for a byte, to be put into the group before it starts.

// forkTries bounds the loop: without a limit it would make so many processes, which do nothing but wait.
const forkTries = 20

func init() {
	actor.Register("03-fork-prepare", forkPrepare)
	actor.Register("03-fork-loop", forkLoop)
}

// forker is this actor's other half.
var forker struct{ start, result *os.File }

func forkPrepare(context.Context, []string) (string, error) {
	startR, start, err := os.Pipe()
	if err != nil {
		return "", err
	}
	result, resultW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	forker.start, forker.result = start, result
	pids := new([forkTries]int32)
	pid, errno := forkBare(startR.Fd(), resultW.Fd(), pids)
	if errno != 0 {
		return "", fmt.Errorf("fork: %w", errno)
	}
	return strconv.Itoa(int(pid)), nil
}

// forkBare forks a child that, once it can read a byte, forks until it is refused or has tried forkTries times, writes
// down what each fork returned, and then waits to be killed. Its children wait from the start.
//
// In the child nothing of Go's runtime works: its other threads are not there. So nothing here may need a larger stack
// (nosplit), allocate, or be preempted; that is how package syscall forks too. Raw clone(2) with SIGCHLD alone is
// what fork(2) has always been, also where the system call of that name is gone (arm64).
//
//go:nosplit
//go:norace
func forkBare(start, result uintptr, pids *[forkTries]int32) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	syscall.RawSyscall(unix.SYS_READ, start, uintptr(unsafe.Pointer(pids)), 1)
	n := uintptr(0)
	for n < forkTries {
		child, _, refused := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if child == 0 && refused == 0 {
			break
		}
		pids[n] = int32(child)
		if refused != 0 {
			pids[n] = -int32(refused)
		}
		n++
		if refused != 0 || n == forkTries {
			syscall.RawSyscall(unix.SYS_WRITE, result, uintptr(unsafe.Pointer(pids)), n*4)
			break
		}
	}
	for {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // no descriptors, no timeout: for ever
	}
}

// forkLoop lets the loop run and tells what each fork returned, the last one's error in the end.
func forkLoop(ctx context.Context, _ []string) (string, error) {
	if _, err := forker.start.Write([]byte{1}); err != nil {
		return "", err
	}
	buf := make([]byte, forkTries*4)
	n, err := forker.result.Read(buf)
	if err != nil {
		return "", err
	}
	var made []string
	for i := 0; i+4 <= n; i += 4 {
		pid := int32(uint32(buf[i]) | uint32(buf[i+1])<<8 | uint32(buf[i+2])<<16 | uint32(buf[i+3])<<24)
		err := trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("clone(SIGCHLD) = %d", max(pid, -1)) },
			func() error {
				if pid < 0 {
					return syscall.Errno(-pid)
				}
				return nil
			})
		if err != nil {
			return strings.Join(made, " "), err
		}
		made = append(made, strconv.Itoa(int(pid)))
	}
	return strings.Join(made, " "), nil
}

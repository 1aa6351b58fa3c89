// Package calm keeps the Go runtime from looking around all the time.
//
// A Go program has a thread that looks after all others ("sysmon"): it takes processors away from threads that are stuck in a
// system call, and interrupts goroutines that run for too long. While anything goes on it looks every 20 microseconds, and
// sleeps in between; only when there has been nothing to do for a while it looks less often. A server never notices. But a
// process that lives for five milliseconds wakes up a hundred times to find that all is well, and a container's start has
// several of them: it was a sixth of the processor time that it took.
//
// The kernel has a remedy. When a thread sleeps for a time, its wake-up may be late by the thread's timer slack, so that several
// can be served at once (prctl(2), PR_SET_TIMERSLACK). Usually that is 50 microseconds. With two milliseconds a thread that wants
// to sleep for 20 microseconds sleeps until something else happens anyway.
//
// The price is that a processor which is stuck in a call is taken away later. So whoever is calm waits in Go's poller where
// there is something to wait for, not in a system call.
//
// Slack is a thread's; new threads and new processes have that of the thread which makes them, and execve(2) keeps it. So it is
// set before a child is made, and set back before a program is executed that is not ours.
package calm

import (
	"os"
	"strconv"
	"syscall"

	"github.com/nslab/nslab/cmdline"
)

// Slack is that of our own processes, in nanoseconds.
const Slack = 2_000_000

// Numbers of the kernel's header prctl.h.
const (
	prSetTimerSlack = 29
	prGetTimerSlack = 30
)

// usual is what this process was started with, and so what the programs that it starts are to have.
var usual = begin()

// begin finds it out. Who was executed by a calm process has inherited its slack, but was born with the usual one: exec, not fork.
func begin() uint64 {
	n := get()
	if n == Slack && Set(0) == nil {
		n = get()
	}
	return n
}

// Usual is the slack of whoever has started nslab.
func Usual() uint64 { return usual }

func get() uint64 {
	n, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetTimerSlack, 0, 0)
	if errno != 0 {
		return 0
	}
	return uint64(n)
}

// Set sets the slack of the calling thread. The caller has locked its goroutine to it. 0 is no number of nanoseconds but the
// slack that the thread was born with.
func Set(nanoseconds uint64) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, uintptr(nanoseconds), 0); errno != 0 {
		return errno
	}
	return nil
}

// Others sets the slack of the threads that there are already, but for the calling one. At the beginning of a process those
// are the runtime's own. Who is not root may not, which does no harm.
func Others() {
	dir, err := syscall.Open("/proc/self/task", syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var buf [1024]byte // some thirty threads; a process begins with two or three
	n, err := syscall.ReadDirent(dir, buf[:])
	syscall.Close(dir)
	if err != nil {
		return
	}
	_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
	self := strconv.Itoa(syscall.Gettid())
	text := []byte(strconv.Itoa(Slack))
	for _, name := range names {
		if name == self {
			continue
		}
		fd, err := syscall.Open("/proc/"+name+"/timerslack_ns", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		syscall.Write(fd, text)
		syscall.Close(fd)
	}
}

func init() {
	if l := cmdline.Read(os.Args); l.Noun == "container" {
		Others()
	}
}

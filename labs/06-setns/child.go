package setns

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The child between fork and exec.
//
// fork(2) copies the memory of the process and *one* of its threads. For Go that is fatal: the copy finds a scheduler
// whose other threads do not exist, locks that nobody will ever release, a garbage collector stopped in the middle. So
// the child may do what the kernel does for it, and nothing else: no allocation, no lock, no function that may grow its
// stack, no write of a pointer. These are the rules of syscall.forkAndExecInChild, by which os/exec lives, too. It could
// have been used but for one thing: it has no place for a setns.
//
// How the rules are kept here:
//
//   - The child decides nothing. Before the fork the parent has written down every system call it is to make (plan.go),
//     with its arguments as plain numbers: strings lie in memory that the garbage collector does not move, and the copy
//     has them at the same addresses. The child walks down the list.
//   - Its functions are marked nosplit: a function's first instructions usually ask whether the stack must grow or the
//     goroutine be interrupted, which both end in the scheduler. The linker checks that the stack which is there will do.
//   - Signals are blocked over the fork. A Go signal handler in the child would wake up the runtime; so the handlers are
//     taken away (execve(2) would do it, but later than the mask is lifted), and then the mask is.
//   - Every call is noted, and the notes go to the parent through a pipe, so that it can tell which one the kernel refused.
//
// os/exec clones with CLONE_VM|CLONE_VFORK and so saves the copying of page tables, a fraction of a millisecond. It takes
// assembly to return twice from one call on one stack; the plain fork here needs none. And it keeps something that a
// shared memory would not: PR_SET_DUMPABLE in the child stays the child's.

// What a step is, besides a call that must succeed.
const (
	must     = iota
	optional // its error does not matter
	locates  // getcwd: the answer must begin with "/"
	seals    // seccomp: what follows is asked for, even the reading of a clock
	forks    // clone: the caller reports the new number and ends, the new process goes on
	attempts // execve: where the program is not found, the next step tries another place
)

// step is one system call of the child. It holds no pointer that Go knows of.
type step struct {
	trap uintptr
	args [6]uintptr
	kind uintptr
}

// report is what the child tells of a step that is done.
type report struct {
	step  int32 // which one
	errno int32
	value int64 // what the kernel returned
	nanos int64 // how long it took
	stop  bool  // the child does not go on
}

// outside is the errno for a working folder that lies outside of the root: no system call returns it for getcwd.
const outside = int32(unix.EXDEV)

// script is all that the child has to work with. It lies in memory that the parent has made before.
type script struct {
	steps   []step
	pipe    uintptr // where the reports go
	cwd     [unix.PathMax]byte
	action  [16]uint64 // struct sigaction, whose size depends on the architecture
	clock   [2]unix.Timespec
	reports [64]report // those not sent yet: 2560 bytes, which a pipe takes in one piece (PIPE_BUF, pipe(7))
	unsent  int
	sealed  bool // a seccomp filter is loaded
}

// sigsetSize is the size of the kernel's sigset_t: 64 signals.
const sigsetSize = 8

// blockSignals blocks all signals for the calling thread, and returns those that were before.
func blockSignals() (before uint64) {
	all := ^uint64(0)
	setMask(&all, &before)
	return before
}

func setMask(mask, before *uint64) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)),
		uintptr(unsafe.Pointer(before)), sigsetSize, 0, 0)
}

// fork returns the number of the child, in which it never returns. The caller has blocked all signals, and holds
// syscall.ForkLock, so that no other thread has a descriptor half-way to O_CLOEXEC.
//
//go:nosplit
//go:norace
func (s *script) fork() (pid uintptr, errno syscall.Errno) {
	if runtime.GOARCH == "s390x" { // where the first two arguments are swapped
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, 0, uintptr(unix.SIGCHLD), 0, 0, 0, 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	s.resetSignals()
	s.run()
	for {
		exit(127)
	}
}

// resetSignals takes away the handlers of the Go runtime. What is ignored stays ignored, as over execve(2).
//
//go:nosplit
//go:norace
func (s *script) resetSignals() {
	action := uintptr(unsafe.Pointer(&s.action))
	for sig := uintptr(1); sig <= 64; sig++ {
		s.action[0] = 0
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, action, sigsetSize, 0, 0)
		if s.action[0] <= 1 { // SIG_DFL, SIG_IGN
			continue
		}
		for i := range s.action {
			s.action[i] = 0
		}
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, action, 0, sigsetSize, 0, 0)
	}
}

// run makes the calls. It returns when one was refused; the last one, an execve that succeeds, ends all this.
//
//go:nosplit
//go:norace
func (s *script) run() {
	var denied syscall.Errno // a program that was found but may not be executed, as execvp(3) remembers it
	for i := range s.steps {
		st := &s.steps[i]
		if st.kind == seals {
			// A filter knows what the program needs, and nothing of us: it may forbid to write. So success is reported
			// before it is had; a failure is reported again.
			s.note(i, 0, 0, false)
			if !s.send() {
				return
			}
			s.sealed = true
		}
		s.now(0)
		value, _, errno := syscall.RawSyscall6(st.trap, st.args[0], st.args[1], st.args[2], st.args[3], st.args[4], st.args[5])
		s.now(1)
		if st.kind == locates && errno == 0 && s.cwd[0] != '/' {
			errno = syscall.Errno(outside)
		}
		stop := errno != 0 && st.kind != optional
		if st.kind == attempts && (errno == unix.ENOENT || errno == unix.ENOTDIR || errno == unix.EACCES) {
			if errno == unix.EACCES {
				denied = errno
			}
			stop = i+1 == len(s.steps)
			if stop && denied != 0 {
				errno = denied
			}
		}
		if st.kind == seals {
			if errno == 0 {
				continue
			}
			s.sealed = false
		}
		s.note(i, value, errno, stop)
		// Sent together, since each write wakes up the parent; but before this process ends, or becomes two or another.
		send := stop || st.kind == forks || s.unsent == len(s.reports) || i+1 < len(s.steps) && s.steps[i+1].kind >= forks
		if send && !s.send() && !s.sealed || stop {
			return // the one: nobody listens, our maker is dead; but after a filter it may just be that we are not allowed to
		}
		if st.kind == forks && value != 0 {
			for {
				exit(0) // the other one goes on
			}
		}
	}
}

// now reads the wall clock: the others jump when a time namespace is entered, which is one of the steps.
//
//go:nosplit
//go:norace
func (s *script) now(i int) {
	if s.sealed {
		s.clock[i] = unix.Timespec{}
		return
	}
	syscall.RawSyscall6(unix.SYS_CLOCK_GETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&s.clock[i])), 0, 0, 0, 0)
}

// note remembers a step for the next report.
//
//go:nosplit
//go:norace
func (s *script) note(i int, value uintptr, errno syscall.Errno, stop bool) {
	r := &s.reports[s.unsent]
	r.step, r.errno, r.value, r.stop = int32(i), int32(errno), int64(value), stop
	r.nanos = (int64(s.clock[1].Sec)-int64(s.clock[0].Sec))*1e9 + int64(s.clock[1].Nsec) - int64(s.clock[0].Nsec)
	s.unsent++
}

// send reports what was noted, and says whether anybody listens.
//
//go:nosplit
//go:norace
func (s *script) send() bool {
	if s.unsent == 0 {
		return true
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_WRITE, s.pipe, uintptr(unsafe.Pointer(&s.reports)),
		uintptr(s.unsent)*unsafe.Sizeof(report{}), 0, 0, 0)
	s.unsent = 0
	return errno == 0
}

//go:nosplit
//go:norace
func exit(status uintptr) {
	syscall.RawSyscall6(unix.SYS_EXIT_GROUP, status, 0, 0, 0, 0, 0)
}

package pid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forkStart is cmd.Start by a plain fork, for the one case that os/exec cannot do.
//
// os/exec clones with CLONE_VM|CLONE_VFORK: the child borrows the parent's memory until its exec, which saves copying the
// page tables. But where a time namespace waits for the thread's children, kernels before 6.3 refuse to share memory
// with one (EINVAL): the page from which clock_gettime(2) reads without a system call belongs to the memory, and would be
// the wrong one for one of the two. A fork copies, and so may enter.
//
// The caller's thread must be locked. Only what nslab's own children need is supported: files, environment,
// Cloneflags, Pdeathsig.
func forkStart(cmd *exec.Cmd) (err error) {
	var keep []io.Closer // what the child has got copies of
	defer func() {
		for _, c := range keep {
			err = errors.Join(err, c.Close())
		}
	}()
	reportR, reportW, err := os.Pipe() // closed by a successful exec; else the child writes why there was none
	if err != nil {
		return fmt.Errorf("pipe for the child's report: %w", err)
	}
	keep = append(keep, reportR)
	c, err := newChild(cmd, &keep)
	if err != nil {
		return errors.Join(err, reportW.Close())
	}
	c.report = reportW.Fd()

	syscall.ForkLock.Lock() // nobody opens descriptors that the child would inherit
	// No signal may be handled in the child: Go's handler needs a runtime, and the child has none.
	all := ^uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&c.mask)), 8, 0, 0)
	pid, errno := c.fork()
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0)
	syscall.ForkLock.Unlock()

	if err := reportW.Close(); err != nil {
		return fmt.Errorf("close the child's report: %w", err)
	}
	if errno != 0 {
		return errno
	}
	if cmd.Process, err = os.FindProcess(int(pid)); err != nil {
		return fmt.Errorf("find the child: %w", err)
	}
	var reason [8]byte
	if n, _ := io.ReadFull(reportR, reason[:]); n > 0 {
		cmd.Process.Wait()
		cmd.Process = nil
		return syscall.Errno(binary.NativeEndian.Uint64(reason[:]))
	}
	return nil
}

// child is all that the forked child needs, made before the fork: afterwards nothing can be allocated.
type child struct {
	flags      uintptr
	path       *byte
	argv, envv []*byte
	files      []uintptr // to become descriptors 0, 1, 2 …
	report     uintptr
	parent     uintptr // who getppid(2) must name
	deathSig   uintptr
	mask       uint64 // the signal mask to have after the exec
	reason     uint64
}

// newChild prepares the child. Descriptors are copied to numbers above those that they shall have, so that none is
// overwritten before its turn; *keep gets what to close after the fork.
func newChild(cmd *exec.Cmd, keep *[]io.Closer) (*child, error) {
	attr := cmd.SysProcAttr
	c := &child{flags: attr.Cloneflags | uintptr(unix.SIGCHLD), deathSig: uintptr(attr.Pdeathsig), parent: uintptr(os.Getpid())}
	if attr.Cloneflags&unix.CLONE_NEWPID != 0 {
		c.parent = 0 // its parent is in another PID namespace, and has no number there
	}
	var err1, err2, err3 error
	c.path, err1 = syscall.BytePtrFromString(cmd.Path)
	c.argv, err2 = syscall.SlicePtrFromStrings(cmd.Args)
	c.envv, err3 = syscall.SlicePtrFromStrings(cmd.Environ())
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	var files []*os.File
	for _, stream := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		f, ok := stream.(*os.File)
		if !ok {
			if stream != nil {
				return nil, fmt.Errorf("start %s: standard streams must be files", cmd.Path)
			}
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			*keep = append(*keep, null)
			f = null
		}
		files = append(files, f)
	}
	files = append(files, cmd.ExtraFiles...)
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, len(files))
		if err != nil {
			return nil, fmt.Errorf("copy descriptor %d: %w", f.Fd(), err)
		}
		*keep = append(*keep, os.NewFile(uintptr(fd), f.Name()))
		c.files = append(c.files, uintptr(fd))
	}
	return c, nil
}

// fork forks, and in the child executes the program.
//
// In the child nothing of Go's runtime works, since its other threads are not there. So nothing below may need a larger
// stack (nosplit), allocate, or be preempted: raw system calls only, on what was prepared. Package syscall does it alike.
//
//go:nosplit
//go:norace
func (c *child) fork() (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, c.flags, 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	// The signal first, the question after it: a parent that died in between has not left a signal.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, c.deathSig, 0, 0, 0, 0)
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != c.parent {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
	for i := 0; i < len(c.files) && errno == 0; i++ {
		_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, c.files[i], uintptr(i), 0) // and so not close-on-exec
	}
	if errno == 0 {
		// Last, since a signal may come from here on.
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0)
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)),
			uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envv[0])))
	}
	c.reason = uint64(errno)
	syscall.RawSyscall(unix.SYS_WRITE, c.report, uintptr(unsafe.Pointer(&c.reason)), 8)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

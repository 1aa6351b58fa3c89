// Package pid starts a process that believes it is alone.
//
// The idea: a namespace is nothing but an extra flag to clone(2). The child of a clone with CLONE_NEWPID is number 1 in a
// PID namespace of its own; for everybody outside it stays an ordinary process with an ordinary number. The same goes
// for host name (CLONE_NEWUTS), System V IPC (CLONE_NEWIPC), network (CLONE_NEWNET), users (CLONE_NEWUSER), mounts
// (CLONE_NEWNS), control groups (CLONE_NEWCGROUP) and clocks (CLONE_NEWTIME).
//
// The interface: a [Config] says which namespaces; [Command] turns it into an *exec.Cmd without touching the kernel;
// [Start] clones. [MountProc] gives the new PID namespace the /proc that shows it, [Supervise] is an init that does what
// PID 1 owes its children.
//
// The limits: Go cannot run code between clone and exec, since its runtime needs threads that a clone does not copy. So
// the child is nslab itself once more, entered at a function that was registered with github.com/moby/sys/reexec. Joining
// namespaces that exist already is lab 06.
//
// See clone(2), namespaces(7), pid_namespaces(7), user_namespaces(7), time_namespaces(7).
package pid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Config says in which namespaces a process is to start.
type Config struct {
	// Namespaces holds CLONE_NEW* flags. A namespace whose flag is not set is shared with the parent.
	Namespaces uintptr

	// UIDMappings and GIDMappings are what CLONE_NEWUSER maps; the process then starts as 0:0 inside.
	// An ordinary user may map only its own ids.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// Setgroups lets the new user namespace change its supplementary groups. It needs CAP_SETGID outside: else a user
	// could drop a group that a file's mode denies access to. See user_namespaces(7), CVE-2014-8989.
	Setgroups bool

	// TimeOffsets are added to "monotonic" and "boottime" in a new time namespace (CLONE_NEWTIME).
	TimeOffsets map[string]specs.LinuxTimeOffset

	// Cgroup is an open folder of a v2 control group in which the process is to be born (CLONE_INTO_CGROUP). To move it
	// later would make the kernel stop every fork on the machine until an RCU grace period is over: milliseconds.
	Cgroup *os.File

	// Before is called on the thread that clones, right before it does. Whatever namespaces the thread is in by then (for
	// its children: a PID namespace can be entered in no other way), the process is born there. The thread is not
	// used for anything else afterwards.
	Before func(context.Context) error
}

// Command builds the command that enters nslab again at entry (see reexec.Register) in the namespaces of cfg.
// It is pure: nothing happens before [Start].
func Command(cfg Config, entry string, args ...string) *exec.Cmd {
	cmd := reexec.Command(append([]string{entry}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// clone(2) has no room for CLONE_NEWTIME: its lowest byte is the exit signal. Start unshares it instead.
		Cloneflags: cfg.Namespaces &^ unix.CLONE_NEWTIME,

		// Whoever kills nslab kills the child with it, so that no process is left that nobody remembers.
		Pdeathsig: syscall.SIGKILL,
	}
	if cfg.Cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cfg.Cgroup.Fd())
	}
	if cfg.Namespaces&unix.CLONE_NEWUSER != 0 {
		attr := cmd.SysProcAttr
		attr.UidMappings, attr.GidMappings = idMap(cfg.UIDMappings), idMap(cfg.GIDMappings)
		attr.GidMappingsEnableSetgroups = cfg.Setgroups // where not, "deny" is written before the gid map
		attr.Credential = &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: !cfg.Setgroups}
	}
	return cmd
}

// Process is a process that was started by [Start].
type Process struct {
	Pid  int // its number in the caller's PID namespace
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start clones cmd, which [Command] built from the same cfg, into its namespaces.
//
// A child with a parent-death signal dies with the *thread* that made it, not with the process. So the thread is kept
// for as long as the child lives: it does nothing but wait for it.
func Start(ctx context.Context, cfg Config, cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if cfg.Namespaces&unix.CLONE_NEWTIME == 0 && cfg.Before == nil {
			defer runtime.UnlockOSThread()
		} // else the thread is in another namespace now, or its children are, and must not be used again: it ends here.
		err := start(ctx, cfg, cmd)
		started <- err
		if err != nil {
			return
		}
		awaitEnd(cmd.Process)
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.Pid = cmd.Process.Pid
	return p, nil
}

// awaitEnd returns when the process has ended, or at once where that cannot be seen. waitid(2), which comes next, would wait,
// too; but in a call, and Go notices only after a while that the processor it has given this thread is free for others. A
// pidfd is a file like a socket, for which its poller waits.
func awaitEnd(process *os.Process) {
	var pidfd *os.File
	err := process.WithHandle(func(fd uintptr) {
		copied, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return
		}
		unix.SetNonblock(copied, true)
		pidfd = os.NewFile(uintptr(copied), "pidfd")
	})
	if err != nil || pidfd == nil {
		return
	}
	defer pidfd.Close()
	if raw, err := pidfd.SyscallConn(); err == nil {
		raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
	}
}

// start runs on the thread that stays.
func start(ctx context.Context, cfg Config, cmd *exec.Cmd) error {
	if cfg.Namespaces&unix.CLONE_NEWTIME != 0 {
		if err := unshareTime(ctx, cfg.TimeOffsets); err != nil {
			return err
		}
	}
	if cfg.Before != nil {
		if err := cfg.Before(ctx); err != nil {
			return err
		}
	}
	spawn := cmd.Start
	if cfg.Namespaces&unix.CLONE_NEWTIME != 0 && cfg.Namespaces&unix.CLONE_NEWUSER == 0 {
		spawn = func() error { return forkStart(cmd) } // with a user namespace os/exec forks by itself
	}
	flags := CloneFlags(cmd.SysProcAttr.Cloneflags)
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("clone(%s) = %s", flags, pidOf(cmd)) },
		func() error { return errnoOf(spawn()) })
	if err != nil {
		return &Error{Op: "clone", Flags: cmd.SysProcAttr.Cloneflags, Err: err}
	}
	for _, m := range mapFiles(cmd) { // written by the Go runtime, between clone and exec, while the child waits
		trace.Call(ctx, 0, func() string { return m }, func() error { return nil })
	}
	return nil
}

// Wait returns once the process has ended, with what os/exec makes of its status, or when ctx is done.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// State is how the process ended; nil while it has not.
func (p *Process) State() *os.ProcessState {
	select {
	case <-p.done:
		return p.cmd.ProcessState
	default:
		return nil
	}
}

// Signal sends a signal from outside, through the pidfd that os.Process holds, so that it cannot hit a stranger who got
// the number later. A process that has ended is no error.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	var pidfd uintptr
	err := trace.Call(ctx, 1,
		func() string {
			return fmt.Sprintf("pidfd_send_signal(%d<pidfd of %d>, %s)", pidfd, p.Pid, unix.SignalName(s))
		},
		func() (err error) {
			opened := p.cmd.Process.WithHandle(func(fd uintptr) {
				pidfd = fd
				err = unix.PidfdSendSignal(int(fd), s, nil, 0)
			})
			return errors.Join(opened, err)
		})
	if err == nil || errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("send %s to process %d: %w", unix.SignalName(s), p.Pid, err)
}

// Kill ends the process and waits until it is gone; if it is PID 1 of a namespace, everything in there goes with it.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", p.Pid, context.Cause(ctx))
	}
}

// namespaceFlags in the order in which namespaces(7) lists them.
var namespaceFlags = []struct {
	flag uintptr
	name string
}{
	{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
	{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{unix.CLONE_NEWNS, "CLONE_NEWNS"},
	{unix.CLONE_NEWPID, "CLONE_NEWPID"},
	{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
	{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
}

// CloneFlags writes flags as the header files do: "CLONE_NEWPID|CLONE_NEWUTS|SIGCHLD". The Go runtime adds CLONE_VFORK
// and CLONE_VM, so that nothing is copied that the exec throws away at once, and CLONE_PIDFD; strace shows them too.
func CloneFlags(flags uintptr) string {
	var names []string
	for _, f := range namespaceFlags {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(append(names, "SIGCHLD"), "|")
}

func idMap(mappings []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	for _, x := range mappings {
		m = append(m, syscall.SysProcIDMap{
			ContainerID: int(x.ContainerID), HostID: int(x.HostID), Size: int(x.Size),
		})
	}
	return m
}

// mapFiles describes the id map files of a started process.
func mapFiles(cmd *exec.Cmd) []string {
	attr := cmd.SysProcAttr
	write := func(file string, maps []syscall.SysProcIDMap) (lines []string) {
		for _, m := range maps {
			lines = append(lines, fmt.Sprintf("write \"%d %d %d\" → /proc/%d/%s",
				m.ContainerID, m.HostID, m.Size, cmd.Process.Pid, file))
		}
		return lines
	}
	return slices.Concat(write("uid_map", attr.UidMappings), write("gid_map", attr.GidMappings))
}

func pidOf(cmd *exec.Cmd) string {
	if cmd.Process == nil {
		return "-1"
	}
	return fmt.Sprint(cmd.Process.Pid)
}

// errnoOf strips os/exec's "fork/exec /proc/self/exe: " where there is an errno underneath.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

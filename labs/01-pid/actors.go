package pid

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do. Each function is one system call, or calls the stage.
func init() {
	actor.Register("01-getpid", func(context.Context, []string) (string, error) {
		return strconv.Itoa(os.Getpid()), nil
	})
	actor.Register("01-proc", procSeen)
	actor.Register("01-mount-proc", func(ctx context.Context, _ []string) (string, error) {
		return "", MountProc(ctx, "/proc")
	})
	actor.Register("01-kill", kill)
	actor.Register("01-sethostname", setHostname)
	actor.Register("01-hostname", func(context.Context, []string) (string, error) { return os.Hostname() })
	actor.Register("01-shmget", shmGet)
	actor.Register("01-segments", func(context.Context, []string) (string, error) {
		n, err := segments("/proc/sysvipc/shm")
		return strconv.Itoa(n), err
	})
	actor.Register("01-link-up", linkUp)
	actor.Register("01-getuid", func(context.Context, []string) (string, error) {
		return strconv.Itoa(os.Getuid()), nil
	})
	actor.Register("01-uptime", uptime)
	actor.Register("01-unshare-cgroup", unshareCgroup)
	actor.Register("01-spawn", spawn)
	actor.Register("01-exec", execProgram)
	actor.Register("01-supervise", supervise)
}

// procSeen tells what the /proc it sees says: the number behind /proc/self, and how many processes there are.
func procSeen(context.Context, []string) (string, error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return "", err
	}
	pids, err := evidence.Pids("/proc")
	return fmt.Sprintf("%s %d", self, len(pids)), err
}

func kill(ctx context.Context, args []string) (string, error) {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	return "", trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("kill(%d, 0)", pid) },
		func() error { return unix.Kill(pid, 0) })
}

func setHostname(ctx context.Context, args []string) (string, error) {
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("sethostname(%q)", args[0]) },
		func() error { return unix.Sethostname([]byte(args[0])) })
	return "", err
}

// shmGet makes a System V shared memory segment, which lives until its IPC namespace does.
func shmGet(ctx context.Context, _ []string) (string, error) {
	const size = 4096
	var id int
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("shmget(IPC_PRIVATE, %d, IPC_CREAT|0600) = %d", size, id) },
		func() (err error) {
			id, err = unix.SysvShmGet(unix.IPC_PRIVATE, size, unix.IPC_CREAT|0o600)
			return err
		})
	return strconv.Itoa(id), err
}

// linkUp asks the kernel whether a network device is "up" or "down".
func linkUp(_ context.Context, args []string) (string, error) {
	link, err := net.InterfaceByName(args[0])
	if err != nil {
		return "", err
	}
	if link.Flags&net.FlagUp != 0 {
		return "up", nil
	}
	return "down", nil
}

// uptime tells the seconds since boot and since 1970, as the clocks of this time namespace show them.
func uptime(ctx context.Context, _ []string) (string, error) {
	var boot, wall unix.Timespec
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("clock_gettime(CLOCK_BOOTTIME) = %d s", boot.Sec) },
		func() error { return unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) })
	if err != nil {
		return "", err
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("clock_gettime(CLOCK_REALTIME) = %d s", wall.Sec) },
		func() error { return unix.ClockGettime(unix.CLOCK_REALTIME, &wall) })
	return fmt.Sprintf("%d %d", boot.Sec, wall.Sec), err
}

// unshareCgroup makes the control group that the process is in the root of all it can see.
func unshareCgroup(ctx context.Context, _ []string) (string, error) {
	err := trace.Call(ctx, 0,
		func() string { return "unshare(CLONE_NEWCGROUP)" },
		func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) })
	if err != nil {
		return "", &Error{Op: "unshare", Flags: unix.CLONE_NEWCGROUP, Err: err}
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	return string(data), err
}

// spawn starts a program as a child and never waits for it.
func spawn(ctx context.Context, args []string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fork, execve(%q) = %s", strings.Join(args, " "), pidOf(cmd)) }, cmd.Start)
	if err != nil {
		return "", err
	}
	return strconv.Itoa(cmd.Process.Pid), cmd.Process.Release()
}

// execProgram turns the actor into another program, under the same number: it does not return.
func execProgram(_ context.Context, args []string) (string, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return "", err
	}
	return "", syscall.Exec(path, args, os.Environ())
}

// supervise turns the actor into an init for a program; it does not return.
func supervise(ctx context.Context, args []string) (string, error) {
	status, err := Supervise(ctx, args[0], args, nil)
	if err != nil {
		return "", err
	}
	os.Exit(status)
	return "", nil
}

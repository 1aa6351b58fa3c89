package pid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Supervise runs argv as a child and does for it what PID 1 owes everybody in its namespace. It is what a runtime puts in
// front of the user's program for `--init`.
//
// The kernel gives PID 1 two duties and one privilege. Every orphan becomes its child, so it must wait for them, or each
// stays a zombie. When it ends, the kernel kills all others, so it must not end before its program. And a signal whose
// default action would kill is not even delivered to it unless it has installed a handler (SIGKILL and SIGSTOP from the
// outside excepted); few programs expect that, so an init catches what it can and passes it on. See
// pid_namespaces(7), signal(7).
//
// path is the program, found already or to be looked for in PATH; argv are its arguments, from its own name on. started, if it
// is not nil, is called when the program runs: from then on no signal is lost.
//
// It returns the program's exit status the way a shell does: its own, or 128 plus the signal that killed it. Children
// that outlive the program are the kernel's to kill, when the caller, PID 1, exits.
func Supervise(ctx context.Context, path string, argv []string, started func()) (status int, err error) {
	// Before the program starts: a signal that comes in between must wait for it, not be lost.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)

	cmd := exec.Command(path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := trace.Call(ctx, 0, func() string { return fmt.Sprintf("fork, execve(%q) = %s", argv, pidOf(cmd)) }, cmd.Start); err != nil {
		return 0, fmt.Errorf("01-pid: start %s: %w", argv[0], errnoOf(err))
	}
	if started != nil {
		started()
	}
	program := cmd.Process.Pid
	for {
		if status, ended, err := reap(program); ended || err != nil {
			return status, err
		}
		switch s := <-signals; s {
		case syscall.SIGCHLD: // somebody has ended: reap
		case syscall.SIGURG: // the Go runtime sends it to itself, to preempt goroutines
		default:
			err := unix.Kill(program, s.(syscall.Signal))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return 0, fmt.Errorf("01-pid: pass %v on to process %d: %w", s, program, err)
			}
		}
	}
}

// reap waits for every child that has ended: one SIGCHLD may stand for several. It tells whether the program was among
// them, and its status.
func reap(program int) (status int, ended bool, err error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return 0, ended, fmt.Errorf("01-pid: wait for process %d: %w", program, err)
		case err != nil:
			return 0, false, fmt.Errorf("01-pid: wait for children: %w", err)
		case pid == 0:
			return 0, false, nil
		case pid == program && ws.Signaled():
			return 128 + int(ws.Signal()), true, nil
		case pid == program:
			return ws.ExitStatus(), true, nil
		}
	}
}

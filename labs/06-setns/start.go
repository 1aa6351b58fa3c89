package setns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Process is a program that was started by [Start].
type Process struct {
	Pid    int      // its number in our PID namespace
	pidfd  *os.File // what signals go through
	done   chan struct{}
	status syscall.WaitStatus
}

// Start makes a child that enters what cfg names and executes the program there. It returns when the program runs, or
// when the kernel has refused one of the calls that lead to it; then nothing of the child is left.
//
// A child with a parent-death signal dies with the *thread* that made it. So the thread is kept for as long as the child
// lives; it does nothing but wait for it.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.start(ctx, cfg)
		started <- err
		if err != nil {
			return
		}
		p.status = reap(p.Pid)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// start runs on the thread that stays.
func (p *Process) start(ctx context.Context, cfg Config) (err error) {
	pl := &plan{script: &script{}}
	defer func() { err = errors.Join(err, pl.close()) }()
	reports, err := pl.pipe(len(cfg.Streams))
	if err != nil {
		return err
	}
	defer reports.Close()
	if err := pl.write(ctx, cfg); err != nil {
		return err
	}
	if err := markDescriptors(); err != nil {
		return err
	}
	child, err := pl.launch(ctx)
	if err != nil {
		return err
	}
	moved, err := pl.listen(ctx, reports)
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), abandon(child, moved))
	}
	if moved > 0 { // it has handed over to a process that is in the PID namespace
		reap(child)
		child = moved
	}
	if err != nil {
		status := reap(child) // it has ended, and leaves no zombie
		if errors.Is(err, errSilence) {
			err = fmt.Errorf("06-setns: process %d, which was to execute %s: %s", child, cfg.Path, statusText(status))
		}
		return err
	}
	// Nobody else waits for it, so the number is still its own.
	fd, err := unix.PidfdOpen(child, 0)
	if err != nil {
		return errors.Join(&Error{Op: "pidfd_open", What: fmt.Sprintf("process %d", child), Err: err}, abandon(child, 0))
	}
	p.Pid, p.pidfd = child, os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", child))
	return nil
}

// pipe makes the pipe for the reports, beyond the descriptors that are the program's. The child closes its own copy of
// the reading end first of all: only then does a write fail once its maker is dead.
func (p *plan) pipe(streams int) (*os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, &Error{Op: "pipe2", Err: err}
	}
	for i, fd := range fds {
		high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, max(streams, 3))
		unix.Close(fd)
		if err != nil {
			return nil, &Error{Op: "fcntl", Err: err}
		}
		fds[i] = high
	}
	p.open = append(p.open, os.NewFile(uintptr(fds[1]), "reports"))
	p.script.pipe = uintptr(fds[1])
	p.add(must, planned{op: "close"}, unix.SYS_CLOSE, uintptr(fds[0]))
	return os.NewFile(uintptr(fds[0]), "reports"), nil
}

// launch forks. From the first line to the last no other goroutine's descriptor may leak into the child (ForkLock), and
// no signal may reach it.
func (p *plan) launch(ctx context.Context) (child int, err error) {
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("clone(SIGCHLD) = %d", child) },
		func() error {
			syscall.ForkLock.Lock()
			mask := blockSignals()
			pid, errno := p.script.fork()
			setMask(&mask, nil)
			syscall.ForkLock.Unlock()
			child = int(pid)
			if errno != 0 {
				child = -1
				return errno
			}
			return nil
		})
	runtime.KeepAlive(p)
	if err != nil {
		return 0, &Error{Op: "clone", Err: err}
	}
	// Our own writing end must go, or the reports never end. It is the first file that was opened.
	err = p.open[0].Close()
	p.open = p.open[1:]
	return child, err
}

// errSilence is a child that ended without having said why.
var errSilence = errors.New("no report")

// listen waits for the reports, and replays them in ctx. It returns the number of the process that has taken over, 0 if
// there is none.
func (p *plan) listen(ctx context.Context, pipe *os.File) (moved int, err error) {
	reports := slices.DeleteFunc(collect(ctx, pipe), p.forged)
	// Two processes may have written: what the one did before the clone may come after what the other did then.
	slices.SortStableFunc(reports, func(a, b report) int { return int(a.step - b.step) })
	next := 0
	for i, r := range reports {
		next = int(r.step) + 1
		if i+1 < len(reports) && reports[i+1].step == r.step && p.script.steps[r.step].kind == seals {
			continue // it was not had after all
		}
		if p.script.steps[r.step].kind == forks && r.errno == 0 {
			if r.value == 0 {
				continue // the new process's view of the clone that made it
			}
			moved = int(r.value)
		}
		if refused := p.replay(ctx, r); r.stop {
			return moved, refused
		}
	}
	if next < p.first || next == len(p.calls) {
		return moved, errSilence
	}
	p.replay(ctx, report{step: int32(next)}) // an execve that works reports nothing: it is the step after the last report
	return moved, nil
}

// forged tells whether a report cannot be the child's. Who has CAP_SYS_PTRACE in the PID namespace can write into the pipe,
// too, and name any process of the machine as the one to be waited for and signalled. The kernel knows our children.
func (p *plan) forged(r report) bool {
	if r.step < 0 || int(r.step) >= len(p.calls) {
		return true
	}
	if p.script.steps[r.step].kind != forks || r.errno != 0 || r.value == 0 {
		return false
	}
	return unix.Waitid(unix.P_PID, int(r.value), nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil
}

// collect reads until all writing ends are closed, by execve or by death, or until ctx is done: a child in a frozen
// control group never reports.
func collect(ctx context.Context, pipe *os.File) []report {
	const size = int(unsafe.Sizeof(report{}))
	var data []byte
	buf := make([]byte, 64*size)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(pipe.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 100); n == 0 || err == unix.EINTR {
			continue
		}
		n, err := pipe.Read(buf)
		if n == 0 || err != nil {
			break
		}
		data = append(data, buf[:n]...)
	}
	var reports []report
	for ; len(data) >= size; data = data[size:] {
		reports = append(reports, *(*report)(unsafe.Pointer(&data[0])))
	}
	return reports
}

// replay hands a call of the child to whoever listens to this process's calls, and returns the kernel's refusal.
func (p *plan) replay(ctx context.Context, r report) (refused error) {
	c := p.calls[r.step]
	record := trace.Record{Text: c.text, At: c.at, Took: time.Duration(r.nanos)}
	if p.script.steps[r.step].kind == forks && r.value > 0 {
		record.Text += " = " + strconv.FormatInt(r.value, 10)
	}
	if r.errno != 0 {
		e := &Error{Op: c.op, What: c.what, Flags: c.flags, Threads: 1, Err: syscall.Errno(r.errno)}
		if p.script.steps[r.step].kind == locates && r.errno == outside {
			e.Err = ErrOutside
		}
		record.Err, refused = e.Err.Error(), e
	}
	if record.Text != "" { // but for the plumbing
		trace.Replay(ctx, record)
	}
	return refused
}

// markDescriptors marks what we have inherited without O_CLOEXEC, where the kernel has no call to do it in the child.
func markDescriptors() error {
	const nowhere = 1 << 30
	if unix.CloseRange(nowhere, nowhere, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("06-setns: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// abandon ends the child of a start that was given up. It may be frozen, so nobody here waits for its end.
func abandon(child, moved int) error {
	var errs []error
	for _, pid := range []int{moved, child} {
		if pid > 0 {
			errs = append(errs, unix.Kill(pid, unix.SIGKILL)) // not waited for yet, so the number is still its own
			go reap(pid)
		}
	}
	return errors.Join(errs...)
}

// reap waits for a child's end.
func reap(pid int) (status syscall.WaitStatus) {
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return status
		}
	}
}

// statusText names the end of a process.
func statusText(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return "ended with status " + strconv.Itoa(s.ExitStatus())
}

// Wait returns how the program has ended, once it has, or when ctx is done.
func (p *Process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Signal sends a signal, through a pidfd, so that it cannot hit a stranger who got the number later. A program that has
// ended is no error.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("pidfd_send_signal(%s, %s)", shown(p.pidfd), unix.SignalName(s)) },
		func() error { return unix.PidfdSendSignal(int(p.pidfd.Fd()), s, nil, 0) })
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("06-setns: send %s to process %d: %w", unix.SignalName(s), p.Pid, err)
	}
	return nil
}

// Kill ends the program and waits until it is gone.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	_, err := p.Wait(ctx)
	return err
}

// Close lets go of the program, which runs on; signals cannot be sent any more.
func (p *Process) Close() error { return p.pidfd.Close() }

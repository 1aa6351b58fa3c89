package setns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
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
	pl := &plan{traced: trace.On(ctx)}
	defer func() { err = errors.Join(err, pl.close()) }()
	if err := pl.write(ctx, cfg); err != nil {
		return err
	}
	child, err := pl.launch(ctx, cfg)
	if err != nil {
		return err
	}
	defer child.Close()
	moved, err := pl.listen(ctx, child)
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), abandon(child.Pid, moved))
	}
	p.Pid = child.Pid
	if moved > 0 { // it has handed over to a process that is in the PID namespace
		reap(child.Pid)
		p.Pid = moved
	}
	if err != nil {
		status := reap(p.Pid) // it has ended, and leaves no zombie
		if errors.Is(err, ErrSilence) {
			err = fmt.Errorf("06-setns: process %d, which was to execute %s: %s", p.Pid, cfg.Path, statusText(status))
		}
		return err
	}
	// Nobody else waits for it, so the number is still its own.
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return errors.Join(&Error{Op: "pidfd_open", What: fmt.Sprintf("process %d", p.Pid), Err: err}, abandon(p.Pid, 0))
	}
	p.pidfd = os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", p.Pid))
	return nil
}

// Become lets a walker execute the program of cfg that is where it is to be already: as [Start], but for the clone and what is to be
// entered. The walker has no descriptors but its socket and the first three, which are replaced. Once this returns without an
// error, it is the program.
func Become(ctx context.Context, w *walker.Walker, cfg Config) (err error) {
	pl := &plan{traced: trace.On(ctx)}
	defer func() { err = errors.Join(err, pl.close()) }()
	// How many files there are to be had is known when all is written, but that they come first, now.
	pl.callers([]Call{Take(0)})
	for i, f := range cfg.Streams {
		pl.add(walker.Must, pl.call("dup3", f.Name(), "dup3(%s, %d, 0)", pl.shown(f), i), unix.SYS_DUP3, pl.fd(f), uintptr(i), 0)
	}
	if err := pl.write(ctx, cfg); err != nil {
		return err
	}
	pl.list.Steps[0].Args[1] = pl.list.Put(walker.Take(len(pl.files)))
	if err := errors.Join(w.Tell(&pl.list), w.Give(pl.files...)); err != nil && !errors.Is(err, unix.EPIPE) {
		return err
	}
	_, err = pl.listen(ctx, w)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Take is the call with which a walker takes over files from its maker. From then on it has them by the lowest numbers that are free.
func Take(files int) Call {
	return Call{Trap: unix.SYS_RECVMSG, Args: [6]uintptr{walker.Socket, 0, unix.MSG_CMSG_CLOEXEC}, Data: [6]*walker.Data{1: walker.Take(files)}, Op: "recvmsg"}
}

// Send is the call with which it sends back one, by its number.
func Send(fd int) Call {
	return Call{Trap: unix.SYS_SENDMSG, Args: [6]uintptr{walker.Socket}, Data: [6]*walker.Data{1: walker.Send(fd)}, Op: "sendmsg"}
}

// Errand is calls that a walker is about to make, see [Ask].
type Errand struct {
	pl *plan
	w  *walker.Walker
}

// Ask has a walker make calls. files are for the [Take] among them.
func Ask(ctx context.Context, w *walker.Walker, calls []Call, files ...*os.File) (*Errand, error) {
	pl := &plan{traced: trace.On(ctx)}
	pl.callers(calls)
	err := w.Tell(&pl.list)
	if err == nil && len(files) > 0 {
		err = w.Give(files...)
	}
	if err != nil && !errors.Is(err, unix.EPIPE) { // then it has ended, and Wait says so
		return nil, err
	}
	return &Errand{pl, w}, nil
}

// Wait returns when the calls are made, with the files that were sent back, or the first that was refused as an [*Error].
func (e *Errand) Wait(ctx context.Context) (files []*os.File, err error) {
	for done := 0; done < len(e.pl.calls); {
		reports, more, err := e.w.Hear(ctx)
		files = append(files, more...)
		if errors.Is(err, io.EOF) {
			err = ErrSilence
		}
		for _, r := range reports {
			if done++; err == nil && !e.pl.forged(r) {
				if refused := e.pl.replay(ctx, r); r.Stop {
					err = refused
				}
			}
		}
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// launch starts a walker and gives it the list. All signals are blocked in it, until the list says otherwise.
func (p *plan) launch(ctx context.Context, cfg Config) (child *walker.Walker, err error) {
	streams := cfg.Streams
	if streams == nil {
		streams = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	}
	attr := walker.Attr{Streams: streams, Files: p.files, Signals: walker.AllSignals}
	fork := "fork"
	if p.born != nil {
		attr.Sys = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.born.Fd())}
		fork = fmt.Sprintf("clone3({flags=CLONE_INTO_CGROUP, cgroup=%s})", shown(p.born))
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("%s, execve([%s])", fork, walker.Name) },
		func() (err error) {
			child, err = walker.Start(attr)
			return err
		})
	if err != nil {
		e := &Error{Op: "clone", Err: err}
		if p.born != nil {
			e.What = "into " + p.born.Name()
		}
		return nil, e
	}
	if err := child.Tell(&p.list); err != nil && !errors.Is(err, unix.EPIPE) { // then what it has to report says more
		return nil, errors.Join(err, abandon(child.Pid, 0), child.Close())
	}
	return child, p.close()
}

// ErrSilence is a child that ended without having said why.
var ErrSilence = errors.New("06-setns: the process ended without a word")

// listen waits for the reports, and replays them in ctx. It returns the number of the process that has taken over, 0 if
// there is none.
func (p *plan) listen(ctx context.Context, child *walker.Walker) (moved int, err error) {
	reports := slices.DeleteFunc(collect(ctx, child), p.forged)
	// Two processes may have written: what the one did before the clone may come after what the other did then.
	slices.SortStableFunc(reports, func(a, b walker.Report) int { return int(a.Step - b.Step) })
	next := 0
	for i, r := range reports {
		next = int(r.Step) + 1
		if i+1 < len(reports) && reports[i+1].Step == r.Step && p.list.Steps[r.Step].Kind == walker.Seals {
			continue // it was not had after all
		}
		if p.list.Steps[r.Step].Kind == walker.Forks && r.Errno == 0 {
			if r.Value == 0 {
				continue // the new process's view of the clone that made it
			}
			moved = int(r.Value)
		}
		if refused := p.replay(ctx, r); r.Stop {
			return moved, refused
		}
	}
	if next < p.first || next == len(p.calls) {
		return moved, ErrSilence
	}
	p.replay(ctx, walker.Report{Step: int32(next)}) // an execve that works reports nothing: it is the step after the last report
	return moved, nil
}

// forged tells whether a report cannot be the child's. Who has CAP_SYS_PTRACE in the PID namespace can write into the socket,
// too, and name any process of the machine as the one to be waited for and signalled. The kernel knows our children.
func (p *plan) forged(r walker.Report) bool {
	if r.Step < 0 || int(r.Step) >= len(p.calls) {
		return true
	}
	if p.list.Steps[r.Step].Kind != walker.Forks || r.Errno != 0 || r.Value == 0 {
		return false
	}
	return unix.Waitid(unix.P_PID, int(r.Value), nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil
}

// collect listens until the child has become the program, or has ended, or ctx is done.
func collect(ctx context.Context, child *walker.Walker) (reports []walker.Report) {
	for {
		more, files, err := child.Hear(ctx)
		closeAll(files) // which nobody has asked for: see forged
		if err != nil {
			return reports
		}
		reports = append(reports, more...)
	}
}

// replay hands a call of the child to whoever listens to this process's calls, and returns the kernel's refusal.
func (p *plan) replay(ctx context.Context, r walker.Report) (refused error) {
	c := p.calls[r.Step]
	record := trace.Record{Text: c.text, At: c.at, Took: time.Duration(r.Nanos)}
	if p.list.Steps[r.Step].Kind == walker.Forks && r.Value > 0 {
		record.Text += " = " + strconv.FormatInt(r.Value, 10)
	}
	if r.Errno != 0 {
		e := &Error{Op: c.op, What: c.what, Flags: c.flags, Threads: 1, Err: syscall.Errno(r.Errno)}
		if p.list.Steps[r.Step].Kind == walker.Locates && r.Errno == int32(walker.Outside) {
			e.Err = ErrOutside
		}
		record.Err, refused = e.Err.Error(), e
	}
	if record.Text != "" { // but for the plumbing
		trace.Replay(ctx, record)
	}
	return refused
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

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/calm"
	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/headstart"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/wire"
)

// lockMonitor takes the lock that the monitor is going to hold: it is passed on as an open file, so there is no moment in
// which nobody has it. One that is held still belongs to the monitor of the last run, which is about to end.
func (c *Container) lockMonitor(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lockFile(ctx, filepath.Join(c.RunDir(), monitor.LockFile))
}

// launched is a monitor that was started, seen from here.
type launched struct {
	reports  wire.Conn
	attached *os.File
	said     *os.File // its standard error, in memory
}

func (m *launched) close() {
	m.reports.Close()
	m.said.Close()
	if m.attached != nil {
		m.attached.Close()
	}
}

// launch starts a monitor, and tells it as much as it needs to let the container's init start up: in a session of its own, so
// that neither Ctrl-C nor the end of the terminal reaches it.
func (c *Container) launch(ctx context.Context, o StartOptions) (err error) {
	outline, err := c.outline(ctx)
	if err != nil {
		return err
	}
	lock, err := c.lockMonitor(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := c.takeNetworks(ctx, o.Warn); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.leaveNetworks(context.WithoutCancel(ctx)))
		}
	}()
	m, err := c.engine.startMonitor(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	// The locks go over as open files, so there is no moment in which nobody has them.
	files := []*os.File{lock, c.lock}
	if o.Attach != nil {
		its, mine, err := stream.Pair()
		if err != nil {
			return err
		}
		defer its.Close()
		m.attached = mine
		files = append(files, its)
	}
	told := monitor.Outline{
		Container: container.Config{ID: c.ID, Dir: c.RunDir(), Spec: outline, Init: c.HostConfig.Init, TimerSlack: calm.Usual()}, Traced: trace.On(ctx),
		Attached: o.Attach != nil, Connected: c.connection != nil, Resolver: c.connection.resolver(),
	}
	c.monitor = m
	if err := m.tell(&told, append(files, c.connection.files()...)...); err != nil {
		return err
	}
	c.connect(ctx)
	return nil
}

// startMonitor starts a monitor, in a session of its own, or takes the one that was started already: see package headstart.
func (e *Engine) startMonitor(ctx context.Context) (*launched, error) {
	if p := headstart.Take(e.RunRoot); p != nil {
		return &launched{reports: wire.Conn{File: p.Socket}, said: p.Said}, nil
	}
	said, err := unix.MemfdCreate(monitor.Entry, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	m := &launched{said: os.NewFile(uintptr(said), "the monitor's standard error")}
	theirs, ours, err := stream.Pair()
	if err != nil {
		return nil, errors.Join(err, m.said.Close())
	}
	defer theirs.Close()
	m.reports.File = ours
	path, done, err := container.SealedPath(ctx)
	if err != nil {
		m.close()
		return nil, err
	}
	defer done()
	cmd := &exec.Cmd{
		Path: path, Args: []string{monitor.Entry}, Dir: "/", Env: headstart.Environment(e.RunRoot),
		Stderr: m.said, ExtraFiles: []*os.File{theirs}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fork, setsid, execve(%q, [%q])", path, monitor.Entry) },
		func() error { return calmly(cmd.Start) })
	if err != nil {
		m.close()
		return nil, fmt.Errorf("start the monitor: %w", err)
	}
	go cmd.Wait() // while we live, it is our child
	return m, nil
}

// calmly starts a process that is calm from its first moment on: see package calm.
func calmly(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if calm.Set(calm.Slack) == nil {
		defer calm.Set(0)
	}
	return start()
}

// tell sends the monitor what it waits for. One that has ended already may have said why before: that is heard in await.
func (m *launched) tell(v any, files ...*os.File) error {
	err := m.reports.Send(v, files...)
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("tell the monitor: %w", err)
	}
	return nil
}

// dismiss sends a monitor away whose container is not wanted after all, and waits until it has undone what it did.
func (c *Container) dismiss(ctx context.Context) (err error) {
	if c.monitor == nil {
		return nil
	}
	c.monitor.close()
	c.monitor = nil
	defer func() { err = errors.Join(err, c.leaveNetworks(context.WithoutCancel(ctx))) }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return c.awaitMonitor(ctx)
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// errSilent is a monitor that ended without a word.
var errSilent = errors.New("the container's monitor ended before the container had started")

// silence explains a monitor that has ended without a report. Go's runtime tells on standard error what it could not get, be it
// memory or a thread.
func (m *launched) silence() error {
	buf := make([]byte, 4096)
	n, _ := m.said.ReadAt(buf, 0)
	line, _, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), "\n")
	if line == "" {
		return errSilent
	}
	return fmt.Errorf("%w: %s", errSilent, strings.TrimPrefix(line, "runtime: "))
}

// await listens until the program runs.
func (m *launched) await(ctx context.Context, c *Container, o StartOptions) error {
	for {
		r, err := m.hear(ctx)
		switch {
		case err != nil:
			return err
		case r.Warning != "" && o.Warn != nil:
			o.Warn(r.Warning)
		case r.Started != nil:
			c.State = State{Status: Running, Running: true, Pid: r.Started.Pid, StartedAt: r.Started.StartedAt}
			return nil
		}
	}
}

// born listens until there is an init, and with it the container's namespaces.
func (m *launched) born(ctx context.Context) (pid int, err error) {
	for {
		r, err := m.hear(ctx)
		if err != nil || r.Born != 0 {
			return r.Born, err
		}
	}
}

// hear returns what the monitor says next. That it has failed is an error.
func (m *launched) hear(ctx context.Context) (monitor.Report, error) {
	stop := context.AfterFunc(ctx, func() { m.reports.Close() }) // the monitor notices, and undoes what it did
	defer stop()
	for {
		var r monitor.Report
		if err := m.reports.Receive(&r); err != nil {
			if ctx.Err() != nil {
				return r, context.Cause(ctx)
			}
			return r, m.silence()
		}
		switch {
		case r.Record != nil:
			trace.Replay(ctx, *r.Record)
		case r.Error != nil:
			return r, r.Error
		default:
			return r, nil
		}
	}
}

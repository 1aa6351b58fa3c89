package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	security "github.com/nslab/nslab/labs/10-security"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/trace"
)

// StartOptions is how a container is started.
type StartOptions struct {
	Attach *stream.Client // hand the caller a connection to its output and input, from the first byte on
	Warn   func(string)
}

// Attachment is the connection of a client that was there when the container started. While it is open, an --rm container is
// the client's to remove; when it is closed before the container's end, the monitor does that.
type Attachment struct {
	Conn *os.File // for package stream, which takes it over
	hold *os.File
}

// Close tells the monitor that this client does nothing more.
func (a *Attachment) Close() error {
	if a == nil {
		return nil
	}
	return a.hold.Close()
}

// Start runs a container that the caller has locked. It returns when the program runs, or when it is certain that it does
// not. The attachment is nil unless one was asked for.
func (c *Container) Start(ctx context.Context, o StartOptions) (_ *Attachment, err error) {
	job, err := c.job(ctx)
	if err != nil {
		return nil, err
	}
	job.First = o.Attach
	lock, err := c.lockMonitor(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	os.Remove(c.path(monitor.ExitFile)) // how the last run ended is no news any more
	m, err := c.launch(ctx, job, lock, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if err := m.await(ctx, c, o); err != nil {
		return nil, c.failed(err)
	}
	if m.attached == nil {
		return nil, m.reports.Close()
	}
	return &Attachment{Conn: m.attached, hold: m.reports}, nil
}

// job says what the monitor is to do.
func (c *Container) job(ctx context.Context) (*monitor.Job, error) {
	spec, err := c.spec(ctx)
	if err != nil {
		return nil, err
	}
	// The spec is on disk for people, for exec, and for other runtimes. It is made anew at each start.
	if err := writeJSON(c.path("config.json"), spec, false); err != nil {
		return nil, err
	}
	img, err := c.engine.images.Held(c.Image, c.ID)
	if err != nil {
		return nil, err
	}
	lower, err := c.engine.images.Layers(ctx, img, c.Driver)
	if err != nil {
		return nil, err
	}
	log, err := logs.ParseOptions(c.HostConfig.LogConfig.Type, c.HostConfig.LogConfig.Config)
	if err != nil {
		return nil, err
	}
	job := &monitor.Job{
		Container: container.Config{
			ID: c.ID, Dir: c.RunDir(), Spec: spec, Driver: c.Driver, Layers: c.layers(lower),
			User: c.Config.User, Groups: c.HostConfig.GroupAdd, Init: c.HostConfig.Init,
		},
		Dir: c.Dir(), RunDir: c.RunDir(), LogPath: c.LogPath(), Log: log,
		Tty: c.Config.Tty, OpenStdin: c.Config.OpenStdin, StdinOnce: c.Config.StdinOnce,
		Durable: !c.HostConfig.AutoRemove, Traced: trace.On(ctx),
	}
	if spec.Linux.Seccomp != nil {
		if job.Container.Filter, err = security.Compile(spec.Linux.Seccomp); err != nil {
			return nil, err
		}
		spec.Linux.Seccomp = nil // it is all in the filter
	}
	if c.HostConfig.AutoRemove {
		job.Remove = []string{RemoveEntry, c.engine.Root, c.engine.RunRoot, c.ID}
	}
	return job, nil
}

// layers are the container's: its own on top, then what the runtime has written for it, then the image's.
func (c *Container) layers(image []string) unionfs.Layers {
	return unionfs.Layers{
		Lower: append([]string{c.path(initLayer)}, image...), Upper: c.path(upperLayer), Work: c.path(workFolder),
	}
}

// lockMonitor takes the lock that the monitor is going to hold: it is passed on as an open file, so there is no moment in
// which nobody has it. One that is held still belongs to the monitor of the last run, which is about to end.
func (c *Container) lockMonitor(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lockFile(ctx, filepath.Join(c.RunDir(), monitor.LockFile))
}

// launched is a monitor that was started, seen from here.
type launched struct {
	reports  *os.File
	attached *os.File
}

func (m *launched) close() {
	m.reports.Close()
	if m.attached != nil {
		m.attached.Close()
	}
}

// small is the environment of a monitor: with one processor Go's runtime keeps one cache of memory instead of many, and
// without a collection the start takes less time. The monitor switches it on when the container runs.
var small = []string{"GOMAXPROCS=1", "GOGC=off"}

// launch starts a monitor: in a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
func (c *Container) launch(ctx context.Context, job *monitor.Job, lock *os.File, o StartOptions) (_ *launched, err error) {
	m := &launched{}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	m.reports = ours
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	path, done, err := container.SealedPath(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	cmd := &exec.Cmd{
		Path: path, Args: []string{monitor.Entry}, Dir: "/", Env: append([]string{"NSLAB_RUN_ROOT=" + c.engine.RunRoot}, small...), // the first tells whose it is
		ExtraFiles:  []*os.File{theirs, lock, c.lock},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if o.Attach != nil {
		its, mine, err := stream.Pair()
		if err != nil {
			return nil, err
		}
		defer its.Close()
		m.attached = mine
		cmd.ExtraFiles = append(cmd.ExtraFiles, its)
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fork, setsid, execve(%q, [%q])", path, monitor.Entry) },
		cmd.Start)
	if err != nil {
		return nil, fmt.Errorf("start the monitor: %w", err)
	}
	go cmd.Wait() // while we live, it is our child
	if err := json.NewEncoder(m.reports).Encode(job); err != nil {
		return nil, fmt.Errorf("tell the monitor: %w", err)
	}
	return m, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// errSilent is a monitor that ended without a word.
var errSilent = errors.New("the container's monitor was killed before the container had started")

// await listens until the program runs.
func (m *launched) await(ctx context.Context, c *Container, o StartOptions) error {
	stop := context.AfterFunc(ctx, func() { m.reports.Close() }) // the monitor notices, and undoes what it did
	defer stop()
	in := json.NewDecoder(m.reports)
	for {
		var r monitor.Report
		if err := in.Decode(&r); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errSilent
		}
		switch {
		case r.Record != nil:
			trace.Replay(ctx, *r.Record)
		case r.Warning != "" && o.Warn != nil:
			o.Warn(r.Warning)
		case r.Error != nil:
			return r.Error
		case r.Started != nil:
			c.State = State{Status: Running, Running: true, Pid: r.Started.Pid, StartedAt: r.Started.StartedAt}
			return nil
		}
	}
}

// failed turns the reason of a failed start into an exit status that users of Docker know, and writes it down.
func (c *Container) failed(err error) error {
	code := 125
	var init *container.InitError
	if errors.As(err, &init) {
		switch init.Kind {
		case container.KindMissing:
			code = 127
		case container.KindProgram:
			code = 126
		}
	}
	c.clearRun()
	exit := monitor.Exit{ExitCode: code, Error: err.Error(), FinishedAt: time.Time{}}
	return errors.Join(&StartError{Code: code, Err: err}, writeJSON(c.path(monitor.ExitFile), &exit, false))
}

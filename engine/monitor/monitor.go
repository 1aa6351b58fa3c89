package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/trace"
)

func init() { reexec.Register(Entry, Main) }

// The descriptors that a monitor is born with.
const (
	jobFD    = 3 // the socket for the job and the reports
	lockFD   = 4 // the lock that says that the monitor lives
	holdFD   = 5 // the container's lock, until it has started
	attachFD = 6 // the first client's connection, if there is one
)

// monitor is one that runs.
type monitor struct {
	Job
	reports *os.File
	log     *logs.Writer
	c       *container.Container
	run     Run
}

// Main is the whole life of a monitor.
func Main() {
	debug.SetGCPercent(25) // it is to be small, and has little to do
	for fd := jobFD; fd <= attachFD; fd++ {
		unix.CloseOnExec(fd)
	}
	m := &monitor{reports: os.NewFile(jobFD, "job")}
	in := json.NewDecoder(m.reports)
	if err := in.Decode(&m.Job); err != nil {
		os.Exit(1) // whoever started us is gone
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		// There is nothing more to hear: this returns when the other side is closed. Until the container has started that
		// means that nobody wants it any more, and all is undone.
		io.Copy(io.Discard, m.reports)
		cancel(errors.New("the command that wanted the container is gone"))
	}()
	if m.Traced {
		ctx = trace.With(ctx, func(r trace.Record) { m.report(Report{Record: &r}) })
	}
	if err := m.start(ctx); err != nil {
		m.report(Report{Error: asInitError(err)})
		os.Exit(1)
	}
	m.stay()
}

func (m *monitor) report(r Report) {
	data, err := json.Marshal(r)
	if err == nil {
		m.reports.Write(append(data, '\n'))
	}
}

func asInitError(err error) *container.InitError {
	var e *container.InitError
	if errors.As(err, &e) {
		return e
	}
	e = &container.InitError{Kind: container.KindSetUp, Text: err.Error()}
	errors.As(err, &e.Errno)
	return e
}

// start makes the container and starts its program.
func (m *monitor) start(ctx context.Context) (err error) {
	if m.log, err = logs.Create(m.LogPath, m.Log); err != nil {
		return err
	}
	if m.c, err = container.Create(ctx, m.Container); err != nil {
		return err
	}
	for _, w := range m.c.Warnings {
		m.report(Report{Warning: w})
	}
	if err := m.c.Start(ctx); err != nil {
		return err
	}
	m.run = Run{StartedAt: time.Now().UTC(), Monitor: os.Getpid()}
	m.write(filepath.Join(m.RunDir, RunFile), m.run, false)
	m.report(Report{Started: &Started{Pid: m.c.Pid, StartedAt: m.run.StartedAt}})
	// The container's lock was ours as well while it was being started; from here on others may have it.
	return errors.Join(unix.Close(holdFD), m.reports.Close())
}

// stay is all the rest of the container's life.
func (m *monitor) stay() {
	debug.FreeOSMemory() // what the start has used is not needed again
	ctx := context.Background()
	status, _ := m.c.Wait(ctx) // its error is os/exec's word for a status that is not 0
	exit := Exit{ExitCode: exitCode(status), OOMKilled: m.c.OOMKilled(), StartedAt: m.run.StartedAt}
	// Now its PID namespace is empty. What is left in the control group came from outside, and ends too: nobody is to hold
	// the output open that is read to its end next.
	err := m.c.Delete(ctx, true)
	exit.FinishedAt = time.Now().UTC()
	if err != nil {
		exit.Error = err.Error()
	}
	m.log.Close()
	m.write(filepath.Join(m.Dir, ExitFile), exit, m.Durable)
	os.Remove(filepath.Join(m.RunDir, RunFile))
	if len(m.Remove) > 0 {
		syscall.Exec("/proc/self/exe", m.Remove, nil)
	}
}

// exitCode is the status that a shell would show.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// write replaces a small file as a whole. Where there is no room for it, the container is not to suffer: whoever looks for
// the file then finds none, and says that nobody knows.
func (m *monitor) write(name string, v any, durable bool) {
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(append(data, '\n'))
		if err == nil && durable {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nslab-monitor:", err)
	}
}

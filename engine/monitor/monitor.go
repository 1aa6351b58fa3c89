package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/pages"
	"github.com/nslab/nslab/engine/resolver"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/headstart"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/wire"
)

// init takes over a process that is to be a monitor, before the packages are initialised that it has nothing to do with (Go
// does that in the order of their paths): it is to start fast, and to stay small.
func init() {
	if os.Args[0] == Entry {
		// Not on this goroutine: while packages are initialised it is tied to the first thread (runtime.main), so that whenever it
		// waits for something, another thread has to take over, and to hand back later.
		go func() {
			monitorMain()
			os.Exit(0)
		}()
		select {}
	}
}

// monitor is one that runs.
type monitor struct {
	Job
	reports wire.Conn
	lock    *os.File // says that the monitor lives
	making  *os.File // the container's lock, until it has started
	client  *os.File // the connection of the first one, if there is one
	log     *logs.Writer
	hub     *stream.Hub
	theirs  []*os.File // the container's ends of its pipes
	c       *container.Container
	run     Run
	held    []*os.File // the host's ports
	relays  sync.WaitGroup
	unrelay func() // ends them
	names   *resolver.Server
	naming  sync.Mutex    // for names: a client may want them when we have hardly begun
	alone   chan struct{} // closed when whoever started us is gone, or wants nothing more
}

// name is the entry as the kernel wants it, not longer than 15 bytes.
var name = [16]byte([]byte(Entry + "\x00\x00\x00"))

// monitorMain is the whole life of a monitor.
func monitorMain() {
	unix.CloseOnExec(headstart.SocketFD)
	// Executed by a descriptor, it would be known to ps and top by the number of that. No harm if it is refused.
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	// What is waited for is waited for in Go's poller: a thread that is stuck in a call would keep the only processor.
	unix.SetNonblock(headstart.SocketFD, true)
	m := &monitor{reports: wire.Conn{File: os.NewFile(headstart.SocketFD, "job")}, alone: make(chan struct{})}
	var outline Outline
	if err := m.reports.Receive(&outline); err != nil {
		os.Exit(1) // whoever started us is gone
	}
	m.claim(&outline)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if outline.Traced {
		ctx = trace.With(ctx, func(r trace.Record) { m.report(Report{Record: &r}) })
	}
	var err error
	if m.c, err = container.Begin(ctx, outline.Container); err == nil {
		err = m.networks(ctx, &outline)
	}
	if err == nil {
		if err = m.reports.Receive(&m.Job); err != nil {
			err = errors.Join(errUnwanted, m.c.Abort(ctx))
		}
	}
	if err == nil {
		go m.listen(cancel)
		err = m.start(ctx)
	}
	if err != nil {
		if m.Dir != "" {
			os.Remove(filepath.Join(m.Dir, ExitFile))
		}
		m.report(Report{Error: container.AsInitError(err)})
		os.Exit(1)
	}
	m.stay()
}

// claim gives the files that came with the outline to those who need them.
func (m *monitor) claim(o *Outline) {
	files := m.reports.Files
	m.reports.Files = nil
	for _, to := range []**os.File{&m.lock, &m.making, &m.client} {
		if len(files) == 0 || to == &m.client && !o.Attached {
			break
		}
		*to, files = files[0], files[1:]
	}
	m.held = files // the host's ports
}

var errUnwanted = errors.New("the command that wanted the container is gone")

// listen waits until the other side is closed; there is nothing more to hear. Until the container has started that means that
// nobody wants it any more, and all is undone.
func (m *monitor) listen(cancel context.CancelCauseFunc) {
	var b [1]byte
	m.reports.File.Read(b[:])
	close(m.alone)
	cancel(errUnwanted)
}

func (m *monitor) report(r Report) {
	m.reports.Send(&r) // who is gone hears nothing
}

// start makes the container and starts its program.
func (m *monitor) start(ctx context.Context) (err error) {
	// While the init starts up, so that it costs no time. From here on, if all else is lost, it is known that there was a run.
	m.write(filepath.Join(m.Dir, ExitFile), Lost(time.Now().UTC()), false)
	streams := stream.Config{OpenStdin: m.OpenStdin, StdinOnce: m.StdinOnce, Quiet: pages.Settle, Ask: m.ask}
	if m.log, err = logs.Create(m.LogPath, m.Log); err == nil && !m.Tty {
		err = m.pipes(&streams)
	}
	if err != nil {
		return errors.Join(err, m.c.Abort(context.WithoutCancel(ctx)))
	}
	streams.Log = m.log
	if err := m.c.Complete(ctx, m.Container); err != nil {
		return err
	}
	for _, w := range m.c.Warnings {
		m.report(Report{Warning: w})
	}
	streams.Terminal = m.c.Console
	if err := m.attach(streams); err != nil {
		return errors.Join(err, m.c.Abort(context.WithoutCancel(ctx)))
	}
	if err := m.c.Start(ctx); err != nil {
		return err
	}
	for _, f := range m.theirs {
		f.Close() // the container has them: without ours, its end is theirs
	}
	m.run = Run{StartedAt: time.Now().UTC(), Monitor: os.Getpid()}
	m.write(filepath.Join(m.RunDir, RunFile), m.run, false)
	// The container's lock was ours as well while it was being started; from here on others may have it. Before anybody hears
	// that the container runs: who does, and looks at it next, is not to find it locked.
	err = m.making.Close()
	m.report(Report{Started: &Started{Pid: m.c.Pid, StartedAt: m.run.StartedAt}})
	return err
}

// pipes makes the pipes of a container without a terminal. Their outer ends are the hub's.
func (m *monitor) pipes(s *stream.Config) error {
	for _, p := range []struct {
		inner, outer **os.File
		in, wanted   bool
	}{
		{&m.Container.Stdin, &s.Stdin, true, m.OpenStdin},
		{&m.Container.Stdout, &s.Stdout, false, true},
		{&m.Container.Stderr, &s.Stderr, false, true},
	} {
		if !p.wanted {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make a pipe: %w", err)
		}
		if p.in {
			*p.inner, *p.outer = r, w
		} else {
			*p.inner, *p.outer = w, r
		}
		m.theirs = append(m.theirs, *p.inner)
	}
	return nil
}

// attach opens the hub to clients. The first one is there before the program is, so that it misses nothing.
func (m *monitor) attach(s stream.Config) (err error) {
	if m.hub, err = stream.NewHub(s); err != nil {
		return err
	}
	if m.First != nil {
		if err := m.hub.Add(m.client, *m.First); err != nil {
			return err
		}
	}
	if err := m.hub.Listen(filepath.Join(m.RunDir, SocketFile)); err != nil {
		return err
	}
	m.hub.Start()
	return nil
}

// stay is all the rest of the container's life.
func (m *monitor) stay() {
	// The spec was told to the container, and is not needed again.
	m.Container = container.Config{}
	m.relay()
	ctx := context.Background()
	status, _ := m.c.Wait(ctx) // its error is os/exec's word for a status that is not 0
	if len(m.Remove) > 0 {
		m.report(Report{Ended: true}) // whoever removes it can begin
	}
	exit := Exit{ExitCode: exitCode(status), OOMKilled: m.c.OOMKilled(), StartedAt: m.run.StartedAt}
	// Now its PID namespace is empty. What is left in the control group came from outside, and ends too: nobody is to hold
	// the output open that is read to its end next.
	err := m.c.Delete(ctx, true)
	err = errors.Join(err, m.disconnect(ctx))
	exit.FinishedAt = time.Now().UTC()
	if err != nil {
		exit.Error = err.Error()
	}
	m.hub.Drain()
	m.log.Close()
	m.write(filepath.Join(m.Dir, ExitFile), exit, m.Durable)
	os.Remove(filepath.Join(m.RunDir, RunFile))
	// Clients hear of the end last: whoever has, finds it on disk.
	m.hub.Close(exit.ExitCode)
	if len(m.Remove) == 0 {
		return
	}
	select {
	case <-m.alone:
		syscall.Exec("/proc/self/exe", m.Remove, nil)
	default: // the client that started the container does it, in less time
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
	data, err := jsonfile.Marshal(v)
	if err != nil {
		return
	}
	if err := jsonfile.Write(name, append(data, '\n'), durable); err != nil {
		fmt.Fprintln(os.Stderr, "nslab-monitor:", err)
	}
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/trace"
)

// defaultStopTimeout is how long a container may take to end when it is asked to, where nothing else is said. It is Docker's.
const defaultStopTimeout = 10 * time.Second

// Kill sends a signal to the container's first process.
func (e *Engine) Kill(ctx context.Context, ref string, sig syscall.Signal) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !c.State.Running {
		return &StateError{Container: ref, Status: c.State.Status, Op: "kill"}
	}
	s, err := c.runtime()
	if err != nil {
		return err
	}
	if sig == syscall.SIGKILL {
		return c.kill(ctx)
	}
	err = s.Kill(ctx, sig)
	if errors.Is(err, container.ErrState) {
		return &StateError{Container: ref, Status: Exited, Op: "kill"}
	}
	return err
}

// kill ends all of the container's processes, whatever they do, and waits until that is written down.
func (c *Container) kill(ctx context.Context) error {
	s, err := c.runtime()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.Frozen() {
		if err := s.Resume(ctx); err != nil { // on v1, what is frozen does not die
			return err
		}
	}
	if err := s.Kill(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, container.ErrState) {
		return err
	}
	return c.awaitEnd(ctx, s)
}

// Stop asks the container to end, and ends it if it has not done so within the timeout; nil is the container's own timeout,
// a negative one is none. It returns when the end is written down. A container that does not run is no error.
func (e *Engine) Stop(ctx context.Context, ref string, timeout *int, signal string) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	sig, err := c.Config.stopSignal()
	if signal != "" {
		sig, err = ParseSignal(signal)
	}
	if err != nil || !c.State.Running {
		return err
	}
	s, err := c.runtime()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.State.Paused {
		if err := s.Resume(ctx); err != nil {
			return err
		}
	}
	if err := s.Kill(ctx, sig); err != nil {
		if errors.Is(err, container.ErrState) {
			return c.awaitEnd(ctx, s)
		}
		return err
	}
	grace := defaultStopTimeout
	if c.Config.StopTimeout != nil {
		grace = time.Duration(*c.Config.StopTimeout) * time.Second
	}
	if timeout != nil {
		grace = time.Duration(*timeout) * time.Second
	}
	if ended, err := awaitPid(ctx, s, grace); err != nil {
		return err
	} else if !ended {
		if err := s.Kill(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, container.ErrState) {
			return err
		}
	}
	return c.awaitEnd(ctx, s)
}

// awaitPid waits for the end of the container's init, through a pidfd: the kernel wakes us, nothing is polled for. A negative
// time is for ever.
func awaitPid(ctx context.Context, s *container.State, d time.Duration) (ended bool, err error) {
	fd, err := unix.PidfdOpen(s.Pid, 0)
	if errors.Is(err, unix.ESRCH) || err == nil && !s.Alive() {
		if err == nil {
			unix.Close(fd)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("wait for process %d: %w", s.Pid, err)
	}
	defer unix.Close(fd)
	until := time.Now().Add(d)
	for {
		slice := 100 * time.Millisecond // poll(2) does not hear of ctx
		if d >= 0 {
			slice = min(slice, max(0, time.Until(until)))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((slice+time.Millisecond-1)/time.Millisecond))
		switch {
		case n > 0:
			return true, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("wait for process %d: %w", s.Pid, err)
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case d >= 0 && !time.Now().Before(until):
			return false, nil
		}
	}
}

// awaitEnd waits until the run is over: the init gone, and the monitor done with what comes after.
func (c *Container) awaitEnd(ctx context.Context, s *container.State) error {
	if _, err := awaitPid(ctx, s, -1); err != nil {
		return err
	}
	return c.awaitMonitor(ctx)
}

// awaitMonitor waits for the lock that the monitor holds.
func (c *Container) awaitMonitor(ctx context.Context) error {
	f, err := os.Open(filepath.Join(c.RunDir(), monitor.LockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed, or never started
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// WaitCondition is what `wait` waits for.
type WaitCondition string

// The conditions, in Docker's words.
const (
	NotRunning WaitCondition = "not-running"
	NextExit   WaitCondition = "next-exit"
	Removed    WaitCondition = "removed"
)

// Wait waits until a container does not run, and returns its exit status.
func (e *Engine) Wait(ctx context.Context, ref string) (int, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return 0, err
	}
	return c.Wait(ctx)
}

// Wait is [Engine.Wait] for one that is known.
func (c *Container) Wait(ctx context.Context) (int, error) {
	if c.State.Running || c.monitored() {
		code, err := c.hearEnd(ctx)
		heard := err == nil
		if errors.Is(err, stream.ErrGone) {
			err = c.outlive(ctx)
		}
		if err != nil {
			return 0, err
		}
		var exit monitor.Exit
		if err := readJSON(c.path(monitor.ExitFile), &exit); err == nil {
			c.State = State{Status: Exited, ExitCode: exit.ExitCode, OOMKilled: exit.OOMKilled, StartedAt: exit.StartedAt, FinishedAt: exit.FinishedAt}
			return exit.ExitCode, nil
		}
		if heard { // it is removed already
			c.State = State{Status: Exited, ExitCode: code, StartedAt: c.State.StartedAt}
			return code, nil
		}
		after, err := c.engine.Get(ctx, c.ID)
		var missing *NotFoundError
		if errors.As(err, &missing) {
			return c.State.ExitCode, nil // it was to be removed at its end, and is
		}
		if err != nil {
			return 0, err
		}
		c.State = after.State
	}
	return c.State.ExitCode, nil
}

// hearEnd is told by the monitor how the run ends. Only it knows of one that is removed at its end, with all that was written
// down. Without a monitor, the error is stream.ErrGone.
func (c *Container) hearEnd(ctx context.Context) (int, error) {
	conn, err := stream.Dial(filepath.Join(c.RunDir(), monitor.SocketFile))
	if err != nil {
		return 0, err
	}
	out, err := stream.Attach(ctx, conn, stream.Options{})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.ExitStatus, err
}

// outlive waits until the run is over where nobody tells.
func (c *Container) outlive(ctx context.Context) error {
	s, err := c.runtime()
	if errors.Is(err, os.ErrNotExist) {
		return c.awaitMonitor(ctx)
	}
	if err != nil {
		return err
	}
	return c.awaitEnd(ctx, s)
}

// Pause stops all processes of a container where they are; Unpause lets them go on.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.State.Paused || !c.State.Running {
		return &StateError{Container: ref, Status: c.State.Status, Op: "pause"}
	}
	s, err := c.runtime()
	if err != nil {
		return err
	}
	return s.Pause(ctx)
}

// Unpause lets a paused container go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.State.Paused {
		return &StateError{Container: ref, Status: c.State.Status, Op: "unpause"}
	}
	s, err := c.runtime()
	if err != nil {
		return err
	}
	return s.Resume(ctx)
}

// Rename gives a container another name. Until it is over, two names lead to the container, and the record tells which of
// them counts, and which other one has to go: a command that is killed in between takes none out of use.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	if name == c.Name {
		return &InputError{What: "container name", Value: name, Err: errors.New("it has this name already")}
	}
	c.OtherName = name
	if err := c.save(); err != nil {
		return err
	}
	if err := e.claim(name, c.ID); err != nil {
		return err
	}
	c.Name, c.OtherName = name, c.Name
	if err := c.save(); err != nil {
		return errors.Join(err, e.disclaim(name, c.ID))
	}
	return errors.Join(c.renameOnNetworks(c.OtherName, name), e.disclaim(c.OtherName, c.ID))
}

// Update changes the limits of a container, also of one that runs. change gets the present ones.
func (e *Engine) Update(ctx context.Context, ref string, change func(*Resources) error) error {
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	before := c.HostConfig.Resources
	if err := change(&c.HostConfig.Resources); err != nil {
		return err
	}
	r, err := c.HostConfig.Resources.spec()
	if err != nil {
		return err
	}
	if c.State.Running {
		s, err := c.runtime()
		if err != nil {
			return err
		}
		if s.Group == nil {
			return &StateError{Container: ref, Status: c.State.Status, Op: "update"}
		}
		if err := s.Group.Set(ctx, r); err != nil {
			// What was set until then goes back to what it was.
			old, oldErr := before.spec()
			if oldErr == nil {
				oldErr = s.Group.Set(trace.Off(context.WithoutCancel(ctx)), old)
			}
			return errors.Join(err, oldErr)
		}
	}
	return c.save()
}

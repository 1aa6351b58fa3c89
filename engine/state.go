package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/jsonfile"
)

// What is on disk is what somebody wrote, some time ago. How a container is now, only the kernel knows: so every command
// first compares the two. While a container runs, its monitor holds a lock; as soon as that is free and the init is gone, the
// run is over, whether the monitor could write down how or not.

// patience bounds how long a command waits for a monitor that is about to end.
const patience = 10 * time.Second

// load reads a container and finds out how it is. It changes nothing.
func (e *Engine) load(id string) (*Container, error) {
	c := &Container{engine: e}
	c.ID = id
	if err := readJSON(c.path(recordFile), &c.Record); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotFoundError{Ref: id}
		}
		return nil, fmt.Errorf("container %s: %w: %w", id[:12], ErrLost, err)
	}
	return c, c.loadState()
}

func (c *Container) loadState() error {
	for until := time.Now().Add(patience); ; {
		stale, err := c.look()
		if err != nil || !stale || !c.monitored() || time.Now().After(until) {
			return err
		}
		time.Sleep(500 * time.Microsecond) // its monitor is writing down how it ended
	}
}

// look sets c.State. stale says that what is on disk is about to change, if the monitor lives: there is a record of a run that
// is over, or none of how it ended.
func (c *Container) look() (stale bool, err error) {
	s, err := container.Load(c.RunDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	c.seen = s
	c.State = State{Status: Created}
	var exit monitor.Exit
	exitErr := readJSON(c.path(monitor.ExitFile), &exit)
	if exitErr == nil {
		c.State = State{
			Status: Exited, ExitCode: exit.ExitCode, Error: exit.Error, OOMKilled: exit.OOMKilled,
			StartedAt: exit.StartedAt, FinishedAt: exit.FinishedAt,
		}
		if exit.StartedAt.IsZero() {
			c.State.Status = Created // it could not be started
		}
	} else if !errors.Is(exitErr, fs.ErrNotExist) {
		return false, exitErr
	}
	if s == nil {
		return exitErr != nil || c.unfinished(), nil
	}
	if !s.Alive() {
		return true, nil
	}
	if s.Phase == container.PhaseCreating || s.Phase == container.PhaseCreated && c.monitored() {
		return false, nil // being started
	}
	var run monitor.Run
	readJSON(filepath.Join(c.RunDir(), monitor.RunFile), &run) // written a moment after the start: until then there is no time
	c.State = State{Status: Running, Running: true, Pid: s.Pid, StartedAt: run.StartedAt}
	if s.Frozen() {
		c.State.Status, c.State.Paused = Paused, true
	}
	return false, nil
}

// unfinished tells whether a run has begun of whose end nobody has written.
func (c *Container) unfinished() bool {
	return c.State.Status == Exited && c.State.FinishedAt.IsZero()
}

// monitored tells whether the container's monitor lives.
func (c *Container) monitored() bool { return locked(filepath.Join(c.RunDir(), monitor.LockFile)) }

// runtime is the runtime's own record of the running container.
func (c *Container) runtime() (*container.State, error) { return container.Load(c.RunDir()) }

// Get finds a container by name, id or the beginning of one, as it is now.
func (e *Engine) Get(ctx context.Context, ref string) (*Container, error) {
	id, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c, err := e.load(id)
	var missing *NotFoundError
	if errors.As(err, &missing) {
		return nil, &NotFoundError{Ref: ref}
	}
	if err != nil {
		return nil, err
	}
	if !c.answersTo(ref) {
		return nil, &NotFoundError{Ref: ref}
	}
	if c.stale() || c.leftPaused() {
		locked, err := e.Lock(ctx, id) // which reaps what is over
		if err != nil {
			return nil, err
		}
		return locked, locked.Close()
	}
	return c, nil
}

// answersTo tells whether a container is meant by what led to it. A name that it does not know of is one that it had, or was to
// get, when a rename was killed.
func (c *Container) answersTo(ref string) bool {
	ref = strings.TrimPrefix(ref, "/")
	return ref == c.Name || strings.HasPrefix(c.ID, ref)
}

// stale tells whether there is something to clean up after a run that nobody has ended properly.
func (c *Container) stale() bool {
	if c.seen == nil {
		return c.unfinished() && !c.monitored()
	}
	return over(c.seen) && !c.monitored()
}

// over tells whether a run is, if it has no monitor: its init is gone, or about to go, since it dies with its monitor as long as
// it is being made.
func over(s *container.State) bool { return !s.Alive() || s.Phase == container.PhaseCreating }

// Lock finds a container and keeps it for the caller until [Container.Close]: nobody else changes it meanwhile.
func (e *Engine) Lock(ctx context.Context, ref string) (*Container, error) {
	id, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c := &Container{engine: e}
	c.ID = id
	if err := c.lockNew(ctx); err != nil {
		return nil, err
	}
	lock := c.lock
	c, err = e.load(id)
	if err == nil && !c.answersTo(ref) {
		return nil, errors.Join(&NotFoundError{Ref: ref}, e.disclaim(strings.TrimPrefix(ref, "/"), id), lock.Close())
	}
	if err == nil {
		c.lock = lock
		err = c.reap(ctx)
	}
	if err == nil {
		return c, nil
	}
	var missing *NotFoundError
	if errors.As(err, &missing) {
		if e.exists(id) { // without a record: its maker was killed
			left := &Container{engine: e, lock: lock}
			left.ID = id
			err = left.discard(context.WithoutCancel(ctx))
		} else {
			os.Remove(lock.Name()) // somebody removed it while we waited
			os.Remove(filepath.Dir(lock.Name()))
		}
		err = errors.Join(&NotFoundError{Ref: ref}, lock.Close(), notFoundIsNil(err))
		return nil, err
	}
	return nil, errors.Join(err, lock.Close())
}

func notFoundIsNil(err error) error {
	var missing *NotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	return err
}

// Close lets others have the container.
func (c *Container) Close() error {
	if c == nil || c.lock == nil {
		return nil
	}
	err := c.lock.Close()
	c.lock = nil
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// reap finishes a run that is over and that nobody has finished: the monitor was killed, or the machine went down. The
// caller holds the lock.
func (c *Container) reap(ctx context.Context) error {
	if _, err := os.Lstat(filepath.Join(c.RunDir(), pausedFile)); err == nil {
		if err := c.goOn(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if err := c.loadState(); err != nil {
			return err
		}
	}
	s, err := container.Load(c.RunDir())
	if errors.Is(err, fs.ErrNotExist) {
		return c.rebooted(ctx)
	}
	if err != nil || c.monitored() || !over(s) {
		return err
	}
	var run monitor.Run
	readJSON(filepath.Join(c.RunDir(), monitor.RunFile), &run)
	if err := s.Delete(context.WithoutCancel(ctx), true); err != nil {
		return err
	}
	if c.HostConfig.AutoRemove {
		return errors.Join(c.remove(ctx, true), &NotFoundError{Ref: c.ID[:12]})
	}
	if run.StartedAt.IsZero() {
		os.Remove(c.path(monitor.ExitFile)) // its program never ran
	} else if err := c.lost(run.StartedAt); err != nil {
		return err
	}
	c.clearRun()
	_, err = c.look()
	return err
}

// lost writes down that a run has ended without anybody having seen how.
func (c *Container) lost(started time.Time) error {
	exit := monitor.Lost(started)
	exit.FinishedAt = time.Now().UTC()
	return jsonfile.Replace(c.path(monitor.ExitFile), &exit, true)
}

// rebooted finishes a run that the end of the machine has ended: after a reboot the run root is empty, so the container has a
// beginning without an end, and no state. Should only the run root be gone, its groups are still there, and are found by the
// container's id. One with processes in it is left alone: nobody has asked to end them. A container that was to be removed at
// its end is.
func (c *Container) rebooted(ctx context.Context) error {
	if c.State.Status != Exited || c.monitored() {
		return nil
	}
	if c.unfinished() {
		if busy, err := c.groupBusy(); err != nil || busy {
			return err
		}
		if _, err := c.dropGroup(ctx); err != nil {
			return err
		}
		if !c.HostConfig.AutoRemove {
			c.lost(c.State.StartedAt) // if that cannot be written now, it can the next time
			_, err := c.look()
			return err
		}
	}
	if !c.HostConfig.AutoRemove {
		return nil
	}
	return errors.Join(c.remove(ctx, true), &NotFoundError{Ref: c.ID[:12]})
}

// clearRun removes the files of a run that is over, but for the lock.
func (c *Container) clearRun() {
	for _, name := range []string{monitor.RunFile, monitor.SocketFile, pausedFile, "state.json"} {
		os.Remove(filepath.Join(c.RunDir(), name))
	}
}

// List returns all containers, the newest first, as they are now. Those that cannot be read are in the error, beside the
// others.
func (e *Engine) List(ctx context.Context) ([]*Container, error) {
	ids, err := e.ids()
	if err != nil {
		return nil, err
	}
	var list []*Container
	var errs []error
	for _, id := range ids {
		c, err := e.Get(ctx, id)
		if err != nil {
			errs = append(errs, notFoundIsNil(err))
			continue
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	return list, errors.Join(errs...)
}

// reapAll looks for what killed commands have left: folders without a record whose lock is free, and those that were being
// removed. It is cheap where there is none.
func (e *Engine) reapAll(ctx context.Context) error {
	entries, err := os.ReadDir(e.containersDir())
	if err != nil {
		return nil // there are none yet; anything else, making one will tell
	}
	var errs []error
	for _, d := range entries {
		name := d.Name()
		if len(name) > 64 && name[:len(removing)] == removing {
			errs = append(errs, removeAll(filepath.Join(e.containersDir(), name)))
			continue
		}
		if len(name) != 64 {
			continue
		}
		if _, err := os.Lstat(filepath.Join(e.containersDir(), name, recordFile)); err == nil || locked(filepath.Join(e.runDir(), name, "lock")) {
			continue
		}
		_, err := e.Lock(ctx, name)
		errs = append(errs, notFoundIsNil(err))
	}
	return errors.Join(errs...)
}

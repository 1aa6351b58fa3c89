package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	container "github.com/nslab/nslab/labs/12-container"
)

// What a command that was killed has left, the next one finishes where it meets it. The rest is looked for only when somebody asks
// for it: run folders, control groups and names of containers that are no more. What is taken for ours is never known by a pattern:
// a folder below the run root must say itself that it belongs to this root, and a control group is one that such a folder has in
// its journal, or that the spec of a container of this root names.

// Reap removes what killed commands have left, and returns what that was.
func (e *Engine) Reap(ctx context.Context) (removed []string, err error) {
	errs := []error{e.reapAll(ctx)}
	for _, reap := range []func(context.Context) ([]string, error){e.reapRuns, e.reapGroups, e.reapNames} {
		list, err := reap(ctx)
		removed, errs = append(removed, list...), append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// noteRoot writes into the lock which root the container belongs to, since several may have one run root. Where there is no room
// for that, nobody will clean up for it, which is no reason not to have the lock.
func (c *Container) noteRoot() {
	if st, err := c.lock.Stat(); err == nil && st.Size() == 0 {
		if f, err := os.OpenFile(c.lock.Name(), os.O_WRONLY, 0); err == nil { // truncated, ext4 would write it out at once
			f.WriteString(c.engine.Root)
			f.Close()
		}
	}
}

// reapRuns removes the run folders of containers of this root that are no more, with what their journals name.
func (e *Engine) reapRuns(ctx context.Context) (removed []string, err error) {
	entries, err := os.ReadDir(e.runDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	errs := []error{err}
	for _, d := range entries {
		if len(d.Name()) != 64 || e.exists(d.Name()) {
			continue
		}
		c := &Container{engine: e}
		c.ID = d.Name()
		gone, err := c.reapRun(ctx)
		if errs = append(errs, err); gone {
			removed = append(removed, c.RunDir())
		}
	}
	return removed, errors.Join(errs...)
}

// reapRun removes one, unless somebody has it, or it is another root's.
func (c *Container) reapRun(ctx context.Context) (bool, error) {
	name := filepath.Join(c.RunDir(), "lock")
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return os.Remove(c.RunDir()) == nil, nil // its maker was killed after the first step; only an empty folder goes
	} else if err != nil {
		return false, nil // it has no owner that could be told
	}
	moment, cancel := context.WithTimeout(ctx, time.Second) // a monitor holds the lock until just after the start
	defer cancel()
	lock, err := lockFile(moment, name)
	if err != nil {
		return false, nil // it is being made or removed
	}
	defer lock.Close()
	owner, err := io.ReadAll(io.LimitReader(lock, unix.PathMax))
	if entries, e := os.ReadDir(c.RunDir()); err == nil && e == nil && len(owner) == 0 && len(entries) == 1 { // or after the second
		return os.Remove(lock.Name()) == nil && os.Remove(c.RunDir()) == nil, nil
	}
	if err != nil || string(owner) != c.engine.Root || c.engine.exists(c.ID) {
		return false, nil
	}
	s, err := container.Load(c.RunDir())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case s.Alive(): // somebody has taken the container's folder away while it ran
		err = c.kill(ctx)
	case c.monitored():
		return false, nil // which is about to finish
	}
	if s != nil && err == nil {
		err = s.Delete(ctx, true)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(err, c.dropNetworks(ctx))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, c.removeRun()
}

// reapGroups removes the control groups of containers whose run folder somebody has taken away, so that nothing knows any more
// that they run.
func (e *Engine) reapGroups(ctx context.Context) (removed []string, err error) {
	ids, err := e.ids()
	if err != nil {
		return nil, err
	}
	system, err := cgroups.Discover()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, id := range ids {
		c, err := e.Get(ctx, id)
		if err != nil || c.State.Running {
			continue // what cannot be read is not touched
		}
		list, err := c.reapGroup(ctx, system)
		removed, errs = append(removed, list...), append(errs, notFoundIsNil(err))
	}
	return removed, errors.Join(errs...)
}

func (c *Container) reapGroup(ctx context.Context, system *cgroups.System) (removed []string, err error) {
	if os.Geteuid() != 0 || !anyGroup(system, c.cgroupsPath()) { // an ordinary user's is below his own group
		return nil, nil
	}
	locked, err := c.engine.Lock(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	defer locked.Close()
	if _, err := container.Load(locked.RunDir()); err == nil || locked.State.Running || locked.monitored() {
		return nil, nil
	}
	return locked.dropGroup(ctx)
}

// groupBusy tells whether there are processes in the control group that a container has by its id.
func (c *Container) groupBusy() (bool, error) {
	system, err := cgroups.Discover()
	if err != nil {
		return false, err
	}
	for _, h := range system.Hierarchies {
		data, err := os.ReadFile(filepath.Join(h.Mount, c.cgroupsPath(), "cgroup.procs"))
		if len(data) > 0 {
			return true, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return false, fmt.Errorf("look for processes of container %s: %w", c.ID[:12], err)
		}
	}
	return false, nil
}

// dropGroup removes the control group that a container has by its id, with all processes in it, and returns its folders. The
// caller holds the lock, and knows that the container does not run.
func (c *Container) dropGroup(ctx context.Context) (removed []string, err error) {
	if os.Geteuid() != 0 {
		return nil, nil // an ordinary user's is below his own group, which need not be the one of this session
	}
	system, err := cgroups.Discover()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range system.Hierarchies {
		dir := filepath.Join(h.Mount, c.cgroupsPath())
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		if err := cgroups.RemoveDir(ctx, dir); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, dir)
	}
	return removed, errors.Join(errs...)
}

func anyGroup(system *cgroups.System, path string) bool {
	for _, h := range system.Hierarchies {
		if _, err := os.Lstat(filepath.Join(h.Mount, path)); err == nil {
			return true
		}
	}
	return false
}

// reapNames removes names that lead to no container, and gives a container its name back that has lost it.
func (e *Engine) reapNames(ctx context.Context) (removed []string, err error) {
	entries, err := os.ReadDir(e.namesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list names: %w", jsonfile.Cause(err))
	}
	for _, d := range entries {
		id, err := os.Readlink(filepath.Join(e.namesDir(), d.Name()))
		if err != nil || e.exists(id) && !strings.Contains(d.Name(), "~") {
			continue
		}
		if e.dropName(d.Name(), id) {
			removed = append(removed, filepath.Join(e.namesDir(), d.Name()))
		}
	}
	list, err := e.List(ctx)
	errs := []error{err}
	for _, c := range list {
		if _, err := os.Lstat(filepath.Join(e.namesDir(), c.Name)); errors.Is(err, fs.ErrNotExist) && c.Name != "" && e.exists(c.ID) {
			errs = append(errs, e.claim(c.Name, c.ID))
		}
	}
	return removed, errors.Join(errs...)
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	volumes "github.com/nslab/nslab/labs/07-volumes"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/jsonfile"
)

// removing begins the name of a container's folder while it is taken apart.
const removing = ".removing-"

// RemoveOptions is what `rm` may be told.
type RemoveOptions struct {
	Force   bool // end it first, if it runs
	Volumes bool // and its anonymous volumes
}

// Remove takes a container away, with everything that is only its own.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.State.Running {
		if !o.Force {
			return &StateError{Container: ref, Status: c.State.Status, Op: "remove", Hint: "stop it first, or force it with -f"}
		}
		if err := c.killForGood(ctx); err != nil {
			return err
		}
	}
	if err := c.endRun(ctx); err != nil {
		return err
	}
	return c.remove(ctx, o.Volumes)
}

// killForGood ends a container, and its monitor as well if that does not come to its end within reason: it may be stopped, or
// wait for a disk that does not answer.
func (c *Container) killForGood(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := c.kill(bounded)
	if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var run monitor.Run
	if err := readJSON(filepath.Join(c.RunDir(), monitor.RunFile), &run); errors.Is(err, fs.ErrNotExist) {
		return nil // it has come to its end meanwhile, which takes this file away: one of a hundred at once, on a slow machine
	} else if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(run.Monitor, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hold the monitor, process %d: %w", run.Monitor, err)
	}
	defer unix.Close(pidfd)
	// A number alone may be somebody else's by now; nobody else has this container's lock open.
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", run.Monitor))
	for _, f := range files {
		if name, _ := os.Readlink(f); name == filepath.Join(c.RunDir(), monitor.LockFile) {
			return unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		}
	}
	return err
}

// endRun does what the container's monitor does at the end, for one that was killed before: it ends what still runs, and takes
// the control group away.
func (c *Container) endRun(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := errors.Join(c.awaitMonitor(bounded), c.dropNetworks(context.WithoutCancel(ctx)))
	s, loadErr := container.Load(c.RunDir())
	if loadErr == nil {
		return errors.Join(err, s.Delete(context.WithoutCancel(ctx), true))
	}
	if errors.Is(loadErr, fs.ErrNotExist) {
		return err
	}
	return errors.Join(err, loadErr)
}

// Discard is [Engine.Remove] for a container that the caller has locked, and that does not run.
func (c *Container) Discard(ctx context.Context) error { return c.remove(ctx, true) }

// remove takes a container that does not run apart. The caller holds the lock.
//
// What points to the container goes first: its name, and what it holds of volumes and images. Then the folder gets a name
// that no container has, in one step: from then on it is not there, even if its files take time, or nslab is killed
// meanwhile. Nothing of this needs room on the disk, so a full one can be cleared.
func (c *Container) remove(ctx context.Context, withVolumes bool) error {
	if c.specWritten != nil {
		c.specWritten()
		c.specWritten = nil
	}
	if c.unfinished() { // its state was lost
		if _, err := c.dropGroup(ctx); err != nil {
			return err
		}
	}
	err := errors.Join(c.dropNetworks(ctx), c.giveBack(withVolumes))
	return errors.Join(err, c.removeFolders())
}

// giveBack gives back what points to the container, or is only held by it.
func (c *Container) giveBack(withVolumes bool) error {
	return errors.Join(
		c.engine.disclaim(c.Name, c.ID),
		c.engine.disclaim(c.OtherName, c.ID),
		c.releaseVolumes(withVolumes),
		c.engine.images.Release(c.Image, c.ID),
	)
}

func (c *Container) removeFolders() error {
	aside := filepath.Join(c.engine.containersDir(), removing+c.ID)
	err := os.Rename(c.Dir(), aside)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		aside = c.Dir() // some file system may have no room even for that
	}
	err = removeAll(aside)
	return errors.Join(err, c.removeRun())
}

// removeRun removes the run folder. The lock is the last that goes: whoever is killed here leaves a folder that says whose it is.
func (c *Container) removeRun() error {
	entries, err := os.ReadDir(c.RunDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", c.RunDir(), jsonfile.Cause(err))
	}
	for _, d := range entries {
		if d.Name() != lockName {
			err = errors.Join(err, removeAll(filepath.Join(c.RunDir(), d.Name())))
		}
	}
	if err != nil {
		return err
	}
	for _, name := range []string{filepath.Join(c.RunDir(), lockName), c.RunDir()} {
		// Who has waited for the lock makes a new one, sees that the container is gone, and removes it as well.
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove %s: %w", name, jsonfile.Cause(err))
		}
	}
	return nil
}

// lockName is the lock in a container's run folder.
const lockName = "lock"

// removeAll removes a folder with all that is in it. The container may have made folders that their owner cannot enter,
// which stops nobody but an ordinary user.
func removeAll(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // which RemoveAll does not know where the file system is read-only
	}
	err := os.RemoveAll(dir)
	if errors.Is(err, fs.ErrPermission) {
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				os.Chmod(p, 0o700)
			}
			return nil
		})
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, jsonfile.Cause(err))
	}
	return nil
}

// releaseVolumes gives the container's volumes back, and removes those that nobody gave a name.
func (c *Container) releaseVolumes(anonymous bool) error {
	if !slices.ContainsFunc(c.Mounts, func(m MountPoint) bool { return m.Type == volumes.TypeVolume }) {
		return nil
	}
	store, err := c.engine.Volumes()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range c.Mounts {
		if m.Type == volumes.TypeVolume {
			errs = append(errs, releaseVolume(store, m.Name, c.ID, anonymous))
		}
	}
	return errors.Join(errs...)
}

func releaseVolume(store *volumes.Store, name, id string, remove bool) error {
	v, err := store.Get(name)
	if errors.Is(err, volumes.ErrNoVolume) {
		return nil
	}
	if err == nil {
		err = store.Release(name, id)
	}
	if err != nil || !remove || !v.Anonymous {
		return err
	}
	if err := store.Remove(name); err != nil && !errors.Is(err, volumes.ErrInUse) && !errors.Is(err, volumes.ErrNoVolume) {
		return err
	}
	return nil
}

// discard takes back what a creation has made that failed, or whose maker was killed before it wrote the record. All of it
// carries the id, so nothing else need be known.
func (c *Container) discard(ctx context.Context) error {
	if c.lock == nil {
		return nil // nothing was made yet
	}
	errs := []error{c.dismiss(ctx), c.endRun(ctx)}
	names, err := os.ReadDir(c.engine.namesDir())
	if err == nil {
		for _, n := range names {
			errs = append(errs, c.engine.disclaim(n.Name(), c.ID))
		}
	}
	if store, err := c.engine.Volumes(); err == nil {
		list, err := store.List()
		errs = append(errs, err)
		for _, v := range list {
			if slices.Contains(v.Users, c.ID) {
				errs = append(errs, releaseVolume(store, v.Name, c.ID, true))
			}
		}
	}
	errs = append(errs, c.engine.images.ReleaseAll(c.ID), c.removeFolders())
	return errors.Join(errs...)
}

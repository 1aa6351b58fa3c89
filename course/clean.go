package course

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cleaned is what `nslab clean` found.
type Cleaned struct {
	Removed []string `json:"removed"` // what interrupted runs had left, and is gone now
	Running []string `json:"running"` // runs that are going on, left alone
}

// Clean undoes what interrupted runs below the run root have left: what their journals name, and nothing else. With kept,
// also what `--keep` has left on purpose. Runs that are going on are left alone.
func Clean(labs []*Lab, root string, withKept bool) (Cleaned, error) {
	c := Cleaned{Removed: []string{}, Running: []string{}}
	if _, err := os.Stat(filepath.Join(root, labsFolder)); errors.Is(err, os.ErrNotExist) {
		return c, nil // no lab has ever run: nothing to make a folder for
	}
	over, alive, err := takeRuns(root, withKept)
	if err != nil {
		return c, err
	}
	c.Running = alive
	var errs []error
	for _, r := range over {
		things, err := pendingOf(r)
		if err == nil {
			err = undoRun(labs, r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("run %s: %w", r.id, err), r.lock.Close())
			continue
		}
		c.Removed = append(c.Removed, things...)
	}
	return c, errors.Join(errs...)
}

// takeRuns locks every run that is over. Those that still go on are returned by name.
func takeRuns(root string, withKept bool) (over []*run, alive []string, err error) {
	labs, err := openLabs(root)
	if err != nil {
		return nil, nil, err
	}
	defer labs.Close()
	entries, err := labs.ReadDir(-1)
	if err != nil {
		return nil, nil, fmt.Errorf("list the run root: %w", err)
	}
	alive = []string{}
	for _, e := range entries {
		r := &run{id: e.Name(), dir: filepath.Join(root, labsFolder, e.Name())}
		r.lock, err = os.OpenFile(filepath.Join(r.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return over, alive, fmt.Errorf("open the lock of run %s: %w", r.id, err)
		}
		if withKept {
			err = endKept(r)
		}
		var free bool
		if err == nil {
			free, err = takeLock(r)
		}
		if free {
			over = append(over, r)
			continue
		}
		if err != nil {
			return over, alive, errors.Join(err, r.lock.Close())
		}
		if !isKept(r) || withKept {
			alive = append(alive, r.id)
		}
		r.lock.Close()
	}
	slices.Sort(alive)
	return over, alive, nil
}

// takeLock takes the lock of a run that is over. A guard that was killed takes the sacrifice with it, but not at the same
// instant: for as long as that one still dies, the lock is worth waiting for.
func takeLock(r *run) (taken bool, err error) {
	for end := time.Now().Add(grace); ; time.Sleep(2 * time.Millisecond) {
		if unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true, nil
		}
		fd, _, err := openProcess(filepath.Join(r.dir, guardFile))
		if fd >= 0 {
			return false, unix.Close(fd) // it goes on
		}
		if err != nil || isKept(r) || time.Now().After(end) {
			return false, err
		}
	}
}

func isKept(r *run) bool {
	_, err := os.Stat(filepath.Join(r.dir, keptFile))
	return err == nil
}

// endKept asks the process that `--keep` left behind to undo its step and end, and makes it if it does not.
func endKept(r *run) error {
	fd, pid, err := openProcess(filepath.Join(r.dir, keptFile))
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		if waitEnded(fd, cleanupTime+grace) {
			return nil
		}
	}
	return fmt.Errorf("end process %d: it does not die", pid)
}

// pendingOf lists what a run's journal has open, for people, and its folder.
func pendingOf(r *run) ([]string, error) {
	j, err := openJournal(filepath.Join(r.dir, journalFile))
	if err != nil {
		return nil, err
	}
	defer j.Close()
	entries, err := j.pending()
	var list []string
	for _, e := range entries {
		list = append(list, e.Kind+" "+e.Path)
	}
	return append(list, "folder "+r.dir), err
}

// undoRun undoes what a run's journal still has, newest first, and removes its folder. It goes on past errors, and
// leaves the folder with the journal where there were any.
func undoRun(labs []*Lab, r *run) error {
	j, err := openJournal(filepath.Join(r.dir, journalFile))
	if err != nil {
		return err
	}
	defer j.Close()
	entries, err := j.pending()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	var errs []error
	for _, e := range entries {
		l := find(labs, e.Lab)
		if l == nil || l.Undo[e.Kind] == nil {
			errs = append(errs, fmt.Errorf("undo %s %s of lab %s: this nslab does not know how", e.Kind, e.Path, e.Lab))
			continue
		}
		if err := l.Undo[e.Kind](ctx, e.Path); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", strings.TrimSpace(e.Kind+" "+e.Path), err))
			continue
		}
		errs = append(errs, j.end(e.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.remove()
}

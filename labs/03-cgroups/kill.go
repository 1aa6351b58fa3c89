package cgroups

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

	"github.com/nslab/nslab/trace"
)

// Kill ends every process in the group and in the groups below it, and returns when none is left.
//
// With cgroup.kill (v2, kernel 5.14) the kernel does it in one go; a fork bomb cannot outrun it. Elsewhere the group is
// frozen first, so that nobody forks while the list is worked off, each process is sent SIGKILL, and then thawed, since
// on v1 a frozen process does not even die.
func (g *Group) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	freezer := g.dir("freezer")
	if freezer != nil && freezer.Version == 2 {
		freezer = nil // v2's frozen processes hear SIGKILL
	}
	var whole string
	for _, d := range g.Dirs {
		if d.Version == 2 && exists(filepath.Join(d.Path, "cgroup.kill")) {
			whole = d.Path
		}
	}
	var err error
	switch {
	case whole != "":
		err = write(ctx, 0, filepath.Join(whole, "cgroup.kill"), "1")
	case freezer != nil && exists(freezer.Path):
		err = errors.Join(g.Freeze(ctx), g.killEach(ctx))
	default:
		err = g.killEach(ctx)
	}
	if freezer != nil && isFreezing(freezer.Path) {
		// Whatever went wrong: nobody is left frozen, to be found by the next one who wants to remove the group.
		err = errors.Join(err, thaw(context.WithoutCancel(ctx), freezer.Path, 1))
	}
	if err != nil {
		return err
	}
	// v2 first: its event tells of a process's end at once, and then it is out of the v1 folders too.
	for _, version := range []int{2, 1} {
		for _, d := range g.Dirs {
			if d.Version != version {
				continue
			}
			if err := killUntilEmpty(ctx, d.Path, version, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// isFreezing says whether a v1 group is frozen or on the way there.
func isFreezing(dir string) bool {
	state, err := readFile(filepath.Join(dir, stateFile))
	return err == nil && state != "THAWED"
}

func (g *Group) killEach(ctx context.Context) error {
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	return killAll(ctx, pids, g.Pids)
}

// killAll sends SIGKILL to those of pids that list still names once each is held by a pidfd. A number alone may belong to
// somebody else by the time it is used; a pidfd that was open while the number was in the group cannot.
func killAll(ctx context.Context, pids []int, list func() ([]int, error)) error {
	handles := map[int]int{}
	defer func() {
		for _, fd := range handles {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if pid == 0 {
			continue // in a PID namespace that ours cannot see
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			continue // gone, or just a dead leader
		}
		if err != nil {
			return fmt.Errorf("hold process %d: %w", pid, err)
		}
		handles[pid] = fd
	}
	still, err := list()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := handles[pid]
		if !ok {
			continue // new: the next round's
		}
		err := trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("pidfd_send_signal(pidfd of %d, SIGKILL)", pid) },
			func() error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// killUntilEmpty waits until a folder has no processes, and kills those that are there still, or again, some time after the
// first blow; struck says that it has been dealt.
func killUntilEmpty(ctx context.Context, dir string, version int, struck bool) error {
	if version == 2 && exists(filepath.Join(dir, "cgroup.kill")) {
		return awaitEvent(ctx, dir, "populated", 0)
	}
	list := func() ([]int, error) { return pidsBelow(dir) }
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		pids, err := list()
		if err != nil || len(pids) == 0 {
			return err
		}
		if !struck {
			if err := killAll(ctx, pids, list); err != nil {
				return err
			}
		}
		struck = wait < 10*time.Millisecond // by then whoever is left has not been hit
		if pause(ctx, wait) != nil {        // v1 has no event for this
			return &Error{Op: "kill", File: dir, Err: fmt.Errorf("processes %v remain: %w", pids, context.Cause(ctx))}
		}
	}
}

// Delete removes the group's folders and the groups below them. Processes in it must have ended; one that is about to is
// waited for. It is idempotent.
func (g *Group) Delete(ctx context.Context) error {
	var errs []error
	for _, d := range slices.Backward(g.Dirs) {
		errs = append(errs, remove(ctx, d.Path))
	}
	return errors.Join(errs...)
}

// RemoveEmpty removes the group's folders if nothing is left in it, and tells whether it has. The kernel knows best: rmdir(2)
// refuses a group with processes or with groups below it (EBUSY). So when a container has ended as it should, one call for
// each folder is all, instead of freezing, listing and killing nobody.
func (g *Group) RemoveEmpty(ctx context.Context) bool {
	for _, d := range slices.Backward(g.Dirs) {
		if checkOurs(d.Path) != nil || rmdirSoon(ctx, d.Path) != nil {
			return false
		}
	}
	return true
}

// rmdirSoon waits for one that is dead and not yet gone: it is in no list of the group any more, and the group is busy.
func rmdirSoon(ctx context.Context, dir string) error {
	for range 10 {
		if err := rmdir(ctx, dir); !errors.Is(err, unix.EBUSY) {
			return err
		}
		if pids, err := pidsIn(dir); err != nil || len(pids) > 0 || pause(ctx, 100*time.Microsecond) != nil {
			break
		}
	}
	return unix.EBUSY
}

// remove removes one folder with its children, deepest first, since a group with children stays (EBUSY).
func remove(ctx context.Context, dir string) error {
	return walk(dir, func(child string) error { return rmdirPatiently(ctx, child) })
}

// rmdirPatiently repeats a refused rmdir for a moment: a killed process leaves its group late in its death, after its
// parent has been told of it, and the group is busy until then.
func rmdirPatiently(ctx context.Context, dir string) error {
	until := time.Now().Add(patience / 5)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := rmdir(ctx, dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(until) {
			return err
		}
		if pids, e := pidsIn(dir); e == nil && len(pids) > 0 && !anyDying(pids) {
			return err // they live: waiting would be in vain
		}
		if pause(ctx, wait) != nil {
			return err
		}
	}
}

// anyDying says whether one of the processes has ended: it is gone by now, or a zombie that nobody has waited for yet.
func anyDying(pids []int) bool {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		// The state follows the name, which is in parentheses and may hold anything. See proc_pid_stat(5).
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
		if state, _, _ := strings.Cut(rest, " "); state == "Z" || state == "X" {
			return true
		}
	}
	return false
}

// RemoveDir kills what is in a group's folder in one hierarchy and removes it, with whatever is below. It is what undoes a
// folder that an nslab made and journalled, so it refuses anything that cannot be one: the name must be nslab's, and the
// place a cgroup file system. A folder that is gone is no error.
func RemoveDir(ctx context.Context, dir string) error {
	if err := checkOurs(dir); err != nil {
		return err
	}
	version := fsVersion(dir)
	if version == 0 {
		return nil // checkOurs has seen that it is not there
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Thaw first: what is frozen on v1 does not die.
	for _, f := range []struct{ file, value string }{{stateFile, "THAWED"}, {freezeFile, "0"}} {
		if file := filepath.Join(dir, f.file); exists(file) {
			if err := writeOnce(file, f.value); err != nil && !errors.Is(err, unix.ENODEV) {
				return &Error{Op: "write", File: file, Value: f.value, Err: err}
			}
		}
	}
	file := filepath.Join(dir, "cgroup.kill")
	whole := exists(file)
	if whole {
		if err := write(ctx, 0, file, "1"); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := killUntilEmpty(ctx, dir, version, whole); err != nil {
		return err
	}
	return remove(ctx, dir)
}

// checkOurs says whether a folder can be a group that nslab made. It may be gone already.
func checkOurs(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), prefix) {
		return &Error{Op: "remove", File: dir, Err: errForeign}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &Error{Op: "remove", File: dir, Err: err}
	}
	var fs unix.Statfs_t
	err = errors.Join(unix.Fstatfs(fd, &fs), unix.Close(fd))
	if err != nil {
		return &Error{Op: "remove", File: dir, Err: err}
	}
	if magicVersion(int64(fs.Type)) == 0 {
		return &Error{Op: "remove", File: dir, Err: errForeign}
	}
	return nil
}

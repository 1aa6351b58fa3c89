package cgroups

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Switching a controller on in a cgroup.subtree_control is a change to the host: every child of that folder gets new
// files. It is undone by the last group of nslab's that needs it, and only if nslab did it. Who did, and who needs it, is
// kept where the thing itself is kept, in the kernel: an empty group "nslab-on-cpu" beside ours marks a switch that nslab
// turned, and holds an empty group for each that needs it. Like the switch they are gone after a reboot.

const (
	prefix     = "nslab-"
	markerName = prefix + "on-"
	leafName   = prefix + "leaf"
)

// enabling is a controller to switch on for the children of a v2 group, for the sake of one of them.
type enabling struct{ dir, controller, user string }

// String is how it is journalled.
func (e enabling) String() string {
	return filepath.Join(e.dir, subtreeControl) + " +" + e.controller + " " + e.user
}

func parseEnabling(s string) (enabling, error) {
	file, rest, ok := strings.Cut(s, " +")
	controller, user, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || filepath.Base(file) != subtreeControl || !filepath.IsAbs(file) || filepath.Clean(file) != file ||
		controller == "" || strings.Trim(controller, "abcdefghijklmnopqrstuvwxyz_") != "" ||
		user == "" || user == "." || user == ".." || strings.Contains(user, "/") {
		return enabling{}, fmt.Errorf("undo %s: %q is not a controller switched on", KindSubtree, s)
	}
	return enabling{filepath.Dir(file), controller, user}, nil
}

func (e enabling) isOn() (bool, error) {
	list, err := readFile(filepath.Join(e.dir, subtreeControl))
	return slices.Contains(strings.Fields(list), e.controller), err
}

func (e enabling) marker() string { return filepath.Join(e.dir, markerName+e.controller) }

// on switches the controller on. The caller holds the lock.
func (e enabling) on(ctx context.Context) error {
	on, err := e.isOn()
	if err != nil || on && !exists(e.marker()) {
		return err // or the host has switched it on itself since we planned
	}
	// The marks first: killed in between, there is a mark of nothing, rather than a switch that nobody remembers.
	for _, mark := range []string{e.marker(), filepath.Join(e.marker(), e.user)} {
		if err := mkdir(ctx, mark); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if on {
		return nil
	}
	return write(ctx, 0, filepath.Join(e.dir, subtreeControl), "+"+e.controller)
}

// off switches it off again, if nslab switched it on and this was the last group that needed it.
func (e enabling) off(ctx context.Context) error {
	if !exists(e.dir) {
		return nil
	}
	if fsVersion(e.dir) != 2 {
		return &Error{Op: "undo " + KindSubtree + " of", File: e.dir, Err: errForeign}
	}
	unlock, err := lock(ctx, e.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := rmdir(ctx, filepath.Join(e.marker(), e.user)); err != nil {
		return err
	}
	if !exists(e.marker()) || len(childGroups(e.marker())) > 0 {
		return nil // it was on before us, or others need it
	}
	on, err := e.isOn()
	if err != nil {
		return err
	}
	if on {
		err := write(ctx, 0, filepath.Join(e.dir, subtreeControl), "-"+e.controller)
		if err != nil && !errors.Is(err, unix.EBUSY) { // busy: a group that is not nslab's hands it down by now, and needs it
			return err
		}
	}
	return rmdir(ctx, e.marker())
}

// lock keeps two nslabs from switching the same controller on and off at once. The kernel frees it when its holder dies.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", File: dir, Err: err}
	}
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Close(fd) }, nil // closing it is what gives the lock back
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(&Error{Op: "lock", File: dir, Err: err}, unix.Close(fd))
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return nil, errors.Join(fmt.Errorf("wait for the lock on %s: %w", dir, err), unix.Close(fd))
		}
	}
}

// evacuate moves all processes of a leaf's parent into the leaf, so that the parent may have controllers for its children.
func evacuate(ctx context.Context, leaf string) error {
	if err := mkdir(ctx, leaf); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return move(ctx, filepath.Dir(leaf), leaf)
}

// returnFromLeaf is its undo. The controllers must be off by then: the rule works in this direction too.
func returnFromLeaf(ctx context.Context, leaf string) error {
	if err := checkOurs(leaf); err != nil || !exists(leaf) {
		return err
	}
	if err := move(ctx, leaf, filepath.Dir(leaf)); err != nil {
		return err
	}
	return remove(ctx, leaf)
}

// rounds bounds how often a list of processes is read again, because a process may fork while the others are moved.
const rounds = 100

func move(ctx context.Context, from, to string) error {
	for range rounds {
		pids, err := pidsIn(from)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			err := write(ctx, 0, filepath.Join(to, procsFile), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) { // it ended in the meantime: just as well
				return err
			}
		}
	}
	return &Error{Op: "empty", File: from, Err: unix.EBUSY}
}

// removeUnused removes a folder that has neither processes nor groups below. The kernel refuses to remove any other, which is
// no error here: somebody has made use of it since.
func removeUnused(ctx context.Context, dir string) error {
	if !exists(dir) {
		return nil
	}
	if fsVersion(dir) == 0 {
		return &Error{Op: "remove", File: dir, Err: errForeign}
	}
	err := rmdir(ctx, dir)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// Undo removes a [Thing] again, whoever made it. It is idempotent, and refuses what cannot be nslab's.
func Undo(ctx context.Context, t Thing) error {
	switch t.Kind {
	case KindGroup:
		return RemoveDir(ctx, t.Path)
	case KindParent:
		return removeUnused(ctx, t.Path)
	case KindLeaf:
		return returnFromLeaf(ctx, t.Path)
	case KindSubtree:
		e, err := parseEnabling(t.Path)
		if err != nil {
			return err
		}
		return e.off(ctx)
	}
	return fmt.Errorf("undo %s: unknown kind of thing", t.Kind)
}

package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// changeRoot: one call, and "/" is another folder.
func changeRoot(t *course.T) error {
	root, plan, err := rootWith(t, "sh", "ls", "cat")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	host, before, err := rootOf(box)
	if err != nil {
		return err
	}
	mountsBefore, err := mount.TableOf(os.Getpid())
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-chroot", root); err != nil {
		return err
	}
	said, err := box.Call(t.Context(), "04-run", plan.program("ls"), "/")
	if err != nil {
		return err
	}
	id, after, err := rootOf(box)
	if err != nil {
		return err
	}
	want, err := identity(root)
	if err != nil {
		return err
	}
	t.See("/proc/%s/root, seen from outside: %s before, %s after", str(box.Pid()), before, after)
	t.See("device and inode of its root: %s before, %s after", host, id)
	t.See("ls / says: %s", strings.Join(strings.Fields(said), " "))
	there, err := names(root)
	if err != nil {
		return err
	}
	t.Equal(want, id, "its root is the folder that was built")
	t.Equal(there, strings.Join(strings.Fields(said), " "), "ls / shows what is in that folder")
	mine, err := identity("/")
	if err != nil {
		return err
	}
	t.Equal(host, mine, "the root of the process that started it is what it was")
	mountsAfter, err := mount.TableOf(os.Getpid())
	if err != nil {
		return err
	}
	t.Equal(len(mountsBefore), len(mountsAfter), "no mount was made or changed for it")
	return nil
}

// walkOutOfChroot: the way out is open.
func walkOutOfChroot(t *course.T) error {
	root, _, err := rootWith(t, "sh", "ls")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	host, err := identity("/")
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "04-chroot", root); err != nil {
		return err
	}
	before, after, err := walk(t, box)
	if err != nil {
		return err
	}
	t.See("the host's root has device and inode %s", host)
	t.Check(before != host, "another root than "+host, before, "at first its root is not the host's")
	t.Equal(host, after, "after the walk it is the host's: it is out")
	return nil
}

// walk lets the box try the classic way out, and returns what it had as its root before and after.
func walk(t *course.T, box *pid.Box) (before, after string, err error) {
	if before, err = seeRoot(t, box); err != nil {
		return "", "", err
	}
	if _, err = box.Call(t.Context(), "04-walk-out", ""); err != nil {
		return "", "", err
	}
	after, err = seeRoot(t, box)
	return before, after, err
}

// seeRoot shows what a box has as its root, from outside.
func seeRoot(t *course.T, box *pid.Box) (id string, err error) {
	id, _, err = rootOf(box)
	if err != nil {
		return "", err
	}
	there, err := list(box, "/")
	if err != nil {
		return "", err
	}
	t.See("its root: device and inode %s, with %s", id, there)
	return id, nil
}

// pivot: the root of the whole mount namespace is exchanged.
func pivot(t *course.T) error {
	if onRamfs(t) {
		return nil
	}
	root, _, err := rootWith(t, "sh", "ls")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	hostBefore, err := identity("/")
	if err != nil {
		return err
	}
	before, err := mount.TableOf(box.Pid())
	if err != nil {
		return err
	}
	old, _ := before.At("/")
	t.See("before: %s mounts; on / is mount %s, %s", str(len(before)), str(old.ID), old.FSType)
	if _, err := box.Call(t.Context(), "04-mount-point", root); err != nil {
		return err
	}
	fd, err := box.Call(t.Context(), "04-swap", root)
	if err != nil {
		return err
	}
	between, err := mount.TableOf(box.Pid())
	if err != nil {
		return err
	}
	top, _ := between.At("/")
	below, _ := between.ByID(top.Parent)
	t.See("in between: on / are mounts %s; the uppermost is %s, and lies on %s", onRoot(between), str(top.ID), str(below.ID))
	t.Check(top.ID == old.ID && below.Target == "/" && below.Source == "disk", str(old.ID)+" on the new root",
		fmt.Sprintf("%d on %s", top.ID, below.Source), "the old root is not gone: it lies on top of the new one")
	if _, err := box.Call(t.Context(), "04-drop-old", fd); err != nil {
		return err
	}
	return pivoted(t, box, root, hostBefore)
}

// onRoot lists the mounts on "/".
func onRoot(table mount.Table) string {
	var ids []string
	for _, m := range table {
		if m.Target == "/" {
			ids = append(ids, str(m.ID))
		}
	}
	return strings.Join(ids, ", ")
}

// pivoted looks at a box whose old root has been unmounted.
func pivoted(t *course.T, box *pid.Box, root, hostBefore string) error {
	after, err := mount.TableOf(box.Pid())
	if err != nil {
		return err
	}
	for _, m := range after {
		t.See("after: %s", m.String())
	}
	id, _, err := rootOf(box)
	if err != nil {
		return err
	}
	want, err := identity(root)
	if err != nil {
		return err
	}
	t.Equal(want, id, "its root is the folder that was built")
	t.Equal(1, len(after), "of all mounts of the namespace one is left: the new root")
	exe := fmt.Sprintf("/proc/%d/exe", box.Pid())
	name, err := os.Readlink(exe)
	if err != nil {
		return err
	}
	mountID, err := mount.IDOf(exe)
	if err != nil {
		return err
	}
	_, found := after.ByID(mountID)
	t.See("its own program is still %s, on mount %s, which is not in its table", name, str(mountID))
	t.Check(!found, "not in the table", mountID, "what was open stays usable, though no path leads there")
	mine, err := identity("/")
	if err != nil {
		return err
	}
	t.Equal(hostBefore, mine, "outside of its mount namespace, / is what it was")
	return nil
}

// walkOutOfPivot: the same walk, and it ends where it began.
func walkOutOfPivot(t *course.T) error {
	root, _, err := rootWith(t, "sh", "ls")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	host, err := identity("/")
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "04-mount-point", root); err != nil {
		return err
	}
	if err := enter(t.Untraced(), t, box, root); err != nil {
		return err
	}
	before, after, err := walk(t, box)
	if err != nil {
		return err
	}
	t.See("the host's root has device and inode %s", host)
	want, err := identity(root)
	if err != nil {
		return err
	}
	t.Equal(want, before, "its root is the folder that was built")
	t.Equal(before, after, "after the same walk it still is")
	t.Check(after != host, "another root than "+host, after, "it has not reached the host's")
	return nil
}

// refusals: what pivot_root wants, and what it says where it does not get it.
func refusals(t *course.T) error {
	if onRamfs(t) {
		return nil
	}
	place, _, err := bench(t)
	if err != nil {
		return err
	}
	for _, name := range []string{"plain", "bound", "elsewhere", "around", "around/new"} {
		if err := os.Mkdir(filepath.Join(place, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(place, "file"), nil, 0o644); err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(place, name) }
	for _, call := range [][2]string{
		{"04-mount-point", in("bound")}, {"04-mount-point", in("around")}, {"04-shared", in("around")},
		{"04-mount-point", in("around/new")}, {"04-private", in("around/new")},
	} {
		if _, err := box.Call(t.Untraced(), call[0], call[1]); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		newRoot, putOld string
		errno           unix.Errno
		unmet           string
	}{
		{in("file"), in("file"), unix.ENOTDIR, "the new root is a folder that exists"},
		{in("plain"), in("plain"), unix.EINVAL, "the new root is a mount point"},
		{in("bound"), "/", unix.EBUSY, "put_old is on another mount than the present root"},
		{in("around/new"), in("around/new"), unix.EINVAL, "the mount around the new root is not shared"},
		{in("bound"), in("elsewhere"), unix.EINVAL, "put_old lies at or below the new root"},
	} {
		_, err := box.Call(t.Context(), "04-pivot-root", c.newRoot, c.putOld)
		unmet := strings.Join(t.Diagnose(err), ", ")
		t.Check(evidence.Answer(err) == unix.ErrnoName(c.errno) && unmet == c.unmet, unix.ErrnoName(c.errno)+": "+c.unmet,
			evidence.Answer(err)+": "+unmet, "pivot_root says %s, and what does not hold is named", unix.ErrnoName(c.errno))
	}
	_, err = box.Call(t.Context(), "04-pivot", in("bound"))
	t.Equal("ok", evidence.Answer(err), "with all of them met it agrees")
	there, err := identity(evidence.Inside(box.Pid(), "/"))
	if err != nil {
		return err
	}
	want, err := identity(in("bound"))
	if err != nil {
		return err
	}
	t.Equal(want, there, "its root is the folder that was bound")
	return nil
}

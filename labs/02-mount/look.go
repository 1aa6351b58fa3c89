package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// copyOfAll: a new mount namespace is a copy of the mount table, and shows the same files.
func copyOfAll(t *course.T) error {
	box, err := newBox(t.Context(), t)
	if err != nil {
		return err
	}
	here, err := evidence.Namespace(outside(), "mnt")
	if err != nil {
		return err
	}
	there, err := evidence.Namespace(box.Pid(), "mnt")
	if err != nil {
		return err
	}
	mine, err := TableOf(outside())
	if err != nil {
		return err
	}
	its, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	myTmp, err := identity("/tmp")
	if err != nil {
		return err
	}
	itsTmp, err := identity(evidence.Inside(box.Pid(), "/tmp"))
	if err != nil {
		return err
	}
	myRoot, _ := mine.At("/")
	itsRoot, _ := its.At("/")
	t.See("mount namespace: mnt:[%s] outside, mnt:[%s] inside", fmt.Sprint(here), fmt.Sprint(there))
	t.See("lines in the mount table: %s outside, %s inside", str(len(mine)), str(len(its)))
	t.See("id of the mount on /: %s outside, %s inside", str(myRoot.ID), str(itsRoot.ID))
	t.See("device and inode of /tmp outside: %s", myTmp)
	t.See("device and inode of /tmp inside: %s (%s)", itsTmp, evidence.Inside(box.Pid(), "/tmp"))
	if t.InUserNamespace() {
		t.See("this runs in a user namespace: what was inherited from the host is locked, and cannot be unmounted")
	}
	t.Check(here != there, "two namespaces", fmt.Sprintf("%d and %d", here, there), "it has a mount namespace of its own")
	t.Equal(0, its.shared(mine), "no mount is the same on both sides: every id is new")
	t.Equal(mine.described(), its.described(), "yet both tables describe the same mounts")
	t.Equal(myTmp, itsTmp, "and /tmp is still the very same folder")
	return nil
}

// shared counts the mounts of t, by id, that other has too.
func (t Table) shared(other Table) int { return len(t) - len(t.Added(other)) }

// described tells what a table mounts where, without what is particular to one namespace.
func (t Table) described() string {
	var lines []string
	for _, e := range t {
		lines = append(lines, strings.Join([]string{e.Device, e.Root, e.Target, e.Options, e.FSType, e.Source}, " "))
	}
	slices.Sort(lines) // the order of a copy is that of the tree, not that of mounting
	return strings.Join(lines, "\n")
}

// tmpfsOnTmp: with a mount the view changes, and only inside.
func tmpfsOnTmp(t *course.T) error {
	hostBefore, err := t.HostMounts()
	if err != nil {
		return err
	}
	tmpBefore, err := identity("/tmp")
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	before, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "02-tmpfs", "/tmp", t.Name()); err != nil {
		return err
	}
	after, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	added := after.Added(before)
	for _, m := range added {
		t.See("new in the box's table: %s", m.String())
	}
	itsTmp := evidence.Inside(box.Pid(), "/tmp")
	entries, err := os.ReadDir(itsTmp)
	if err != nil {
		return err
	}
	hostEntries, err := os.ReadDir("/tmp")
	if err != nil {
		return err
	}
	t.See("entries in /tmp: %s outside, %s inside", str(len(hostEntries)), str(len(entries)))
	t.Check(len(after)-len(before) == 1 && len(added) == 1 && added[0].Target == "/tmp" && added[0].FSType == "tmpfs",
		"a tmpfs on /tmp", fmt.Sprint(added), "the box's table has exactly one line more: a tmpfs on /tmp")
	t.Equal(0, len(entries), "/tmp is empty inside")
	return hostUntouched(t, box, hostBefore, tmpBefore)
}

// hostUntouched compares the host with what it was before the box mounted its /tmp.
func hostUntouched(t *course.T, box *pid.Box, hostBefore []string, tmpBefore string) error {
	tmpAfter, err := identity("/tmp")
	if err != nil {
		return err
	}
	inside, err := identity(evidence.Inside(box.Pid(), "/tmp"))
	if err != nil {
		return err
	}
	t.See("device and inode of /tmp outside: %s", tmpAfter)
	t.See("device and inode of /tmp inside: %s (%s)", inside, evidence.Inside(box.Pid(), "/tmp"))
	t.Check(inside != tmpBefore, "another folder than "+tmpBefore, inside, "inside, /tmp is another folder now")
	t.Equal(tmpBefore, tmpAfter, "outside, /tmp is the folder it was")
	if inside != tmpBefore { // else the file would land in the host's /tmp
		name := filepath.Join("/tmp", t.Name())
		if _, err := box.Call(t.Untraced(), "02-write", name, "only inside"); err != nil {
			return err
		}
		_, err := os.Lstat(name)
		t.See("the box writes %s; outside, that name is: %s", name, evidence.Answer(err))
		t.Equal("ENOENT", evidence.Answer(err), "a file made in the box's /tmp is not in the host's")
	}
	hostAfter, err := t.HostMounts()
	if err != nil {
		return err
	}
	n := differing(hostBefore, hostAfter)
	t.See("the host's mount table: %s lines before, %s after, %s differ",
		str(len(hostBefore)), str(len(hostAfter)), str(n))
	t.Equal(0, n, "compared line by line, the host's mount table is unchanged")
	return nil
}

// bind: one folder under two paths.
func bind(t *course.T) error {
	dir, err := bench(t, "a", "b")
	if err != nil {
		return err
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, file := range []string{a + "/of-a", b + "/of-b"} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return err
		}
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	before, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "02-bind", a, b); err != nil {
		return err
	}
	after, err := TableOf(box.Pid())
	if err != nil {
		return err
	}
	added := after.Added(before)
	m, _ := after.At(b)
	throughA, errA := identity(evidence.Inside(box.Pid(), a+"/of-a"))
	throughB, errB := identity(evidence.Inside(box.Pid(), b+"/of-a"))
	t.See("new in the box's table: device %s, root %s, mounted on %s", m.Device, m.Root, m.Target)
	t.See("device and inode: a/of-a is %s, b/of-a is %s", orError(throughA, errA), orError(throughB, errB))
	t.See("in b: %s inside, %s outside", orNone(list(evidence.Inside(box.Pid(), b))), orNone(list(b)))
	t.Equal(1, len(added), "the bind is one line in the mount table")
	t.Equal("/a", m.Root, "its root is the folder a, not the root of a disk")
	t.Equal(orError(throughA, errA), orError(throughB, errB), "both paths lead to one inode: nothing was copied")
	t.Equal("of-b", list(b), "outside, b is as it was")
	if _, err := box.Call(t.Context(), "02-unmount", b); err != nil {
		return err
	}
	t.See("in b after the unmount: %s inside", orNone(list(evidence.Inside(box.Pid(), b))))
	t.Equal("of-b", list(evidence.Inside(box.Pid(), b)), "what lay under the bind was only covered, and is back")
	return nil
}

// orError shows a result, or why there is none.
func orError(s string, err error) string {
	if err != nil {
		return evidence.Answer(err)
	}
	return s
}

// list names the files in dir.
func list(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return evidence.Answer(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

package mount

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// sharedDisk makes a disk whose mount is shared, with two folders to mount on, and then a box, whose copy of that mount
// thereby becomes a peer. On a host with systemd every mount is like this one.
func sharedDisk(t *course.T) (string, *pid.Box, error) {
	place, err := bench(t, "disk")
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(place, "disk")
	if err := disk(t.Untraced(), path, 0); err != nil {
		return "", nil, err
	}
	for _, name := range []string{"from-inside", "from-outside"} {
		if err := os.Mkdir(filepath.Join(path, name), 0o755); err != nil {
			return "", nil, err
		}
	}
	if err := Shared(t.Context(), path); err != nil {
		return "", nil, err
	}
	box, err := newBox(t.Context(), t)
	return path, box, err
}

// bothMount lets the box mount on disk/from-inside, and mounts on disk/from-outside out here. It reports for each of the
// two whether the other side's table has it.
func bothMount(t *course.T, path string, box *pid.Box) (out, in bool, err error) {
	fromInside, fromOutside := filepath.Join(path, "from-inside"), filepath.Join(path, "from-outside")
	if _, err := box.Call(t.Context(), "02-disk", fromInside); err != nil {
		return false, false, err
	}
	if err := disk(t.Context(), fromOutside, 0); err != nil {
		return false, false, err
	}
	seenHere, err := mountedOn(outside(), fromInside)
	if err != nil {
		return false, false, err
	}
	seenThere, err := mountedOn(box.Pid(), fromOutside)
	if err != nil {
		return false, false, err
	}
	t.See("disk/from-inside, mounted inside · in the table outside: %s", orNone(seenHere.brief()))
	t.See("disk/from-outside, mounted outside · in the table inside: %s", orNone(seenThere.brief()))
	return seenHere.ID != 0, seenThere.ID != 0, nil
}

// brief is what to know of a mount that was looked for, and empty if it was not found.
func (e Entry) brief() string {
	if e.ID == 0 {
		return ""
	}
	return fmt.Sprintf("id %d, %s, %s", e.ID, e.FSType, e.Propagation())
}

// bothSides shows the type of the disk's mount on either side.
func bothSides(t *course.T, path string, box *pid.Box) (here, there Entry, err error) {
	if here, err = mountedOn(outside(), path); err != nil {
		return here, there, err
	}
	if there, err = mountedOn(box.Pid(), path); err != nil {
		return here, there, err
	}
	t.See("the mount on disk: %s outside, %s inside", here.Propagation(), there.Propagation())
	return here, there, nil
}

// leak: a shared mount carries what is mounted below it into every namespace that has a copy.
func leak(t *course.T) error {
	hostBefore, err := t.HostMounts()
	if err != nil {
		return err
	}
	path, box, err := sharedDisk(t)
	if err != nil {
		return err
	}
	here, there, err := bothSides(t, path, box)
	if err != nil {
		return err
	}
	t.Check(here.Shared > 0 && here.Shared == there.Shared, "one peer group", here.Propagation()+" and "+there.Propagation(),
		"both mounts are in one peer group")
	out, in, err := bothMount(t, path, box)
	if err != nil {
		return err
	}
	t.Check(out, "a mount", "none", "what the box mounted has leaked out of its namespace")
	t.Check(in, "a mount", "none", "and what is mounted outside appears in the box")
	file := filepath.Join(path, "from-inside", "file")
	if _, err := box.Call(t.Untraced(), "02-write", file, "from the box"); err != nil {
		return err
	}
	mine, errMine := identity(file)
	its, errIts := identity(evidence.Inside(box.Pid(), file))
	t.See("a file that the box writes there: %s outside, %s inside", orError(mine, errMine), orError(its, errIts))
	t.Equal(orError(its, errIts), orError(mine, errMine), "the files in it are seen outside")
	hostAfter, err := t.HostMounts()
	if err != nil {
		return err
	}
	n := differing(hostBefore, hostAfter)
	t.See("the host itself, on which nothing of this is shared: %s lines differ", str(n))
	t.Equal(0, n, "the leak stays within the walkthrough's own namespace")
	return nil
}

// private: MS_PRIVATE before the first mount, and nothing passes either way.
func private(t *course.T) error {
	path, box, err := sharedDisk(t)
	if err != nil {
		return err
	}
	before, after, err := changed(t, path, box, "02-private")
	if err != nil {
		return err
	}
	t.Check(before.Shared > 0, "shared", before.Propagation(), "the box had inherited a shared mount")
	t.Equal("private", after.Propagation(), "now its copy is private")
	out, in, err := bothMount(t, path, box)
	if err != nil {
		return err
	}
	t.Equal(false, out, "what the box mounts stays in the box")
	t.Equal(false, in, "what is mounted outside does not arrive")
	return nil
}

// slave: MS_SLAVE lets the outer mounts in, and none out.
func slave(t *course.T) error {
	path, box, err := sharedDisk(t)
	if err != nil {
		return err
	}
	before, after, err := changed(t, path, box, "02-slave")
	if err != nil {
		return err
	}
	t.Check(before.Shared > 0 && after.Master == before.Shared, "master:"+str(before.Shared), after.Propagation(),
		"its copy is a slave of the group it was in")
	out, in, err := bothMount(t, path, box)
	if err != nil {
		return err
	}
	t.Equal(false, out, "what the box mounts stays in the box")
	t.Equal(true, in, "what is mounted outside arrives in the box")
	return nil
}

// changed lets the box change the propagation of all its mounts, and returns its mount on disk before and after.
func changed(t *course.T, path string, box *pid.Box, action string) (before, after Entry, err error) {
	if _, before, err = bothSides(t, path, box); err != nil {
		return before, after, err
	}
	if _, err = box.Call(t.Context(), action, "/"); err != nil {
		return before, after, err
	}
	_, after, err = bothSides(t, path, box)
	return before, after, err
}

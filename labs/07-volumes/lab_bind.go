package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nslab/nslab/course"
)

// sameInode: nothing is copied.
func sameInode(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	file := filepath.Join(p.host, "note")
	if err := os.WriteFile(file, []byte("from outside\n"), 0o644); err != nil {
		return err
	}
	box, err := inside(t.Context(), t, p, Mount{Type: TypeBind, Source: p.host, Target: "/data"})
	if err != nil {
		return err
	}
	outside, within := identity(file), identity(in(box, "/data/note"))
	t.See("device and inode outside, of host/note: %s", outside)
	t.See("device and inode inside, of /data/note: %s", within)
	t.Equal(outside, within, "it is one file under two paths")
	t.See("inside it reads: %s", text(in(box, "/data/note")))
	t.Equal("from outside", text(in(box, "/data/note")), "with one content")
	t.See("/data was not in the image: the runtime has made it")
	return nil
}

// bothWays: what one side writes the other one reads.
func bothWays(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	box, err := inside(t.Untraced(), t, p, Mount{Type: TypeBind, Source: p.host, Target: "/data"})
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "07-write", "/data/inside", "written inside\n"); err != nil {
		return err
	}
	said := write(filepath.Join(p.host, "outside"), "written outside")
	there, err := box.Call(t.Untraced(), "07-see", "/data")
	if err != nil {
		return err
	}
	t.See("the box has written /data/inside; outside, host/ has: %s", names(p.host))
	t.Equal("written inside", text(filepath.Join(p.host, "inside")), "what was written inside is outside")
	t.See("we have written host/outside (%s); the box lists /data: %s", said, there)
	t.Equal("inside outside", there, "and what was written outside is inside")
	if err := box.Kill(t.Untraced()); err != nil {
		return err
	}
	t.See("the box is gone, and with it its mount; host/ has: %s", names(p.host))
	t.Equal("inside outside", names(p.host), "the files have outlived it")
	return nil
}

// hidden: a mount covers, and deletes nothing.
func hidden(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	if err := makeFolders(filepath.Join(p.root, "data")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.root, "data/image"), []byte("the image's own\n"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.host, "host"), nil, 0o644); err != nil {
		return err
	}
	box, err := inside(only(t, "open_tree", "move_mount"), t, p, Mount{Type: TypeBind, Source: p.host, Target: "/data"})
	if err != nil {
		return err
	}
	during, below := names(in(box, "/data")), names(filepath.Join(p.root, "data"))
	t.See("the box's /data has: %s", during)
	t.See("the folder underneath, seen from outside: %s", below)
	t.Equal("host", during, "the image's file is out of sight inside")
	t.Equal("image", below, "and still there underneath")
	if _, err := box.Call(t.Context(), "07-unmount", "/data"); err != nil {
		return err
	}
	after := names(in(box, "/data"))
	t.See("after the umount the box's /data has: %s; and the file reads: %s", after, text(in(box, "/data/image")))
	t.Equal("image", after, "what was covered is back, untouched")
	t.Equal("host", names(p.host), "and the host's folder is as it was")
	return nil
}

// order: after the mount namespace, before the root is switched.
func order(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	before, err := t.HostMounts()
	if err != nil {
		return err
	}
	ours, err := mountsBelow(os.Getpid(), p.dir)
	if err != nil {
		return err
	}
	box, err := newBox(t, p.root)
	if err != nil {
		return err
	}
	if err := bind(only(t, "open_tree", "move_mount"), box, p.root, Mount{Type: TypeBind, Source: p.host, Target: "/data"}); err != nil {
		return err
	}
	within, err := mountsBelow(box.Pid(), filepath.Join(p.root, "data"))
	if err != nil {
		return err
	}
	now, err := mountsBelow(os.Getpid(), p.dir)
	if err != nil {
		return err
	}
	after, err := t.HostMounts()
	if err != nil {
		return err
	}
	t.See("mounts on root/data in the box's table: %s; mounts here: %s, before: %s", str(within), str(now), str(ours))
	t.Equal(1, within, "the volume is in the box's mount table")
	t.Equal(ours, now, "and not in that of the process beside it")
	t.Equal(strings.Join(before, "\n"), strings.Join(after, "\n"), "the host's table is the same, line by line")

	if _, err := box.Call(only(t, "pivot_root", "chroot"), "04-enter", p.root); err != nil {
		return err
	}
	err = bind(t.Untraced(), box, "/", Mount{Type: TypeBind, Source: p.host, Target: "/late"})
	t.See("after the root is switched, the same bind again: %s", lastPart(err))
	t.Diagnose(err)
	t.Check(err != nil, "an error", fmt.Sprint(err), "too late: no path leads to the host's folder any more")
	t.Equal("–", names(in(box, "/data")), "the one that came in time is still there, an empty folder of the host")
	return nil
}

// lastPart is what the kernel said, without what was being done.
func lastPart(err error) string {
	parts := strings.Split(fmt.Sprint(err), ": ")
	return parts[len(parts)-1]
}

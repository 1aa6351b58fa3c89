package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// readOnly: "ro" is one mount.
func readOnly(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	disk := filepath.Join(p.host, "disk")
	if err := makeFolders(disk); err != nil {
		return err
	}
	if err := mount.Tmpfs(t.Untraced(), disk, mount.TmpfsOptions{Name: "disk", Size: 1 << 20, Mode: 0o755}); err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, disk) })
	box, err := inside(only(t, "open_tree", "mount_setattr"), t, p,
		Mount{Type: TypeBind, Source: p.host, Target: "/top", ReadOnly: true, TopOnly: true},
		Mount{Type: TypeBind, Source: p.host, Target: "/all", ReadOnly: true})
	if err != nil {
		return err
	}
	top, hole := write(in(box, "/top/x"), "x"), write(in(box, "/top/disk/x"), "x")
	all, below := write(in(box, "/all/x"), "x"), write(in(box, "/all/disk/y"), "y")
	t.See("host/disk is a mount of its own below the source")
	t.See("bound with ro: writing /top/x: %s; writing /top/disk/x: %s", top, hole)
	t.Equal("EROFS", top, "ro: the folder itself cannot be written")
	t.Equal("ok", hole, "but what is mounted below it can")
	t.See("bound with rro: writing /all/x: %s; writing /all/disk/y: %s", all, below)
	t.Equal("EROFS EROFS", all+" "+below, "rro: nothing can be written, however deep")
	t.See("outside, host/disk has: %s", names(disk))
	t.Equal("ok", write(filepath.Join(p.host, "z"), "z"), "outside the folder can be written as ever")
	return nil
}

// links: the image decides what its paths mean, but not beyond its root.
func links(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	outside := filepath.Join(p.dir, "etc") // stands for the host's /etc
	if err := makeFolders(outside); err != nil {
		return err
	}
	up := strings.Repeat("../", 20) + strings.TrimPrefix(outside, "/")
	for name, target := range map[string]string{"abs": "/etc", "up": "../../../etc", "far": outside, "way": up} {
		if err := os.Symlink(target, filepath.Join(p.root, name)); err != nil {
			return err
		}
	}
	t.See("the image has: %s", "abs → /etc, up → ../../../etc")
	careless := identity(filepath.Join(p.root, "abs"))
	t.See("a careless runtime that joins the paths would mount on %s, the host's /etc is %s", careless, identity("/etc"))
	t.Equal(identity("/etc"), careless, "joined as text, the link leads to the host's /etc")

	box, err := newBox(t, p.root)
	if err != nil {
		return err
	}
	for _, target := range []string{"/abs", "/up"} {
		if err := bind(only(t, "openat2", "move_mount"), box, p.root, Mount{Type: TypeBind, Source: p.host, Target: target}); err != nil {
			return err
		}
	}
	count, err := mountsBelow(box.Pid(), filepath.Join(p.root, "etc"))
	if err != nil {
		return err
	}
	total, err := mountsBelow(box.Pid(), "/etc")
	if err != nil {
		return err
	}
	here, err := mountsBelow(os.Getpid(), "/etc")
	if err != nil {
		return err
	}
	t.See("mounts on root/etc in the box's table: %s; on /etc: %s, here: %s", str(count), str(total), str(here))
	t.Equal(2, count, "both binds have gone to the /etc of the image")
	t.Equal(here, total, "and none to the host's")

	for _, target := range []string{"/far", "/way"} {
		err := bind(t.Untraced(), box, p.root, Mount{Type: TypeBind, Source: p.host, Target: target})
		t.See("a link to a path that only the host has, %s: %s", target, evidence.Answer(err))
		t.Equal("ENOENT", evidence.Answer(err), "inside it leads nowhere, and nothing is made for it")
	}
	t.Equal("–", names(outside), "the folder that they meant is as it was")
	return nil
}

// propagation: who hears of later mounts.
func propagation(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	if err := mount.Tmpfs(t.Untraced(), p.host, mount.TmpfsOptions{Name: "host", Size: 1 << 20, Mode: 0o755}); err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, p.host) })
	later := filepath.Join(p.host, "later")
	if err := makeFolders(later); err != nil {
		return err
	}
	if err := mount.Shared(t.Context(), p.host); err != nil {
		return err
	}
	box, err := newBox(t, p.root)
	if err != nil {
		return err
	}
	// What a runtime does first in a new mount namespace: hear of the host's mounts, and never tell it of one's own.
	if _, err := box.Call(t.Context(), "07-slave"); err != nil {
		return err
	}
	for _, m := range []Mount{
		{Type: TypeBind, Source: p.host, Target: "/private"},
		{Type: TypeBind, Source: p.host, Target: "/slave", Propagation: "rslave"},
	} {
		if err := bind(only(t, "mount_setattr"), box, p.root, m); err != nil {
			return err
		}
	}
	if err := mount.Tmpfs(t.Context(), later, mount.TmpfsOptions{Name: "later", Size: 1 << 20}); err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, later) })
	if err := os.WriteFile(filepath.Join(later, "new"), nil, 0o644); err != nil {
		return err
	}
	private, slave := names(in(box, filepath.Join(p.root, "private/later"))), names(in(box, filepath.Join(p.root, "slave/later")))
	t.See("a disk is mounted on host/later now; in the box, /private/later has: %s; /slave/later has: %s", private, slave)
	t.Equal("–", private, "rprivate, the default: later mounts do not come in")
	t.Equal("new", slave, "rslave: they do")
	return nil
}

// refused: what cannot be meant.
func refused(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	file := filepath.Join(p.host, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	box, err := newBox(t, p.root)
	if err != nil {
		return err
	}
	before, err := mountsBelow(box.Pid(), p.root)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		m     Mount
		want  error
		check string
	}{
		{Mount{Type: TypeBind, Source: filepath.Join(p.host, "none"), Target: "/data"}, unix.ENOENT, "a source that does not exist: --mount makes none"},
		{Mount{Type: TypeBind, Source: file, Target: "/etc"}, ErrFolder, "a file on a folder"},
		{Mount{Type: TypeBind, Source: p.host, Target: "/"}, ErrRoot, "anything on the root itself"},
	} {
		err := bind(t.Untraced(), box, p.root, c.m)
		said := "ok"
		if err != nil {
			said = lastPart(err)
		}
		t.See("%s on %s: %s", filepath.Base(c.m.Source), c.m.Target, said)
		t.Check(err != nil && (errors.Is(err, c.want) || strings.Contains(err.Error(), c.want.Error())), c.want, said, c.check)
	}
	after, err := mountsBelow(box.Pid(), p.root)
	if err != nil {
		return err
	}
	t.Equal(before, after, "nothing has been mounted")
	t.Equal("etc", names(p.root), "and nothing made")

	accepted := 0
	for _, spec := range []string{"relative", "a:b:c:d", "x:/data", "data:/", "/host:/data:ro,rw", "/host:/data:fast"} {
		_, err := ParseVolume(spec)
		t.See("-v %s: %s", spec, reason(err))
		if !errors.Is(err, ErrSpec) {
			accepted++
		}
	}
	t.Equal(0, accepted, "none of these is taken for a volume")
	return nil
}

// reason is an error without the stage's name and the volume that it repeats.
func reason(err error) string {
	if err == nil {
		return "ok"
	}
	_, rest, _ := strings.Cut(err.Error(), `": `)
	return rest
}

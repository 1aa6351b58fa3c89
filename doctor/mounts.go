package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
)

// The probes of file systems; this file runs in a room. All of them mount over /tmp, which every machine has, and which
// in the room is nobody else's.
const place = "/tmp"

// tryTmpfs mounts a tmpfs as lab 02 does.
func tryTmpfs(ctx context.Context, _ request) ([]string, error) {
	done, err := tmpfs(ctx)
	if err != nil {
		return nil, err
	}
	e, err := mounted(place, "tmpfs")
	return []string{e.FSType, e.Target, strconv.Itoa(e.ID)}, errors.Join(err, done())
}

func tmpfs(ctx context.Context) (done func() error, err error) {
	err = mount.Tmpfs(ctx, place, mount.TmpfsOptions{
		Name: "nslab-doctor", Size: 1 << 20, Mode: 0o700, Flags: unix.MS_NOSUID | unix.MS_NODEV,
	})
	return func() error { return mount.Detach(ctx, place) }, err
}

// mounted looks in the kernel's table whether target is a mount of this type.
func mounted(target, fsType string) (mount.Entry, error) {
	table, err := mount.Current()
	if err != nil {
		return mount.Entry{}, err
	}
	e, ok := table.At(target)
	if !ok || e.FSType != fsType {
		return e, &wrong{"the kernel agreed, but the mount is not in its table"}
	}
	return e, nil
}

// tryFuse mounts a FUSE file system that nobody serves. The kernel agrees to the mount at once and asks its questions
// later, so nothing may touch the mount point until it is gone: it would wait for an answer.
func tryFuse(ctx context.Context, _ request) ([]string, error) {
	const device = "/dev/fuse"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, refusedBy(err, "open(%q, O_RDWR)", device)
	}
	defer unix.Close(fd)
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := mount.Syscall(ctx, "nslab-doctor", place, "fuse", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return nil, err
	}
	e, err := mounted(place, "fuse")
	return []string{e.FSType, e.Target, strconv.Itoa(e.ID)}, errors.Join(err, mount.Detach(ctx, place))
}

// tryOverlayOnTmpfs is overlay as an ordinary user could use it, whatever disk there is.
func tryOverlayOnTmpfs(ctx context.Context, _ request) ([]string, error) {
	done, err := tmpfs(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := overlay(ctx, place)
	return facts, errors.Join(err, done())
}

// tryOverlayAt is overlay on the file system of the state folder, in the scratch that the parent holds.
func tryOverlayAt(ctx context.Context, job request) ([]string, error) {
	return overlay(ctx, job.Scratch)
}

// overlay mounts one below dir, and looks whether it does what layers need: a changed file appears in the upper layer, a
// deleted one as a whiteout. That takes more than a kernel with overlay: the file system below must know file types in
// its folders, extended attributes and whiteouts, which NFS, 9p, overlay itself and old XFS do not.
// See Documentation/filesystems/overlayfs.rst.
func overlay(ctx context.Context, dir string) (facts []string, err error) {
	// From here the options are relative: overlay's own syntax knows no quoting, and the folder may be called anything.
	if err := os.Chdir(dir); err != nil {
		return nil, refusedBy(err, "chdir(%q)", dir)
	}
	defer os.Chdir("/") // or the file system below stays busy
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, refusedBy(err, "mkdir(%q)", filepath.Join(dir, d))
		}
	}
	for _, f := range []string{"lower/changed", "lower/deleted"} {
		if err := os.WriteFile(f, []byte("lower"), 0o600); err != nil {
			return nil, refusedBy(err, "write(%q)", filepath.Join(dir, f))
		}
	}
	options := "lowerdir=lower,upperdir=upper,workdir=work"
	if inUserNamespace() {
		options += ",userxattr" // trusted.* attributes are for the real root
	}
	if err := mount.Syscall(ctx, "nslab-doctor", "merged", "overlay", 0, options); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mount.Detach(ctx, "merged")) }()

	if err := os.WriteFile("merged/changed", []byte("upper"), 0o600); err != nil {
		return nil, refusedBy(err, "write(%q)", "merged/changed")
	}
	if err := os.Remove("merged/deleted"); err != nil {
		return nil, refusedBy(err, "unlink(%q)", "merged/deleted")
	}
	if copied, err := os.ReadFile("upper/changed"); err != nil || string(copied) != "upper" {
		return nil, &wrong{"a changed file does not appear in the upper layer"}
	}
	info, err := os.Lstat("upper/deleted")
	if err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice || info.Sys().(*syscall.Stat_t).Rdev != 0 {
		return nil, &wrong{"a deleted file leaves no whiteout in the upper layer"}
	}
	return nil, nil
}

// inUserNamespace: the first user namespace maps every id to itself (user_namespaces(7)).
func inUserNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !mapsAll(string(data))
}

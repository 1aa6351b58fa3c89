package security

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	"github.com/nslab/nslab/trace"
)

// /proc and /sys show one kernel to everybody. PID namespaces filter the processes out of /proc, and nothing else: memory
// (kcore), keys, the interrupt counters by which a neighbour's key strokes can be timed are there, and root may write to
// what changes the machine. So what is about the machine is covered, or made read-only.

// MaskedPaths are the files and folders that Docker covers.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

// ReadonlyPaths are those that Docker lets a container read only.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// Mask covers paths of the tree: files with /dev/null, folders with an empty read-only tmpfs. What is not there is
// skipped, since kernels differ.
//
// It works from outside, in the container's mount namespace but before its root is "/": so the /dev/null is the host's,
// and every path is resolved inside the tree by the kernel, links included, and used through its descriptor.
func Mask(ctx context.Context, t *rootfs.Tree, paths []string) (err error) {
	var c covers
	defer func() { err = errors.Join(err, c.close()) }()
	for _, path := range paths {
		at, err := lookUp(ctx, t, path)
		if err != nil {
			return err
		}
		if at == nil {
			continue
		}
		if err := errors.Join(c.put(ctx, at), at.Close()); err != nil {
			return fmt.Errorf("10-security: mask %s: %w", path, err)
		}
	}
	return nil
}

// covers are what is mounted over things.
type covers struct {
	null  *os.File // /dev/null
	empty *os.File // the first empty folder; the others are binds of it, since each tmpfs costs the kernel a file system
}

// put covers what at is open for.
func (c *covers) put(ctx context.Context, at *os.File) (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &st); err != nil {
		return &Error{Op: "stat", What: at.Name(), Err: err}
	}
	var tree *os.File
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		if c.null == nil {
			if c.null, err = openNull(ctx, "/dev/null"); err != nil {
				return err
			}
		}
		// Read-only, which does not keep anybody from writing to a device, but from changing its file: this one is the host's,
		// and root inside is its owner. A chmod of a masked path would lock everybody on the machine out of /dev/null.
		if tree, err = mount.Clone(ctx, mount.Through(c.null), false); err == nil {
			err = mount.SetAttr(ctx, tree, false, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, 0)
		}
	case c.empty == nil:
		tree, err = mount.NewTmpfs(ctx, mount.TmpfsOptions{
			Size: 4096, Mode: 0o755, Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
		})
		if err == nil {
			c.empty = tree
			return mount.AttachAt(ctx, tree, at)
		}
	default:
		tree, err = mount.Clone(ctx, mount.Through(c.empty), false)
	}
	if tree == nil {
		return err
	}
	if err == nil {
		err = mount.AttachAt(ctx, tree, at)
	}
	return errors.Join(err, tree.Close())
}

func (c *covers) close() error {
	var errs []error
	for _, f := range []*os.File{c.null, c.empty} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// openNull opens the null device and looks whether it is that one: who can put something else under the name before a
// container starts would have it mounted, writable, on whatever is to be covered (CVE-2025-31133).
func openNull(ctx context.Context, name string) (*os.File, error) {
	fd := -1
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("open(%q, O_PATH|O_NOFOLLOW|O_CLOEXEC) = %d", name, fd) },
		func() (err error) {
			fd, err = unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open", What: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)) {
		err = ErrNotNull
	}
	if err != nil {
		return nil, errors.Join(&Error{Op: "open", What: name, Err: err}, f.Close())
	}
	return f, nil
}

// ReadOnly makes paths of the tree read-only, with all mounts below them: each is bound on itself, and the bind, which is
// not attached yet, is made read-only. What is not there is skipped.
func ReadOnly(ctx context.Context, t *rootfs.Tree, paths []string) error {
	for _, path := range paths {
		at, err := lookUp(ctx, t, path)
		if err != nil {
			return err
		}
		if at == nil {
			continue
		}
		if err := errors.Join(bindReadOnly(ctx, at), at.Close()); err != nil {
			return fmt.Errorf("10-security: make %s read-only: %w", path, err)
		}
	}
	return nil
}

func bindReadOnly(ctx context.Context, at *os.File) (err error) {
	tree, err := mount.Clone(ctx, mount.Through(at), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	if err := mount.SetAttr(ctx, tree, true, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
		return err
	}
	return mount.AttachAt(ctx, tree, at)
}

// lookUp opens what a path of the tree leads to, nil where there is nothing.
func lookUp(ctx context.Context, t *rootfs.Tree, path string) (*os.File, error) {
	at, err := t.Open(trace.Off(ctx), path, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return at, err
}

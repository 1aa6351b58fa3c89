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
		tree, err = nullMount(ctx, c.null)
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
	if err != nil {
		return err
	}
	return errors.Join(mount.AttachAt(ctx, tree, at), tree.Close())
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
	if err := isNull(f); err != nil {
		return nil, errors.Join(&Error{Op: "open", What: name, Err: err}, f.Close())
	}
	return f, nil
}

func isNull(f *os.File) error {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)) {
		err = ErrNotNull
	}
	return err
}

// IsNull tells whether f is a null device.
func IsNull(f *os.File) bool { return isNull(f) == nil }

// ReplaceNull puts another null device in the place of each standard stream that is one: they were opened outside, and root
// inside could change the rights of the host's file.
func ReplaceNull(ctx context.Context, dev *rootfs.Tree) error {
	var null *os.File
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
			continue
		}
		if null == nil {
			var err error
			if null, err = Null(ctx, dev); err != nil {
				return err
			}
			defer null.Close()
		}
		err := trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("dup3(%d</dev/null>, %d, 0)", null.Fd(), fd) },
			func() error { return unix.Dup3(int(null.Fd()), fd, 0) })
		if err != nil {
			return &Error{Op: "replace", What: fmt.Sprintf("descriptor %d", fd), Err: err}
		}
	}
	return nil
}

// nullMount is a mount of the host's null device that can be given away. It is read-only: this keeps nobody from writing to
// the device, but from changing its file, which belongs to root, inside as outside. A chmod of a masked path, or of
// descriptor 0, would lock all the machine out of /dev/null.
func nullMount(ctx context.Context, null *os.File) (*os.File, error) {
	tree, err := mount.Clone(ctx, mount.Through(null), false)
	if err != nil {
		return nil, err
	}
	if err := mount.SetAttr(ctx, tree, false, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, 0); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// Null opens a null device for a program that is to have nothing else for its input or output: the one of its own /dev, where
// that has one. Otherwise it is the host's, whose file cannot be changed through this descriptor; an ordinary user, who may
// not clone mounts, does not own it. dev may be nil.
func Null(ctx context.Context, dev *rootfs.Tree) (*os.File, error) {
	if dev != nil {
		// First where nothing happens by opening it: who runs in there may have put anything in its place.
		path, err := dev.Open(ctx, "null", unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err == nil {
			f, err := reopen(ctx, path, isNull(path))
			path.Close()
			if err == nil {
				return f, nil
			}
		}
	}
	path, err := openNull(ctx, os.DevNull)
	if err != nil {
		return nil, err
	}
	defer path.Close()
	tree, err := nullMount(ctx, path)
	if errors.Is(err, unix.EPERM) {
		return reopen(ctx, path, nil)
	}
	if err != nil {
		return nil, err
	}
	defer tree.Close() // an open file keeps the mount that it was opened through
	return reopen(ctx, tree, nil)
}

// reopen opens what a descriptor leads to for reading and writing, if there was no error before.
func reopen(ctx context.Context, path *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	name, fd := mount.Through(path), -1
	err = trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("open(%q, O_RDWR|O_CLOEXEC) = %d", name, fd) },
		func() (err error) {
			fd, err = unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open", What: path.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), os.DevNull), nil
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

package rootfs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// Chroot makes dir the folder that "/" means to the caller and its later children.
//
// That is all it does. The mounts stay, open files stay, and the rule "no further up than the root" is only a comparison
// that path lookup makes at each "..": a process whose working folder lies *outside* of its root never meets the root on
// its way up. chroot(2) does not move the working folder, so chdir comes second, and must not be forgotten: it puts the
// process inside. With CAP_SYS_CHROOT it gets out again all the same, see this lab's escape. Use [Enter].
func Chroot(ctx context.Context, dir string) error {
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("chroot(%q)", dir) },
		func() error { return unix.Chroot(dir) })
	if err != nil {
		return &Error{Op: "chroot", Path: dir, Err: err}
	}
	return chdir(ctx, "/")
}

// Pivot makes dir the root of the mount namespace and unmounts everything else. dir must be a mount point, on another
// mount than the present root: [MountPoint] makes one of a plain folder.
//
// It affects everybody in the mount namespace, not only the caller: never call it in the host's. All mounts must be
// private (mount.PrivateTree) or the kernel refuses, rightly: the host's root would be exchanged, too.
func Pivot(ctx context.Context, dir string) (err error) {
	old, err := swap(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(old)) }()
	return dropOld(ctx, old)
}

// swap puts dir at the place of the root, and the old root on top of it. The descriptor leads to the old root.
//
// pivot_root(new, put_old) wants a folder below the new root to hang the old one on. An image need not have one, may be
// read-only, and somebody would have to remove it. But put_old may be the new root itself: then the old root is
// *stacked* on it, as any mount may be on another. "." for both means one lookup: they cannot be two different folders.
func swap(ctx context.Context, dir string) (old int, err error) {
	// A way back to what is about to lose its name; and to where the caller was, if the kernel refuses.
	if old, err = openFolder(ctx, "/"); err != nil {
		return -1, err
	}
	here, err := openFolder(ctx, ".")
	if err != nil {
		return -1, errors.Join(err, unix.Close(old))
	}
	defer func() { err = errors.Join(err, unix.Close(here)) }()
	if err := chdir(ctx, dir); err != nil {
		return -1, errors.Join(err, unix.Close(old))
	}
	if err := PivotRoot(ctx, ".", "."); err != nil {
		var refused *Error
		if errors.As(err, &refused) {
			refused.Path, refused.PutOld = dir, dir // "." will mean something else to whoever reads this
		}
		return -1, errors.Join(err, unix.Fchdir(here), unix.Close(old))
	}
	return old, nil
}

// dropOld unmounts the old root, which old is open for, and goes to the new one.
//
// The order matters three times. First back into the old root, so that "." is the old one, whatever is stacked where.
// Then MS_SLAVE, before the unmount: where a mount below the old root is still shared with the host, MNT_DETACH would
// take it away *there*, too. Then the unmount, lazy because the caller's own program still runs from there; its working
// folder hangs in the air after that, so chdir comes last.
func dropOld(ctx context.Context, old int) error {
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fchdir(%d)", old) },
		func() error { return unix.Fchdir(old) })
	if err != nil {
		return &Error{Op: "fchdir", Path: "the old root", Err: err}
	}
	if err := mount.SlaveTree(ctx, "."); err != nil {
		return err
	}
	if err := mount.Detach(ctx, "."); err != nil {
		return err
	}
	return chdir(ctx, "/")
}

// PivotRoot is one pivot_root(2), exactly as told. [Pivot] is what to use; this is for whoever wants to see what the
// kernel says to some folders.
func PivotRoot(ctx context.Context, newRoot, putOld string) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("pivot_root(%q, %q)", newRoot, putOld) },
		func() error { return unix.PivotRoot(newRoot, putOld) })
	if err != nil {
		return &Error{Op: "pivot_root", Path: newRoot, PutOld: putOld, Err: err}
	}
	return nil
}

// MountPoint binds dir on itself, with all mounts below, unless something is mounted on it already. pivot_root exchanges
// mounts and knows nothing of folders; a bind makes a mount whose root is the folder. Do this before opening a [Tree]:
// a descriptor that was opened earlier stays beneath.
func MountPoint(ctx context.Context, dir string) error {
	is, err := mount.IsMountPoint(dir)
	if err != nil || is {
		return err
	}
	return mount.BindTree(ctx, dir, dir)
}

func chdir(ctx context.Context, dir string) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("chdir(%q)", dir) },
		func() error { return unix.Chdir(dir) })
	if err != nil {
		return &Error{Op: "chdir", Path: dir, Err: err}
	}
	return nil
}

// openFolder opens a folder only to come back to it: O_PATH asks for no right to read.
func openFolder(ctx context.Context, dir string) (int, error) {
	fd := -1
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("open(%q, O_PATH|O_DIRECTORY|O_CLOEXEC) = %d", dir, fd) },
		func() (err error) {
			fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return -1, &Error{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

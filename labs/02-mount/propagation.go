package mount

import (
	"context"

	"golang.org/x/sys/unix"
)

// Propagation is what makes a mount namespace less private than its name. Each mount has one of four types:
//
//	shared      what is mounted below it appears below all its peers, and the other way round; a copy (a bind, a new
//	            namespace) joins the peer group. The mount table shows "shared:N", N the group. systemd makes / so.
//	slave       it hears from its masters, and tells nobody: "master:N"
//	private     it neither hears nor tells: the kernel's own default, shown by no mark at all
//	unbindable  private, and no bind of it can be made: it stops "/ bound below /" from multiplying
//
// The type is of the mount, not of the namespace, and changing it changes neither flags nor files. With the word Tree it
// is changed for all mounts below, too. See mount_namespaces(7), Documentation/filesystems/sharedsubtree.rst.

// Private cuts the mount at target off from its peers. It must be done *before* the first mount below target: what has
// propagated already stays with the peers.
func Private(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make private", Target: target, Flags: unix.MS_PRIVATE})
}

// PrivateTree is [Private] for all mounts at and below target. PrivateTree(ctx, "/") is the first thing to do in a new
// mount namespace: every mount that it inherited as shared would else carry what happens inside to the host.
func PrivateTree(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make private", Target: target, Flags: unix.MS_PRIVATE | unix.MS_REC})
}

// Slave lets the mount at target hear from its peers, and tell them nothing. On a mount that is not shared it does nothing.
func Slave(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make slave", Target: target, Flags: unix.MS_SLAVE})
}

// SlaveTree is [Slave] for all mounts at and below target: what to do in a new namespace that is to see disks which are
// plugged in later.
func SlaveTree(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make slave", Target: target, Flags: unix.MS_SLAVE | unix.MS_REC})
}

// Shared makes the mount at target the first of a peer group; copies that are made of it join. A slave that is made
// shared still hears from its master, and passes on to its own peers.
func Shared(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make shared", Target: target, Flags: unix.MS_SHARED})
}

// SharedTree is [Shared] for all mounts at and below target.
func SharedTree(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make shared", Target: target, Flags: unix.MS_SHARED | unix.MS_REC})
}

// Unbindable makes the mount at target private, and refuses binds of it (EINVAL). A recursive bind leaves it out.
func Unbindable(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make unbindable", Target: target, Flags: unix.MS_UNBINDABLE})
}

// UnbindableTree is [Unbindable] for all mounts at and below target.
func UnbindableTree(ctx context.Context, target string) error {
	return call(ctx, 0, Error{Op: "make unbindable", Target: target, Flags: unix.MS_UNBINDABLE | unix.MS_REC})
}

// propagate makes the calls that the options of a mount ask for ("rslave", "shared"), in their order.
func propagate(ctx context.Context, target string, types []uintptr) error {
	for _, flags := range types {
		if err := call(ctx, 0, Error{Op: "make " + propagationName(flags), Target: target, Flags: flags}); err != nil {
			return err
		}
	}
	return nil
}

func propagationName(flags uintptr) string {
	switch flags & propagation {
	case unix.MS_PRIVATE:
		return "private"
	case unix.MS_SLAVE:
		return "slave"
	case unix.MS_SHARED:
		return "shared"
	}
	return "unbindable"
}

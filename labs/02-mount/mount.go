// Package mount changes what a process finds under a path.
//
// The idea: a file system is not at a place, it is *put* there. The kernel keeps a table of mounts, one for each mount
// namespace; a line says which part of which file system covers which folder. clone(2) with CLONE_NEWNS copies the table,
// nothing more: until somebody mounts, both sides see the same files. Containers are made of the lines that follow.
//
// The interface: [Bind] and [Tmpfs] add a line, [Unmount] and [Detach] take one away, [Remount] and [BindReadOnly] change
// one, [Private], [Slave], [Shared] and [Unbindable] decide whether other namespaces hear about it. [Mount] does what
// an OCI configuration or a line of fstab asks for. [Clone], [SetAttr] and [Attach] are the newer system calls: they
// prepare mounts that no path leads to yet, and attach them in one go. [MountAt] uses them to mount onto an open
// descriptor instead of a name. [TableOf] reads a mount table back.
//
// The limits: all calls act on the mount namespace of the calling *thread*. Nothing here waits or retries: mount(2)
// either happened or it did not. Two-call operations undo the first call where the second is refused, but whoever looks
// in between sees the half; only the new calls are atomic. The procfs of a PID namespace is mounted by lab 01.
//
// See mount(2), umount(2), mount_namespaces(7), mount_setattr(2), Documentation/filesystems/sharedsubtree.rst.
package mount

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Syscall is one mount(2), exactly as told: nothing is added and nothing looked up. The helpers below are what to use;
// this is for whoever wants to see what the kernel makes of some flags.
func Syscall(ctx context.Context, source, target, fstype string, flags uintptr, data string) error {
	return call(ctx, 1, Error{Op: "mount", Source: source, Target: target, FSType: fstype, Flags: flags, Data: data})
}

// call is mount(2), with the arguments in the form of the error that it may become.
func call(ctx context.Context, skip int, e Error) error {
	err := trace.Call(ctx, skip+1,
		func() string {
			return fmt.Sprintf("mount(%q, %q, %q, %s, %s)", e.Source, e.Target, e.FSType, FlagNames(e.Flags), quoteOrNull(e.Data))
		},
		func() error { return unix.Mount(e.Source, e.Target, e.FSType, e.Flags, e.Data) })
	if err != nil {
		e.Err = err
		return &e
	}
	return nil
}

// Bind makes the folder or file source appear at target too. Nothing is copied: both paths lead to the same inodes, and
// what lay at target is covered until the bind is unmounted. Mounts below source stay behind, see [BindTree].
//
// A bind takes no other flags. The kernel drops them without a word, MS_RDONLY too: use [BindReadOnly].
func Bind(ctx context.Context, source, target string) error {
	return call(ctx, 0, Error{Op: "bind", Source: source, Target: target, Flags: unix.MS_BIND})
}

// BindTree is [Bind] with every mount below source. In a user namespace it is the only bind the kernel allows where
// something is mounted below source: else a user could look under a mount that was put there to hide something.
func BindTree(ctx context.Context, source, target string) error {
	return call(ctx, 0, Error{Op: "bind", Source: source, Target: target, Flags: unix.MS_BIND | unix.MS_REC})
}

// BindReadOnly binds source on target so that nothing can be written through target; source itself stays as it is.
//
// It takes two calls. mount(2) ignores MS_RDONLY beside MS_BIND: the first call makes a writable copy of the source's
// mount, flags included, and only a remount changes flags. In between, target is writable: do this before anybody who
// is not trusted can see target, or use [BindTreeReadOnly], which has no such moment. Mounts below source are not bound.
func BindReadOnly(ctx context.Context, source, target string) error {
	if throughDescriptor(target) {
		return fmt.Errorf("02-mount: bind %s read-only on %s: %w", source, target, errBeneath)
	}
	if err := Bind(ctx, source, target); err != nil {
		return err
	}
	if err := Remount(ctx, target, unix.MS_RDONLY, 0); err != nil {
		return errors.Join(err, Detach(ctx, target)) // better no mount than a writable one that passes for read-only
	}
	return nil
}

// Remount sets and clears flags of the mount at target, and keeps all others it has.
//
// MS_REMOUNT does not add to the flags, it *replaces* them. Whoever asks for MS_RDONLY alone loses nosuid and nodev; and
// in a user namespace, where the flags of inherited mounts are locked, gets EPERM. So the present flags are read first.
//
// MS_BIND says that the flags of this one mount are meant. Without it the kernel would change the file system itself,
// wherever else it is mounted, and a user namespace may not. See mount_namespaces(7), "Restrictions on mount namespaces".
func Remount(ctx context.Context, target string, set, clear uintptr) error {
	present, err := flagsOf(ctx, target)
	if err != nil {
		return err
	}
	flags := unix.MS_REMOUNT | unix.MS_BIND | keep(present, set, clear)
	return call(ctx, 0, Error{Op: "remount", Target: target, Flags: flags})
}

// flagsOf asks the kernel for the flags of the mount that path lies on.
//
// statfs(2) and not the mount table: it is one call, needs no /proc (half-built root file systems have none), and a path
// that is renamed meanwhile cannot make it answer for another mount than the one it found.
func flagsOf(ctx context.Context, path string) (uintptr, error) {
	var st unix.Statfs_t
	var flags uintptr
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("statfs(%q) = %s", path, FlagNames(flags)) },
		func() error {
			err := unix.Statfs(path, &st)
			flags = fromStatfs(int64(st.Flags)) // narrower on some architectures
			return err
		})
	if err != nil {
		return 0, &Error{Op: "statfs", Target: path, Err: err}
	}
	return flags, nil
}

// Move takes the mount at source, with all mounts below it, to target. The kernel refuses (EINVAL) if the mount that
// source's mount sits on is shared: the peers' copies could not follow.
func Move(ctx context.Context, source, target string) error {
	return call(ctx, 0, Error{Op: "move", Source: source, Target: target, Flags: unix.MS_MOVE})
}

// TmpfsOptions says what a tmpfs is to be like. The zero value is the kernel's default: half of the memory, mode 1777.
type TmpfsOptions struct {
	Name   string  // what the mount table shows as its source; free text, "tmpfs" if empty
	Size   int64   // the most it may hold, in bytes
	Inodes int64   // the most files it may hold
	Mode   uint32  // permissions of its root: 0o755
	Flags  uintptr // MS_NOSUID, MS_NODEV and so on
}

// data is the option string that tmpfs(5) parses.
func (o TmpfsOptions) data() string {
	var list []string
	if o.Size > 0 {
		list = append(list, "size="+size(o.Size))
	}
	if o.Inodes > 0 {
		list = append(list, fmt.Sprintf("nr_inodes=%d", o.Inodes))
	}
	if o.Mode > 0 {
		list = append(list, fmt.Sprintf("mode=%o", o.Mode))
	}
	return strings.Join(list, ",")
}

// size writes a number of bytes with the largest unit that divides it: "64k", "1m".
func size(n int64) string {
	unit := ""
	for _, u := range []string{"k", "m", "g"} {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return fmt.Sprint(n) + unit
}

func (o TmpfsOptions) name() string {
	if o.Name == "" {
		return "tmpfs"
	}
	return o.Name
}

// Tmpfs mounts a new, empty file system that lives in memory on target. It is gone when the last mount of it is.
//
// Give it a Size: the pages count as the memory of whoever writes them, and half of the machine is the default.
func Tmpfs(ctx context.Context, target string, o TmpfsOptions) error {
	return call(ctx, 0, Error{
		Op: "mount", Source: o.name(), Target: target, FSType: "tmpfs", Flags: o.Flags, Data: o.data(),
	})
}

// Unmount takes the topmost mount off target. It is refused with EBUSY while anything in *this* namespace uses it: an
// open file, a working folder, a mount below. Copies in other namespaces neither hinder it nor go away with it.
//
// UMOUNT_NOFOLLOW, always: with a link at the end of target somebody else would choose what is unmounted.
func Unmount(ctx context.Context, target string) error {
	return unmount(ctx, target, unix.UMOUNT_NOFOLLOW)
}

// Detach takes the mount off target, and all mounts below it, even if they are in use: no path leads there any more, and
// the kernel frees each when its last user lets go. It is for clean-up, where EBUSY would leave things behind; not for
// a disk that is to be pulled out, since it says nothing about when the last write is done.
func Detach(ctx context.Context, target string) error {
	return unmount(ctx, target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

func unmount(ctx context.Context, target string, flags int) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("umount2(%q, %s)", target, unmountFlagNames(flags)) },
		func() error { return unix.Unmount(target, flags) })
	if err != nil {
		return &Error{Op: "unmount", Target: target, Flags: uintptr(flags), Err: err}
	}
	return nil
}

// Unshare gives the calling thread a mount namespace of its own: a copy of the present one, mount for mount.
//
// Only the thread changes. The caller must have locked its goroutine to it (runtime.LockOSThread) and must not unlock,
// or an unrelated goroutine will find itself among other mounts. To start a process in a new namespace, use lab 01.
// The copies of shared mounts are peers of the originals: call [PrivateTree] or [SlaveTree] next.
func Unshare(ctx context.Context) error {
	err := trace.Call(ctx, 0,
		func() string { return "unshare(CLONE_NEWNS)" },
		func() error { return unix.Unshare(unix.CLONE_NEWNS) })
	if err != nil {
		return &Error{Op: "unshare", Flags: unix.CLONE_NEWNS, Err: err}
	}
	return nil
}

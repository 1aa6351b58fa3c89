// Package rootfs gives a process another root.
//
// The idea: "/" is nothing but a field of each process, a folder at which the kernel starts when a path begins with a
// slash. A container image is a folder with everything that a program needs below it; a container's "/" is that folder.
// Two calls set the field. chroot(2) sets it for one process and leaves everything else in place, and so a process with
// privileges walks out again. pivot_root(2) changes the mount table: the folder's mount takes the place of the root of
// the whole mount namespace, and the old one can be unmounted. What is no longer mounted cannot be walked to.
//
// The interface: [Host.Plan] finds what some programs of this machine need to run, by reading and never by running them;
// [Build] writes it into a folder, [Unpack] does the same with a tar, and [Packer] makes a tar of it. [Tree] is such a folder, held by a descriptor, from
// which no symbolic link leads out. [Dev], [Proc], [Sys] and [WriteEtc] make what every container finds there. [Chroot]
// and [Pivot] change the root, and [Enter] is what a runtime calls: pivot_root, and chroot only where it must be.
//
// The limits: what a program loads by itself while it runs (plug-ins, modules of Python, time zones) stands in no header;
// name it in [Wanted].Files. Changing the root acts on the calling thread and all that share its file system attributes
// (CLONE_FS): in Go on the whole process, unless the thread has unshared its mount namespace. What was open stays open:
// a descriptor from outside is a way out of any root (CVE-2024-21626), so close them before running anybody's program.
//
// See chroot(2), pivot_root(2), path_resolution(7), elf(5), ld.so(8), execve(2).
package rootfs

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
)

// Way is how a process got its new root.
type Way struct {
	Call string // "pivot_root" or "chroot"
	Why  string // why it was not pivot_root; empty where it was
}

// OnInitramfs is the only reason why [Enter] uses chroot.
const OnInitramfs = "the root is the initial ramfs, which cannot be moved"

// Enter makes dir, a mount point, the root of the caller's mount namespace, and says how.
//
// It is pivot_root wherever the kernel agrees. There is one machine where it cannot: one that still runs on its initial
// ramfs, the first file system of all, which is mounted nowhere and therefore can be put nowhere else. There the new root
// is moved on top of it, and chroot steps up. For any other refusal there is no substitute: a runtime that answered it
// with a chroot would hand out containers that can be walked out of, and say nothing.
func Enter(ctx context.Context, dir string) (Way, error) {
	err := Pivot(ctx, dir)
	if err == nil {
		return Way{Call: "pivot_root"}, nil
	}
	if !errors.Is(err, unix.EINVAL) || !onInitramfs() {
		return Way{}, err
	}
	if err := overmount(ctx, dir); err != nil {
		return Way{}, err
	}
	return Way{Call: "chroot", Why: OnInitramfs}, nil
}

// onInitramfs tells whether the root is the first mount of all: the one that is its own parent. Where the mount table
// cannot be read it does not know, and says no.
func onInitramfs() bool {
	id, err := mount.IDOf("/")
	if err != nil {
		return false
	}
	table, err := mount.Current()
	if err != nil {
		return false
	}
	root, ok := table.ByID(id)
	return ok && root.Parent == root.ID
}

// overmount puts dir's mount on top of the root and steps onto it: what switch_root(8) of an initramfs does.
//
// It keeps a process in better than chroot alone: ".." from the top of the moved mount leads to the root below it, and
// from there the kernel at once follows the mount that lies on it, back into the new root.
func overmount(ctx context.Context, dir string) error {
	// The working folder stays on the mount while the mount moves: afterwards no name leads there, since this process's
	// "/" still means the folder below.
	if err := chdir(ctx, dir); err != nil {
		return err
	}
	if err := mount.Move(ctx, ".", "/"); err != nil {
		return err
	}
	// All other mounts still hang on the old root. Whoever may unmount "/" inside would find them again, so they go,
	// while their names still lead to them: before the chroot.
	table, err := mount.Current()
	if err != nil {
		return err
	}
	for i := len(table) - 1; i >= 0; i-- {
		if m := table[i]; m.Target != "/" {
			err := mount.Detach(ctx, m.Target)
			// What is below the new root has no name from here (ENOENT, EINVAL): it is none of those meant.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return Chroot(ctx, ".")
}

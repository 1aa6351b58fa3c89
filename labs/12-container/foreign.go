package container

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// Two containers that share an IPC namespace share System V's memory with it, but not POSIX's: shm_overview(7) is nothing but
// files in /dev/shm, so that mount has to be the same. It is in the other container's mount namespace, and mount(2) binds
// nothing from there. But a thread that has entered it can clone the mount, and the clone belongs to no namespace until it is
// attached.

// foreignMount splits a source such as /proc/7/root/dev/shm: what is at /dev/shm in the mount namespace of process 7.
func foreignMount(m specs.Mount) (namespace, source string, ok bool) {
	rest, ok := strings.CutPrefix(m.Source, "/proc/")
	if !ok {
		return "", "", false
	}
	pid, source, ok := strings.Cut(rest, "/root/")
	if !ok || strings.Trim(pid, "0123456789") != "" || pid == "" {
		return "", "", false
	}
	return "/proc/" + pid + "/ns/mnt", path.Clean("/" + source), true
}

func cloneForeign(ctx context.Context, namespace, source string) (clone *os.File, err error) {
	err = setns.OnThread(func() error {
		f, _, err := setns.OpenFile(ctx, namespace)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := setns.Setns(ctx, f, unix.CLONE_NEWNS); err != nil {
			return err
		}
		clone, err = mount.Clone(ctx, source, false)
		return err
	})
	return clone, err
}

// attachForeign mounts it on a folder at the top of the tree.
func attachForeign(ctx context.Context, tree *rootfs.Tree, name, namespace, source string) (err error) {
	clone, err := cloneForeign(ctx, namespace, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clone.Close()) }()
	dir, err := tree.MkdirAll(ctx, name, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return mount.AttachAt(ctx, clone, dir)
}

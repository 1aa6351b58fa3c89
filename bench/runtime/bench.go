package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/bench/archive"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// bench is the place where all of it happens.
type bench struct {
	dir    string // images and containers: on the disk, where they would lie in earnest
	run    string // what is gone at reboot
	cgroup string // the group above those that the peers make, so that they can be found again

	rootfs string // the root file system as a folder
	small  string // the same as a tar
	big    string // with about 250 MB of files on top

	daemon int // dockerd, where it was started

	undo []func() error
}

const bigSize = 250 << 20

func newBench(ctx context.Context) (b *bench, err error) {
	where := os.Getenv("BENCH_DIR")
	if where == "" {
		where = "/var/tmp"
	}
	b = &bench{cgroup: fmt.Sprintf("nslab-bench-%d", os.Getpid())}
	// Short names: sockets lie below them, and their paths end at 107 bytes (unix(7)).
	if b.dir, err = os.MkdirTemp(where, "nb"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	if b.run, err = os.MkdirTemp("/run", "nb"); err != nil {
		return nil, err
	}
	if err := b.makeRoot(ctx); err != nil {
		return nil, err
	}
	b.small, b.big = b.path("small.tar"), b.path("big.tar")
	if err := command(ctx, "tar", "-C", b.rootfs, "-cf", b.small, "."); err != nil {
		return nil, err
	}
	// Below a folder of their own, so that they do not replace what the programs need; names of symbolic links stay.
	if err := archive.Make(b.big, bigSize, "--transform=s,^,data/,S"); err != nil {
		return nil, err
	}
	return b, command(ctx, "tar", "-C", b.rootfs, "-rf", b.big, ".")
}

// makeRoot takes busybox where it is static, since a dynamic loader would be part of what is measured; else this
// machine's own programs, by lab 04.
func (b *bench) makeRoot(ctx context.Context) (err error) {
	b.rootfs = b.path("rootfs")
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644); err != nil {
		return err
	}
	if busybox, err := exec.LookPath("busybox"); err == nil {
		if err := command(ctx, "cp", "-L", busybox, filepath.Join(b.rootfs, "bin/busybox")); err != nil {
			return err
		}
		for _, name := range []string{"sh", "true", "sleep"} {
			if err := os.Symlink("busybox", filepath.Join(b.rootfs, "bin", name)); err != nil {
				return err
			}
		}
		if command(ctx, "chroot", b.rootfs, "/bin/true") == nil {
			return nil
		}
		fmt.Println("busybox is not static here: measured with this machine's sh, true and sleep")
		if err := os.RemoveAll(filepath.Join(b.rootfs, "bin")); err != nil {
			return err
		}
	}
	plan, err := rootfs.ThisHost().Plan(ctx, rootfs.Wanted{Programs: []string{"/bin/sh", "/bin/true", "/bin/sleep"}})
	if err != nil {
		return err
	}
	tree, err := rootfs.OpenTree(ctx, b.rootfs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	_, err = rootfs.Build(ctx, tree, plan)
	return err
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// later is done at the end, the last one first.
func (b *bench) later(f func() error) { b.undo = append(b.undo, f) }

// remove takes everything away. What has a mount below it is not deleted: that would delete through the mount.
func (b *bench) remove() (err error) {
	for _, f := range slices.Backward(b.undo) {
		err = errors.Join(err, f())
	}
	err = errors.Join(err, b.removeGroups())
	for _, dir := range []string{b.dir, b.run} {
		if dir == "" {
			continue
		}
		if e := unmountBelow(dir); e != nil {
			err = errors.Join(err, e)
			continue
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) { // in the order in which they were made
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("umount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// removeGroups removes the control groups that peers have left, with what still runs in them. Each hierarchy has one by
// our name; nothing in it is not of this run's making.
func (b *bench) removeGroups() error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + b.cgroup)
	if err != nil {
		return err
	}
	tops = append(tops, "/sys/fs/cgroup/"+b.cgroup)
	if own, err := ownGroups(); err == nil {
		for _, dir := range own {
			tops = append(tops, filepath.Join(dir, b.cgroup))
		}
	}
	for _, top := range tops {
		var dirs []string
		filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range dirs {
			killAll(dir)
		}
		for _, dir := range slices.Backward(dirs) {
			if e := removeGroup(dir); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

func killAll(group string) {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// removeGroup waits for the killed: a group is busy until they are gone.
func removeGroup(dir string) (err error) {
	for range 50 {
		if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// ownGroups lists the folders of the control groups that this process is in: docker and podman make theirs below those.
func ownGroups() (dirs []string, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || part[2] == "/" {
			continue
		}
		name := strings.TrimPrefix(part[1], "name=")
		for _, at := range []string{name, "unified", ""} {
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", at, part[2]))
		}
	}
	return dirs, nil
}

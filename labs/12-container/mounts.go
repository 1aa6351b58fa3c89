package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	"github.com/nslab/nslab/trace"
)

// mounts makes the mounts of the spec, in its order.
//
// The content of the tree is the image's, so no place is trusted. Those where the kernel's own file systems go must be plain
// folders: an image whose /proc is a link decides where the runtime writes its settings (CVE-2019-19921). Everywhere else
// links are followed as the container would, which never leads out of the tree.
func (i *initProcess) mounts(ctx context.Context) error {
	for _, m := range i.Config.Spec.Mounts {
		if err := i.mount(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (i *initProcess) mount(ctx context.Context, m specs.Mount) error {
	target := path.Clean("/" + m.Destination)
	switch {
	case target == "/":
		return fmt.Errorf("12-container: mount on /: %w", volumes.ErrRoot)
	case m.Type == "proc" && target == "/proc" && i.proc != nil:
		return rootfs.AttachProc(ctx, i.tree, i.proc)
	case m.Type == "proc" && target == "/proc":
		return rootfs.Proc(ctx, i.tree)
	case m.Type == "sysfs" && target == "/sys":
		return i.sys(ctx, m)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return i.cgroupMounts(ctx, target, m)
	case target == "/dev" && m.Type == "tmpfs":
		dev, err := rootfs.MountDev(ctx, i.tree)
		if err != nil {
			return err
		}
		return dev.Close()
	case slices.Contains([]string{"/proc", "/sys"}, target):
		return fmt.Errorf("12-container: mount %s on %s: the place is the kernel's", m.Type, target)
	case path.Dir(target) == "/dev" && i.ownDev():
		return i.belowDev(ctx, path.Base(target), m)
	}
	return volumes.Attach(ctx, i.tree, m, func(at *os.File, target string) error {
		return errors.Join(notInProc(at, target), i.notOver(ctx, at, target))
	})
}

// notOver refuses a place that a link of the image makes out to be the root itself, or a folder in which we have yet to make
// something: the devices of a container would be made in the volume that somebody gave it.
func (i *initProcess) notOver(ctx context.Context, at *os.File, target string) error {
	var place, there unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &place); err != nil {
		return err
	}
	for _, name := range []string{"/", "/dev", "/sys"} {
		if path.Clean(target) == name {
			continue // what was asked for
		}
		f, err := i.tree.Open(trace.Off(ctx), name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		err = errors.Join(unix.Fstat(int(f.Fd()), &there), f.Close())
		if err == nil && there.Dev == place.Dev && there.Ino == place.Ino {
			err = fmt.Errorf("12-container: mount on %s: it leads to %s", target, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notInProc refuses a place inside of a procfs, but for the few files that a better one is shown over, as lxcfs does: a
// mount in there hides from the runtime, and from everybody else, what the kernel says (CVE-2019-16884).
func notInProc(at *os.File, target string) error {
	allowed := []string{
		"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
		"/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(at.Fd()), &st); err != nil {
		return err
	}
	if st.Type == unix.PROC_SUPER_MAGIC && !slices.Contains(allowed, path.Clean(target)) {
		return fmt.Errorf("12-container: mount on %s: it is inside of /proc", target)
	}
	return nil
}

// sys mounts a sysfs. Who shares the host's network from a user namespace of his own may not, and gets the host's, read-only.
func (i *initProcess) sys(ctx context.Context, m specs.Mount) error {
	if slices.Contains(m.Options, "rw") { // for a privileged container
		return rootfs.MountOn(ctx, i.tree, "sys", 0o555, m)
	}
	err := rootfs.Sys(ctx, i.tree)
	if errors.Is(err, unix.EPERM) && i.Clone&unix.CLONE_NEWUSER != 0 {
		return rootfs.BindSys(ctx, i.tree)
	}
	return err
}

// ownDev tells whether the spec mounts a /dev, so that what comes below it is not the image's.
func (i *initProcess) ownDev() bool {
	return slices.ContainsFunc(i.Config.Spec.Mounts, func(m specs.Mount) bool {
		return m.Type == "tmpfs" && path.Clean(m.Destination) == "/dev"
	})
}

// belowDev mounts something directly below the /dev that was just mounted.
func (i *initProcess) belowDev(ctx context.Context, name string, m specs.Mount) (err error) {
	dev, err := i.dev(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
		if namespace, source, ok := foreignMount(m); ok {
			return attachForeign(ctx, dev, name, namespace, source)
		}
		m.Destination = "/" + name
		return volumes.Attach(ctx, dev, m, nil)
	}
	if m.Type == "devpts" {
		// A number that the user namespace does not map is an error to the kernel, the terminals' group among them.
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
			return strings.HasPrefix(o, "gid=") && !mapsGroup(o[len("gid="):])
		})
	}
	return rootfs.MountOn(ctx, dev, name, 0o755, m)
}

// mapsGroup tells whether the user namespace that we are in has a group: a new one, or one that nslab itself was started in.
func mapsGroup(number string) bool {
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return false
	}
	groups, err := user.CurrentProcessGIDMap()
	return err == nil && slices.ContainsFunc(groups, func(m user.IDMap) bool { return n >= m.ID && n-m.ID < m.Count })
}

// dev opens the /dev that was mounted before.
func (i *initProcess) dev(ctx context.Context) (*rootfs.Tree, error) {
	return rootfs.OpenMounted(ctx, i.tree, "dev")
}

// cgroupMounts shows the container its own control group, in the way that programs look for it: one mount in v2, one for
// each hierarchy in v1. In a cgroup namespace the kernel shows no more than that group.
func (i *initProcess) cgroupMounts(ctx context.Context, target string, m specs.Mount) error {
	if !i.NewCgroup {
		return volumes.Attach(ctx, i.tree, specs.Mount{
			Type: "bind", Source: "/sys/fs/cgroup", Destination: target, Options: []string{"rbind", "rro", "rnosuid", "rnodev", "rnoexec"},
		}, nil)
	}
	system := i.System
	if system == nil {
		var err error
		if system, err = cgroups.Discover(); err != nil {
			return err
		}
	}
	readOnly := slices.Contains(m.Options, "ro")
	options := []string{"nosuid", "nodev", "noexec"}
	if readOnly {
		options = append(options, "ro")
	}
	if system.Mode() == "v2" {
		return volumes.Attach(ctx, i.tree, specs.Mount{Type: "cgroup2", Source: "cgroup", Destination: target, Options: options}, nil)
	}
	top := specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: []string{"nosuid", "nodev", "noexec", "mode=755", "size=1m"}}
	if err := volumes.Attach(ctx, i.tree, top, nil); err != nil {
		return err
	}
	for _, h := range system.Hierarchies {
		one := specs.Mount{
			Type: "cgroup", Source: "cgroup", Destination: filepath.Join(target, filepath.Base(h.Mount)),
			Options: append(slices.Clone(options), h.Controllers...),
		}
		if h.Version == 2 {
			one.Type, one.Options = "cgroup2", options
		}
		if err := volumes.Attach(ctx, i.tree, one, nil); err != nil {
			return err
		}
	}
	if !readOnly {
		return nil
	}
	at, err := i.tree.Open(ctx, target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(mount.SetAttr(ctx, at, false, unix.MOUNT_ATTR_RDONLY, 0), at.Close())
}

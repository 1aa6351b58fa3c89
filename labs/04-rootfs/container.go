package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// A root file system is files. Three folders that every program expects are none: /proc, /sys and /dev come from the
// kernel, and each container gets its own. They are mounted before the root is changed, while the runtime can still
// reach its own /proc, and onto descriptors: see [Tree.spot].

// Proc mounts the procfs of the caller's PID namespace on the tree's /proc, and refuses one that is a link or a mount
// already (CVE-2019-19921: an image with its own idea of /proc makes the runtime write its settings elsewhere).
func Proc(ctx context.Context, t *Tree) (err error) {
	at, err := t.spot(ctx, "proc", 0o555)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.Close()) }()
	return pid.MountProc(ctx, mount.Through(at))
}

// AttachProc puts a procfs that somebody in the PID namespace has made, and that is attached nowhere yet, on the tree's /proc: see
// [Proc].
func AttachProc(ctx context.Context, t *Tree, proc *os.File) (err error) {
	at, err := t.spot(ctx, "proc", 0o555)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.Close()) }()
	return mount.AttachAt(ctx, proc, at)
}

// Sys mounts a sysfs on the tree's /sys, read-only: much of it is settings of the machine. The kernel shows the network
// devices of the caller's network namespace there, and lets a user namespace mount it only if it owns that, too.
func Sys(ctx context.Context, t *Tree) error {
	return MountOn(ctx, t, "sys", 0o555, specs.Mount{
		Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "nodev", "noexec"},
	})
}

// BindSys shows the /sys of the host in the tree, with all mounts below it, read-only: for a user namespace that shares
// the network with its parent.
func BindSys(ctx context.Context, t *Tree) error {
	return MountOn(ctx, t, "sys", 0o555, specs.Mount{
		Type: "bind", Source: "/sys", Options: []string{"rbind", "rro", "rnosuid", "rnodev", "rnoexec"},
	})
}

// MountOn mounts one of the kernel's file systems on a folder at the top of the tree, which is made where it is missing, and
// refused where it is a link or a mount already: see [Tree.spot].
func MountOn(ctx context.Context, t *Tree, name string, mode uint32, m specs.Mount) (err error) {
	at, err := t.spot(ctx, name, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.Close()) }()
	return mount.MountAt(ctx, at, m)
}

// How the device files of a container came about.
const (
	Made  = "mknod"
	Bound = "bind"
)

// Devices are what the OCI runtime-spec promises to every container. Each is a door to a driver that gives away nothing:
// no disk, no memory, no terminal but one's own.
func Devices() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	d := func(name string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: "/dev/" + name, Type: "c", Major: major, Minor: minor, FileMode: &mode}
	}
	return []specs.LinuxDevice{
		d("null", 1, 3), d("zero", 1, 5), d("full", 1, 7), d("random", 1, 8), d("urandom", 1, 9), d("tty", 5, 0),
	}
}

// devLinks are the names that lead into other file systems of the container.
var devLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
	{"ptmx", "pts/ptmx"},
}

// Dev gives the tree a /dev: a tmpfs with the given devices, the links, and below it pts, shm and mqueue. It says how the
// devices came about.
//
// The tmpfs exists before it is mounted, and is filled through its own descriptor after: whatever the image had at
// /dev, or another process puts there meanwhile, is never written to (a /dev that is a link made runc write on the
// host).
func Dev(ctx context.Context, t *Tree, devices []specs.LinuxDevice) (how string, err error) {
	dev, err := MountDev(ctx, t)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if how, err = FillDev(ctx, dev, devices); err != nil {
		return how, err
	}
	for _, m := range devMounts() {
		if err := MountOn(ctx, dev, path.Base(m.Destination), 0o755, m); err != nil {
			return how, err
		}
	}
	return how, nil
}

// MountDev is the first part of [Dev]: the empty tmpfs on the tree's /dev, as a tree of its own.
func MountDev(ctx context.Context, t *Tree) (_ *Tree, err error) {
	at, err := t.spot(ctx, "dev", 0o755)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.Close()) }()
	tmpfs, err := mount.NewTmpfs(ctx, mount.TmpfsOptions{
		Size: 64 << 10, Mode: 0o755, Flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_STRICTATIME,
	})
	if err != nil {
		return nil, err
	}
	if err := mount.AttachAt(ctx, tmpfs, at); err != nil {
		return nil, errors.Join(err, tmpfs.Close())
	}
	return &Tree{tmpfs}, nil
}

// FillDev is the second: the devices, and the links that every /dev has.
func FillDev(ctx context.Context, dev *Tree, devices []specs.LinuxDevice) (how string, err error) {
	if how, err = dev.devices(ctx, devices); err != nil {
		return how, err
	}
	for _, link := range devLinks {
		if err := symlinkAt(ctx, link[1], dev.dir, link[0]); err != nil {
			return how, err
		}
	}
	return how, nil
}

// devMounts are the file systems below /dev. A new devpts has no terminals but those opened inside;
// before Linux 4.7 that took the option newinstance, and without it a container could open the host's. The queue file
// system belongs to the IPC namespace.
func devMounts() []specs.Mount {
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if mapped("/proc/self/gid_map", ttyGroup) {
		pts = append(pts, "gid="+strconv.Itoa(ttyGroup))
	}
	return []specs.Mount{
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "nodev", "noexec"}},
	}
}

// ttyGroup owns terminals, so that write(1) reaches them; every distribution gives tty this number.
const ttyGroup = 5

// mapped says whether an id exists in this user namespace; the kernel refuses (EINVAL) to mount with one that does not.
func mapped(file string, id int64) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		var first, outside, count int64
		if _, err := fmt.Sscan(line, &first, &outside, &count); err == nil && id >= first && id < first+count {
			return true
		}
	}
	return false
}

// devices makes the device files of a /dev, the first one by trying: in a user namespace mknod(2) is refused, since a
// device file is a right to the device, and then the host's own files are bound. One way for all, and the caller is told.
func (t *Tree) devices(ctx context.Context, list []specs.LinuxDevice) (how string, err error) {
	how = Made
	for _, d := range list {
		if how == Made {
			err = t.mknod(ctx, d)
			if errors.Is(err, unix.EPERM) {
				how = Bound
			}
		}
		if how == Bound {
			err = t.bindDevice(ctx, d)
		}
		if err != nil {
			return how, err
		}
	}
	return how, nil
}

// inDev is a device's path below /dev.
func inDev(d specs.LinuxDevice) (string, error) {
	name, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
	if !ok {
		return "", &Error{Op: "make device", Path: d.Path, In: "/dev", Err: unix.EINVAL}
	}
	return name, nil
}

func (t *Tree) mknod(ctx context.Context, d specs.LinuxDevice) error {
	name, err := inDev(d)
	if err != nil {
		return err
	}
	dir, base, err := t.folder(ctx, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	kind, ok := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if !ok {
		return &Error{Op: "make device of type " + strconv.Quote(d.Type), Path: d.Path, Err: unix.EINVAL}
	}
	if err := mknodAt(ctx, dir, base, kind|mode, uint32(d.Major), uint32(d.Minor)); err != nil {
		return err
	}
	if d.UID == nil && d.GID == nil {
		return nil
	}
	uid, gid := -1, -1 // leave as it is
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if err := unix.Fchownat(int(dir.Fd()), base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &Error{Op: "give away device", Path: d.Path, Err: err}
	}
	return nil
}

// bindDevice puts the host's device file on an empty file, after a look at what it is: had somebody replaced /dev/null,
// the container would get what he likes (CVE-2025-31133).
func (t *Tree) bindDevice(ctx context.Context, d specs.LinuxDevice) error {
	name, err := inDev(d)
	if err != nil {
		return err
	}
	host, err := openDevice(ctx, d)
	if err != nil {
		return err
	}
	defer host.Close()
	dir, base, err := t.folder(ctx, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := mknodAt(ctx, dir, base, unix.S_IFREG|0o666, 0, 0); err != nil {
		return err
	}
	at, err := t.open(ctx, 0, name, unix.OpenHow{Flags: unix.O_PATH, Resolve: plain})
	if err != nil {
		return err
	}
	defer at.Close()
	// Read-only: the device can still be written to, but its file, which is the host's, not given other rights from inside.
	return mount.MountAt(ctx, at, specs.Mount{Type: "bind", Source: mount.Through(host), Options: []string{"bind", "ro"}})
}

// openDevice opens a device file of the host without waking its driver, and checks that it is the device meant.
func openDevice(ctx context.Context, d specs.LinuxDevice) (*os.File, error) {
	fd := -1
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("open(%q, O_PATH|O_NOFOLLOW|O_CLOEXEC) = %d", d.Path, fd) },
		func() (err error) {
			fd, err = unix.Open(d.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open device", Path: d.Path, Err: err}
	}
	f := os.NewFile(uintptr(fd), d.Path)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK}[d.Type]
		if st.Mode&unix.S_IFMT != kind || st.Rdev != unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
			err = unix.ENODEV
		}
	}
	if err != nil {
		return nil, errors.Join(&Error{Op: "open device", Path: d.Path, Err: err}, f.Close())
	}
	return f, nil
}

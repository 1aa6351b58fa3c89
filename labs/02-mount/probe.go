package mount

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// The probes behind [Error.Conditions]; here those of the caller's rights, in probe_paths.go those of what is mounted
// where. Each looks at the machine as it is now, changes nothing, and returns nil where
// its condition does not apply to the call or cannot be looked at.

// capable: mount(2) asks for CAP_SYS_ADMIN not in the caller's user namespace but in the one that owns its mount
// namespace. A user namespace without a mount namespace of its own therefore may mount nothing.
func capable() *diagnosis.Condition {
	c := &diagnosis.Condition{
		What:   "nslab has CAP_SYS_ADMIN in the user namespace that owns this mount namespace",
		Remedy: "run nslab as root, or give the process a user namespace and a mount namespace together",
	}
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return nil
	}
	if !caps.Get(capability.EFFECTIVE, capability.CAP_SYS_ADMIN) {
		c.Detail = "CAP_SYS_ADMIN is not effective"
		return c
	}
	owner, err := ownerOfMountNamespace()
	if err != nil {
		c.Detail = "the mount namespace belongs to an outer user namespace"
		return c
	}
	var mine unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/user", &mine); err != nil {
		return nil
	}
	c.Detail = fmt.Sprintf("owner user:[%d] · process user:[%d]", owner, mine.Ino)
	c.OK = true // an owner that we are allowed to ask for is ours or a descendant of ours
	return c
}

// ownerOfMountNamespace returns the inode of the user namespace that owns the thread's mount namespace; EPERM if it lies
// outside of the caller's. See ioctl_nsfs(2).
func ownerOfMountNamespace() (uint64, error) {
	f, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Ino, err
}

// InUserNamespace tells whether we are in a user namespace other than the first: the initial one maps all ids to themselves.
func InUserNamespace() bool {
	data, err := os.ReadFile("/proc/thread-self/uid_map")
	if err != nil { // the file is the process's, not the thread's
		data, err = os.ReadFile("/proc/self/uid_map")
	}
	return err == nil && !slices.Equal(strings.Fields(string(data)), []string{"0", "0", "4294967295"})
}

// keepsLocked: in a user namespace the restrictions of mounts that came from outside may not be lifted.
func (e *Error) keepsLocked() *diagnosis.Condition {
	present, err := flagsOf(context.Background(), e.Target)
	if err != nil {
		return nil
	}
	const lockable = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	lost := present & lockable &^ e.Flags
	// A remount that names no access time keeps the present one; one that names another changes it.
	if e.Flags&(atime|unix.MS_NODIRATIME) != 0 {
		lost |= present & (atime | unix.MS_NODIRATIME) &^ e.Flags
	}
	c := &diagnosis.Condition{
		What: "the remount keeps the flags that are locked in a user namespace",
		OK:   lost == 0 || !InUserNamespace(), Detail: FlagNames(present),
		Remedy: "read the present flags (statfs) and repeat them, as mount.Remount does",
	}
	if !c.OK {
		c.Detail = "lost: " + FlagNames(lost)
	}
	return c
}

// userFileSystems are those that carry FS_USERNS_MOUNT in the kernel's sources; nothing in /proc tells.
var userFileSystems = []string{
	"binfmt_misc", "bpf", "cgroup", "cgroup2", "devpts", "erofs", "fuse", "mqueue", "overlay", "proc", "ramfs", "sysfs",
	"tmpfs",
}

func (e *Error) allowedInUserNamespace() *diagnosis.Condition {
	if !InUserNamespace() {
		return nil
	}
	fs, _, _ := strings.Cut(e.FSType, ".") // "fuse.sshfs"
	return &diagnosis.Condition{
		What: "the file system may be mounted in a user namespace", Detail: e.FSType,
		OK:     slices.Contains(userFileSystems, fs),
		Remedy: "run nslab as root: the kernel trusts only some file systems with an ordinary user",
	}
}

// nothingCovered: in a user namespace a new procfs may show no more than the old one did.
func (e *Error) nothingCovered() *diagnosis.Condition {
	if e.FSType != "proc" || !InUserNamespace() {
		return nil
	}
	table, err := Current()
	if err != nil {
		return nil
	}
	c := &diagnosis.Condition{
		What:   "a procfs is mounted already, with no part of it covered",
		Remedy: "outer containers cover parts of /proc: unmask them there, or bind the /proc that is there",
	}
	for _, m := range table {
		if m.FSType != "proc" {
			continue
		}
		below := slices.DeleteFunc(table.Below(m.Target), func(e Entry) bool {
			return strings.HasSuffix(e.Target, "/binfmt_misc") // covers a folder that is always empty, which hides nothing
		})
		if len(below) == 0 {
			c.OK, c.Detail = true, m.Target
			return c
		}
		c.Detail = fmt.Sprintf("%s is covered at %s", m.Target, below[0].Target)
	}
	return c
}

// noFilter: a container's seccomp filter answers EPERM for mount(2), whoever asks.
func noFilter() *diagnosis.Condition {
	mode := statusField("Seccomp")
	if mode == "" {
		return nil
	}
	return &diagnosis.Condition{
		What: "no seccomp filter stands in the way", Detail: "Seccomp: " + mode, OK: mode == "0",
		Remedy: "in Docker: --security-opt seccomp=unconfined, or --privileged",
	}
}

// unconfined: AppArmor answers EACCES where a profile has no rule for the mount.
func unconfined() *diagnosis.Condition {
	data, err := os.ReadFile("/proc/thread-self/attr/current")
	profile := strings.Trim(string(data), "\n\x00")
	if err != nil || profile == "" {
		return nil // no security module
	}
	return &diagnosis.Condition{
		What: "no AppArmor profile forbids mounting", Detail: profile, OK: strings.HasPrefix(profile, "unconfined"),
		Remedy: "in Docker: --security-opt apparmor=unconfined, or --privileged",
	}
}

// statusField reads a field of the calling thread's status.
func statusField(name string) string {
	data, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

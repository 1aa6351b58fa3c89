package doctor

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// machine is what is looked up rather than tried: it explains what the probes find, and decides which remedy fits.
type machine struct {
	uid       int
	caps      []string // those of requiredCaps that are effective
	nest      nesting
	like      string // the family of the distribution: "debian", "fedora", "" for others
	version   string // /proc/version
	release   string // uname -r: "6.8.0-45-generic"
	hardware  string // uname -m: "x86_64"
	confined  string // the AppArmor profile that we are under, "" if none
	filtered  bool   // a seccomp filter is on us
	sysctl    func(name string) (value string, ok bool)
	unchanged bool // our user namespace maps every id to itself: it is the first one
}

// requiredCaps are the capabilities that containers are made with, and what for. A lab may do without some.
var requiredCaps = []struct {
	cap  capability.Cap
	name string
}{
	{capability.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},       // namespaces, mounts
	{capability.CAP_NET_ADMIN, "CAP_NET_ADMIN"},       // devices, addresses, firewall
	{capability.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},     // chroot, joining mount namespaces
	{capability.CAP_SETUID, "CAP_SETUID"},             // becoming the container's user
	{capability.CAP_SETGID, "CAP_SETGID"},             //
	{capability.CAP_SETPCAP, "CAP_SETPCAP"},           // dropping capabilities for good
	{capability.CAP_CHOWN, "CAP_CHOWN"},               // unpacking layers
	{capability.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"}, //
	{capability.CAP_FOWNER, "CAP_FOWNER"},             //
	{capability.CAP_MKNOD, "CAP_MKNOD"},               // device files
	{capability.CAP_KILL, "CAP_KILL"},                 // signals to the container's users
	{capability.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"}, // raising resource limits
}

// look reads all of it.
func look() *machine {
	m := &machine{uid: os.Geteuid(), caps: effective(), sysctl: readSysctl, nest: detectNesting(nestingEvidence())}
	m.version = read("/proc/version")
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.release, m.hardware = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	m.like = family(read("/etc/os-release"))
	if profile := read("/proc/self/attr/current"); profile != "unconfined" {
		m.confined = strings.TrimRight(profile, "\x00")
	}
	m.filtered = strings.Contains(read("/proc/self/status"), "\nSeccomp:\t2")
	m.unchanged = mapsAll(read("/proc/self/uid_map"))
	return m
}

// read returns a small file's trimmed content, "" if there is none: absence is an answer here.
func read(path string) string {
	data, _ := os.ReadFile(path)
	return strings.TrimSpace(string(data))
}

func readSysctl(name string) (string, bool) {
	data, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(data)), err == nil
}

func effective() (names []string) {
	c, err := capability.NewPid2(0)
	if err != nil || c.Load() != nil {
		return nil
	}
	for _, r := range requiredCaps {
		if c.Get(capability.EFFECTIVE, r.cap) {
			names = append(names, r.name)
		}
	}
	return names
}

// mapsAll says whether a uid_map is that of the first user namespace: all 2³²−1 ids, each to itself.
func mapsAll(uidMap string) bool {
	return slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
}

// privileged: we may make mount namespaces without a user namespace. The labs decide by the same capability.
func (m *machine) privileged() bool { return slices.Contains(m.caps, "CAP_SYS_ADMIN") }

// room is one like those that labs run in.
func (m *machine) room() room { return room{privileged: m.privileged()} }

// userRoom is the one that an ordinary user would get.
func (m *machine) userRoom() room { return room{stepDown: m.uid == 0} }

func (m *machine) request(probes []string) request {
	r := request{Probes: probes}
	if m.privileged() {
		r.MapTo = 100000 // as in lab 01: root may map any id, others only their own, which is 0 in the room
	}
	return r
}

// family is what the remedies tell apart, from os-release(5).
func family(osRelease string) string {
	var ids string
	for s := bufio.NewScanner(strings.NewReader(osRelease)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), "=")
		if name == "ID" || name == "ID_LIKE" {
			ids += " " + strings.Trim(value, `"'`)
		}
	}
	for _, id := range strings.Fields(ids) {
		switch id {
		case "debian", "ubuntu":
			return "debian"
		case "fedora", "rhel", "centos":
			return "fedora"
		}
	}
	return ""
}

// wslVersion is 1 or 2 on Windows' subsystem for Linux, 0 elsewhere. Version 1 is no Linux: Windows answers the system calls.
// Microsoft's kernels name themselves in /proc/version: "4.4.0-19041-Microsoft", "5.15.90.1-microsoft-standard-WSL2".
func wslVersion(procVersion string) int {
	lower := strings.ToLower(procVersion)
	switch {
	case !strings.Contains(lower, "microsoft"):
		return 0
	case strings.Contains(lower, "wsl2"), strings.Contains(lower, "microsoft-standard"):
		return 2
	}
	return 1
}

// kernelVersion reads the two numbers that features go by: "6.8.0-45-generic" is 6, 8.
func kernelVersion(release string) (v [2]int, ok bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		digits := strings.TrimRight(parts[i], "+-abcdefghijklmnopqrstuvwxyz")
		n, err := strconv.Atoi(digits)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func older(a, b [2]int) bool { return slices.Compare(a[:], b[:]) < 0 }

// oldest is the kernel that nslab is written for, and tested with.
var oldest = [2]int{5, 15}

// features are what the labs would use, with the version that brought them.
var features = []struct {
	since [2]int
	name  string
}{
	{[2]int{5, 2}, "fsopen(2)"},
	{[2]int{5, 3}, "pidfd_open(2)"},
	{[2]int{5, 6}, "time namespaces"},
	{[2]int{5, 6}, "openat2(2)"},
	{[2]int{5, 7}, "CLONE_INTO_CGROUP"},
	{[2]int{5, 11}, "overlay in user namespaces"},
	{[2]int{5, 12}, "mount_setattr(2)"},
	{[2]int{5, 14}, "cgroup.kill"},
}

// lacks lists the features that a kernel is too old for.
func lacks(v [2]int) (names []string) {
	for _, f := range features {
		if older(v, f.since) {
			names = append(names, f.name)
		}
	}
	return names
}

func (m *machine) kernel() Result {
	r := Result{ID: "machine.kernel", State: StateOK, Found: say("%s", m.release)}
	v, ok := kernelVersion(m.release)
	if !ok || !older(v, oldest) {
		return r
	}
	r.State = StateNote
	r.Found = say("%s: nslab is made for 5.15 and later", m.release)
	if names := lacks(v); len(names) > 0 {
		r.Found = say("%s: nslab is made for 5.15 and later; this one is too old for %s", m.release, strings.Join(names, ", "))
	}
	r.Remedy = m.newerKernel()
	return r
}

func (m *machine) architecture() Result {
	r := Result{ID: "machine.arch", State: StateOK, Found: say("%s, nslab built for %s", m.hardware, runtime.GOARCH)}
	if !slices.Contains([]string{"amd64", "arm64"}, runtime.GOARCH) {
		r.State = StateNote
		r.Found = say("%s, nslab built for %s: tested on amd64 and arm64 only", m.hardware, runtime.GOARCH)
	}
	return r
}

func (m *machine) wsl() Result {
	r := Result{ID: "machine.wsl", State: StateOK, Found: say("not on Windows")}
	switch wslVersion(m.version) {
	case 1:
		r.State, r.Found = StateMissing, say("WSL 1: there is no Linux kernel, Windows answers the system calls")
		r.Remedy = []Message{
			say("convert it, in PowerShell: %s", command("wsl --set-version <distribution> 2")),
			say("its name is shown by: %s", command("wsl -l -v")),
		}
	case 2:
		r.State, r.Found = StateNote, say("WSL 2: a real kernel, in a virtual machine of Windows")
	}
	return r
}

// propagation says how much care the private mount namespaces of the labs are worth here.
func (m *machine) propagation() Result {
	r := Result{ID: "mount.propagation", State: StateNote, Found: say("the mount table cannot be read")}
	table, err := mount.Current()
	if err != nil {
		return r
	}
	root, ok := table.At("/")
	if !ok { // a chroot: its / is a folder of some mount
		r.Found = say("/ is not a mount point of its own")
		return r
	}
	how := root.Propagation()
	r.Found = say("/ is %s: new mounts stay in the namespace they are made in", how)
	if root.Shared > 0 {
		r.Found = say("/ is %s: new mounts appear in other namespaces, so labs make theirs private first", how)
	}
	return r
}

// StateRoot is the folder that will hold images, layers and containers: flag if set, else NSLAB_ROOT, else /var/lib/nslab
// for root, and the user's data folder (XDG_DATA_HOME) for others.
func StateRoot(flag string) string {
	switch {
	case flag != "":
		return flag
	case os.Getenv("NSLAB_ROOT") != "":
		return os.Getenv("NSLAB_ROOT")
	case os.Geteuid() == 0:
		return "/var/lib/nslab"
	case os.Getenv("XDG_DATA_HOME") != "":
		return filepath.Join(os.Getenv("XDG_DATA_HOME"), "nslab")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, ".local/share/nslab")
}

// nearest is the folder itself or, if it is not there, the closest one above that is. It will lie on the same file system.
func nearest(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "/"
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// fileSystem names the type and the mount point of what dir lies on.
func fileSystem(dir string) (fsType, target string) {
	table, err := mount.Current()
	if err != nil {
		return "?", "?"
	}
	for at := dir; ; at = filepath.Dir(at) {
		if e, ok := table.At(at); ok {
			return e.FSType, e.Target
		}
		if at == "/" {
			return "?", "?"
		}
	}
}

// runRootOf makes the path absolute, since run ids are derived from that.
func runRootOf(flag string) string {
	root, err := filepath.Abs(course.RunRoot(flag))
	if err != nil {
		return flag
	}
	return root
}

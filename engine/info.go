package engine

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// Info is what `system info` shows: what there is, and what this machine can do. The names are those of Docker's API.
type Info struct {
	ID                                                                         string
	Containers, ContainersRunning, ContainersPaused, ContainersStopped, Images int

	Driver       string
	DriverStatus [][2]string
	Plugins      Plugins

	MemoryLimit, SwapLimit, CPUShares, CPUSet, PidsLimit, OomKillDisable, IPv4Forwarding bool
	CPUCfsPeriod                                                                         bool `json:"CpuCfsPeriod"`
	CPUCfsQuota                                                                          bool `json:"CpuCfsQuota"`

	Debug           bool
	SystemTime      string
	LoggingDriver   string
	CgroupDriver    string
	CgroupVersion   string
	KernelVersion   string
	OperatingSystem string
	OSVersion       string
	OSType          string
	Architecture    string
	NCPU            int
	MemTotal        int64
	DockerRootDir   string // the name that scripts know
	RunRootDir      string
	Name            string
	Labels          []string
	ServerVersion   string
	Runtimes        map[string]RuntimeInfo
	DefaultRuntime  string
	InitBinary      string
	Swarm           SwarmInfo

	LiveRestoreEnabled bool // containers need nobody who stays
	SecurityOptions    []string
	Warnings           []string
}

// Plugins are what can be chosen from.
type Plugins struct{ Volume, Network, Authorization, Log []string }

// RuntimeInfo is a program that runs containers.
type RuntimeInfo struct {
	Path string `json:"path"`
}

// SwarmInfo says that this machine works alone.
type SwarmInfo struct {
	NodeID, NodeAddr, LocalNodeState string
	ControlAvailable                 bool
	Error                            string
}

// Info asks the store, the kernel and the machine. What cannot be found out is left empty; what a user may miss is a warning.
func (e *Engine) Info(ctx context.Context, version string) (*Info, error) {
	i := &Info{
		Driver:        string(unionfs.Overlay),
		Plugins:       Plugins{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "none"}},
		SystemTime:    time.Now().Format(time.RFC3339Nano),
		LoggingDriver: "json-file", OSType: runtime.GOOS, NCPU: runtime.NumCPU(), DockerRootDir: e.Root, RunRootDir: e.RunRoot,
		Labels: []string{}, ServerVersion: version, Runtimes: map[string]RuntimeInfo{"nslab": {"nslab"}}, DefaultRuntime: "nslab", InitBinary: "nslab",
		Swarm: SwarmInfo{LocalNodeState: "inactive"}, LiveRestoreEnabled: true,
		SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
	}
	if os.Geteuid() != 0 {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	err := i.count(ctx, e)
	i.storage(e)
	i.controlGroups()
	i.machine()
	i.reach(ctx, e)
	return i, err
}

func (i *Info) count(ctx context.Context, e *Engine) error {
	list, err := e.List(ctx)
	for _, c := range list {
		i.Containers++
		switch c.State.Status {
		case Paused:
			i.ContainersPaused++
		case Running:
			i.ContainersRunning++
		default:
			i.ContainersStopped++
		}
	}
	images, imagesErr := e.images.List()
	i.Images = len(images)
	return errors.Join(err, imagesErr)
}

// storage says what the layers lie on.
func (i *Info) storage(e *Engine) {
	dir := e.Root
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir) // it is made when something is put in
	}
	i.DriverStatus = [][2]string{
		{"Backing Filesystem", fileSystem(dir)}, {"Supports d_type", strconv.FormatBool(entryTypes(dir))}, {"Native Overlay Diff", "true"},
		{"userxattr", strconv.FormatBool(os.Geteuid() != 0)},
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && !strings.Contains(string(known), "\toverlay\n") {
		i.Warnings = append(i.Warnings, "WARNING: The kernel has no overlay: use --driver aufs-fuse")
	}
}

// fileSystem names what a folder lies on, as Docker does.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "<unknown>"
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse"
	case 0x2fc12fc1: // of OpenZFS, which is not part of the kernel
		return "zfs"
	}
	return "<unknown>"
}

// entryTypes says whether reading a folder tells the kinds of its files, which overlay needs. "." is a folder everywhere.
func entryTypes(dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.ReadDirent(fd, buf)
	const kind = 18 // of d_type, after inode, offset and length: see getdents(2)
	return err == nil && n > kind && buf[kind] != unix.DT_UNKNOWN
}

// controlGroups says which limits there are.
func (i *Info) controlGroups() {
	s, err := cgroups.Discover()
	usable := func(h cgroups.Hierarchy) bool { return h.Own != "" && unix.Access(h.Own, unix.W_OK) == nil }
	if err != nil || s.Mode() == "none" || os.Geteuid() != 0 && !slices.ContainsFunc(s.Hierarchies, usable) {
		i.CgroupDriver, i.CgroupVersion = "none", "0"
		i.Warnings = append(i.Warnings, "WARNING: No control groups that this user may make: containers have no limits")
		return
	}
	i.CgroupDriver, i.CgroupVersion = "cgroupfs", "1"
	if s.Mode() == "v2" {
		i.CgroupVersion = "2"
	}
	has := func(controller string) bool {
		_, ok := s.Find(controller)
		return ok
	}
	i.MemoryLimit, i.CPUShares, i.CPUSet, i.PidsLimit = has("memory"), has("cpu"), has("cpuset"), has("pids")
	i.CPUCfsPeriod, i.CPUCfsQuota = i.CPUShares, i.CPUShares
	if h, ok := s.Find("memory"); ok {
		any := func(dir string, names ...string) bool {
			return slices.ContainsFunc(names, func(n string) bool {
				_, err := os.Stat(filepath.Join(dir, n))
				return err == nil
			})
		}
		i.SwapLimit = any(h.Mount, "memory.memsw.limit_in_bytes") || any(h.Own, "memory.swap.max")
		i.OomKillDisable = any(h.Mount, "memory.oom_control")
	}
	for _, limit := range []struct {
		there bool
		what  string
	}{
		{i.MemoryLimit, "memory limit"}, {i.SwapLimit, "swap limit"}, {i.CPUCfsQuota, "cpu cfs quota"}, {i.CPUShares, "cpu shares"},
		{i.CPUSet, "cpuset"}, {i.PidsLimit, "pids limit"}, {has("io"), "io limit"},
	} {
		if !limit.there {
			i.Warnings = append(i.Warnings, "WARNING: No "+limit.what+" support")
		}
	}
}

// machine says what this is.
func (i *Info) machine() {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		i.KernelVersion, i.Architecture, i.Name = unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:]), unix.ByteSliceToString(name.Nodename[:])
	}
	var memory unix.Sysinfo_t
	if unix.Sysinfo(&memory) == nil {
		i.MemTotal = int64(memory.Totalram) * int64(memory.Unit)
	}
	i.OperatingSystem, i.OSVersion = distribution()
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil {
		i.IPv4Forwarding = strings.TrimSpace(string(data)) == "1"
	}
}

// reach warns of what keeps containers from the world.
func (i *Info) reach(ctx context.Context, e *Engine) {
	if os.Geteuid() != 0 {
		return
	}
	e.networks.Diagnose(ctx, func(text string) { i.Warnings = append(i.Warnings, "WARNING: "+text) })
}

// distribution reads os-release(5).
func distribution() (name, version string) {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		if f, err = os.Open("/usr/lib/os-release"); err != nil {
			return runtime.GOOS, ""
		}
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if text, err := strconv.Unquote(value); err == nil {
			value = text
		}
		switch key {
		case "PRETTY_NAME":
			name = strings.Trim(value, "'")
		case "VERSION_ID":
			version = strings.Trim(value, "'")
		}
	}
	return name, version
}

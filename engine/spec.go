package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	security "github.com/nslab/nslab/labs/10-security"
)

// From what the user asked for to what the kernel is to do: the runtime-spec is made anew at each start, since parts of it
// are only known then, such as the number of a container whose network is to be shared.

// outline is the part of the spec that the container's init needs to be born: namespaces, and the name and kinds of its
// control group. It is decided once a start, since other containers whose namespaces are shared may be gone a moment later.
func (c *Container) outline(ctx context.Context) (*specs.Spec, error) {
	s := &specs.Spec{Version: specs.Version, Root: &specs.Root{Path: c.path(rootFolder)}, Linux: &specs.Linux{CgroupsPath: c.cgroupsPath()}}
	var err error
	if s.Linux.Resources, err = c.HostConfig.Resources.spec(); err != nil {
		return nil, err
	}
	if err := c.specNamespaces(ctx, s); err != nil {
		return nil, err
	}
	c.outlined = s
	return s, nil
}

// spec translates the record, on top of the outline.
func (c *Container) spec(ctx context.Context) (*specs.Spec, error) {
	h := &c.HostConfig
	s := &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: c.path(rootFolder), Readonly: h.ReadonlyRootfs},
		Hostname:    c.Config.Hostname,
		Domainname:  c.Config.Domainname,
		Annotations: map[string]string{"io.nslab.name": c.Name},
		Process: &specs.Process{
			Terminal: c.Config.Tty, Args: c.Config.argv(), Env: c.environment(), Cwd: c.Config.WorkingDir,
			NoNewPrivileges: h.noNewPrivileges(), Rlimits: rlimits(h.Ulimits),
		},
		Linux: &specs.Linux{
			CgroupsPath: c.cgroupsPath(), Sysctl: c.sysctls(),
			MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths,
			Namespaces: c.outlined.Linux.Namespaces, UIDMappings: c.outlined.Linux.UIDMappings, GIDMappings: c.outlined.Linux.GIDMappings,
		},
	}
	if h.UTSMode == "host" {
		s.Hostname, s.Domainname = "", ""
	}
	if c.Config.Tty && h.ConsoleSize != [2]uint{} {
		s.Process.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	if h.OomScoreAdj != 0 {
		s.Process.OOMScoreAdj = &h.OomScoreAdj
	}
	for _, part := range []func(context.Context, *specs.Spec) error{
		c.specRights, c.specDevices, c.specResources, c.specMounts,
	} {
		if err := part(ctx, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// cgroupsPath names the container's group after its id, so that whoever knows the id can find and remove it; and after the run
// root, unless that is the usual one, since groups are the machine's and not the run root's. It goes below the root of each
// hierarchy: below our own group it would end with our session.
func (c *Container) cgroupsPath() string {
	name := "nslab-" + c.ID
	if c.engine.RunRoot != usualRunRoot {
		name = "nslab-" + course.IDPrefix(c.engine.RunRoot) + c.ID
	}
	if os.Geteuid() != 0 {
		return name
	}
	return path.Join("/", c.HostConfig.CgroupParent, name)
}

const usualRunRoot = "/run/nslab"

// sysctls are the user's, and two that Docker sets in a network of the container's own: there is nobody whom a low port number
// or a ping could harm, so an ordinary user may have them. A user namespace does not map the groups that the second one names.
func (c *Container) sysctls() map[string]string {
	all := map[string]string{}
	if m := c.HostConfig.NetworkMode; m != "host" && !strings.HasPrefix(m, "container:") && os.Geteuid() == 0 && !mount.InUserNamespace() {
		for key, value := range map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
		} {
			if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(key, ".", "/")); err == nil {
				all[key] = value
			}
		}
	}
	maps.Copy(all, c.HostConfig.Sysctls)
	return all
}

func rlimits(list []Ulimit) []specs.POSIXRlimit {
	var all []specs.POSIXRlimit
	for _, u := range list {
		// -1 is unlimited, which the kernel has as the greatest number.
		all = append(all, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Hard: uint64(u.Hard), Soft: uint64(u.Soft)})
	}
	return all
}

func (h *HostConfig) noNewPrivileges() bool {
	return slices.ContainsFunc(h.SecurityOpt, func(o string) bool {
		return o == "no-new-privileges" || o == "no-new-privileges:true" || o == "no-new-privileges=true"
	})
}

func (h *HostConfig) securityOption(key string) (string, bool) {
	for _, o := range h.SecurityOpt {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			k, v, ok = strings.Cut(o, ":")
		}
		if ok && k == key {
			return v, true
		}
	}
	return "", false
}

// specRights gives the program its capabilities.
func (c *Container) specRights(_ context.Context, s *specs.Spec) error {
	list, err := security.Capabilities(c.HostConfig.CapAdd, c.HostConfig.CapDrop, c.HostConfig.Privileged)
	if err != nil {
		return &InputError{What: "capability", Err: err}
	}
	// Neither inheritable nor ambient: a program that an ordinary user executes inside gets none by itself (CVE-2022-29162).
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
	return nil
}

// filter is what stands in front of the container's system calls, and what says so in a spec; both are nil for none. The
// usual filter is compiled already, and its profile only made for those who want to read it.
func (c *Container) filter(capabilities []string) (f *security.Filter, profile func() (*specs.LinuxSeccomp, error), err error) {
	h := &c.HostConfig
	named, isNamed := h.securityOption("seccomp")
	switch {
	case named == "unconfined", h.Privileged && !isNamed:
		return nil, func() (*specs.LinuxSeccomp, error) { return nil, nil }, nil
	case len(h.SeccompProfile) == 0:
		f, err = security.DefaultFilter(capabilities)
		return f, func() (*specs.LinuxSeccomp, error) { return security.DefaultProfile(capabilities) }, err
	}
	p, err := security.ParseProfile(h.SeccompProfile, capabilities)
	if err == nil {
		f, err = security.Compile(p)
	}
	return f, func() (*specs.LinuxSeccomp, error) { return p, nil }, err
}

// specNamespaces says which namespaces are the container's own.
func (c *Container) specNamespaces(ctx context.Context, s *specs.Spec) error {
	h := &c.HostConfig
	add := func(t specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		file string
		mode string
	}{
		{specs.PIDNamespace, "pid", h.PidMode}, {specs.NetworkNamespace, "net", h.NetworkMode},
		{specs.IPCNamespace, "ipc", h.IpcMode}, {specs.UTSNamespace, "uts", h.UTSMode}, {specs.CgroupNamespace, "cgroup", h.CgroupnsMode},
	} {
		other, shared := strings.CutPrefix(ns.mode, "container:")
		switch {
		case shared:
			pid, err := c.engine.pidOf(ctx, other)
			if err != nil {
				return fmt.Errorf("share the %s namespace of another container: %w", ns.kind, err)
			}
			add(ns.kind, fmt.Sprintf("/proc/%d/ns/%s", pid, ns.file))
		case ns.mode != "host":
			add(ns.kind, "")
		}
	}
	if os.Geteuid() != 0 {
		add(specs.UserNamespace, "")
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Geteuid()), Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Getegid()), Size: 1}}
	}
	return nil
}

// pidOf is the init of a container that runs.
func (e *Engine) pidOf(ctx context.Context, ref string) (int, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return 0, err
	}
	if !c.State.Running {
		return 0, &StateError{Container: ref, Status: c.State.Status, Op: "join"}
	}
	return c.State.Pid, nil
}

// specMounts lists the mounts: those that every container has, then the user's, which take the place of the former where
// they go to the same folder.
func (c *Container) specMounts(_ context.Context, s *specs.Spec) error {
	h := &c.HostConfig
	list := c.kernelMounts()
	var own []specs.Mount
	for _, m := range c.Mounts {
		own = append(own, c.userMount(m))
	}
	for target, options := range h.Tmpfs {
		own = append(own, tmpfsMount(target, options))
	}
	// What lies above comes first, or it would cover what lies below.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		depth := func(m specs.Mount) int { return strings.Count(filepath.Clean(m.Destination), "/") }
		return depth(a) - depth(b)
	})
	own = append(own, c.etcMounts(own)...)
	for _, m := range own {
		list = slices.DeleteFunc(list, func(k specs.Mount) bool { return k.Destination == path.Clean(m.Destination) })
		if p := propagationOf(m); strings.Contains(p, "shared") || strings.Contains(p, "slave") && s.Linux.RootfsPropagation == "" {
			s.Linux.RootfsPropagation = "r" + strings.TrimPrefix(p, "r")
		}
	}
	s.Mounts = append(list, own...)
	return nil
}

// etcMounts shows the files of the init layer over what the user has mounted on their folder, which hides the layer.
func (c *Container) etcMounts(own []specs.Mount) (list []specs.Mount) {
	on := func(target string) func(specs.Mount) bool {
		return func(m specs.Mount) bool { return path.Clean(m.Destination) == target }
	}
	at := slices.IndexFunc(own, on("/etc"))
	if at < 0 || slices.Contains(own[at].Options, "ro") {
		return nil
	}
	for _, name := range etcFiles {
		file := filepath.Join(c.path(initLayer), "etc", name)
		if _, err := os.Stat(file); err != nil || slices.ContainsFunc(own, on("/etc/"+name)) {
			continue
		}
		list = append(list, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: file, Options: []string{"bind", "rprivate"}})
	}
	return list
}

func propagationOf(m specs.Mount) string {
	for _, o := range m.Options {
		switch o {
		case "slave", "rslave", "shared", "rshared":
			return o
		}
	}
	return ""
}

// userMount is one of the record's in the words of the spec.
func (c *Container) userMount(p MountPoint) specs.Mount {
	for _, m := range c.HostConfig.Mounts {
		if path.Clean(m.Target) == p.Destination && m.Type != "" {
			return m.Spec(p.Source)
		}
	}
	// One that the image asks for, or that another container has.
	return volumes.Mount{Type: p.Type, Target: p.Destination, ReadOnly: !p.RW, Propagation: p.Propagation}.Spec(p.Source)
}

// tmpfsMount is --tmpfs TARGET:OPTIONS. What the user does not say is as careful as Docker's.
func tmpfsMount(target, options string) specs.Mount {
	list := []string{"nosuid", "nodev", "noexec"}
	for o := range strings.SplitSeq(options, ",") {
		if o != "" {
			list = append(list, o)
		}
	}
	return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: list}
}

// kernelMounts are the file systems that no image has.
func (c *Container) kernelMounts() []specs.Mount {
	h := &c.HostConfig
	access := "ro"
	if h.Privileged {
		access = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{access, "nosuid", "noexec", "nodev"}},
	}
	shm := h.ShmSize
	if shm == 0 {
		shm = 64 << 20
	}
	if h.IpcMode == "host" {
		list = append(list,
			specs.Mount{Destination: "/dev/mqueue", Type: "bind", Source: "/dev/mqueue", Options: []string{"rbind", "nosuid", "noexec", "nodev"}},
			specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "nosuid", "noexec", "nodev"}})
		return slices.DeleteFunc(list, func(m specs.Mount) bool {
			_, err := os.Stat(m.Source)
			return m.Type == "bind" && errors.Is(err, os.ErrNotExist)
		})
	}
	list = append(list, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	switch _, shared := strings.CutPrefix(h.IpcMode, "container:"); {
	case shared && os.Geteuid() == 0:
		// The IPC namespace has been decided on, and with it whose /dev/shm it is.
		for _, ns := range c.outlined.Linux.Namespaces {
			if ns.Type == specs.IPCNamespace {
				source := strings.TrimSuffix(ns.Path, "/ns/ipc") + "/root/dev/shm"
				list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: source, Options: []string{"bind"}})
			}
		}
	case h.IpcMode != "none":
		list = append(list, specs.Mount{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)},
		})
	}
	return list
}

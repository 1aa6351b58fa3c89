package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	security "github.com/nslab/nslab/labs/10-security"
)

// specResources translates the limits, and the devices that may be opened.
func (c *Container) specResources(_ context.Context, s *specs.Spec) error {
	r, err := c.HostConfig.Resources.spec()
	if err != nil {
		return err
	}
	r.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = r
	return nil
}

// cpuPeriod is what --cpus is counted in: microseconds, the kernel's own default.
const cpuPeriod = 100_000

// spec translates limits into the words of the runtime-spec. What is 0 is not limited.
func (r *Resources) spec() (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	set := func(to **uint64, n int64) {
		if n != 0 {
			u := uint64(n)
			*to = &u
		}
	}
	set(&cpu.Shares, r.CPUShares)
	set(&cpu.Period, r.CPUPeriod)
	set(&cpu.RealtimePeriod, r.CPURealtimePeriod)
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if r.CPURealtimeRuntime != 0 {
		cpu.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if r.NanoCPUs != 0 {
		period, quota := uint64(cpuPeriod), r.NanoCPUs*cpuPeriod/1_000_000_000
		cpu.Period, cpu.Quota = &period, &quota
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	out.Memory = r.memory()
	if r.PidsLimit != nil && *r.PidsLimit != 0 {
		limit := *r.PidsLimit
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	io, err := r.blockIO()
	if err != nil {
		return nil, err
	}
	out.BlockIO = io
	return out, nil
}

func (r *Resources) memory() *specs.LinuxMemory {
	m := &specs.LinuxMemory{}
	if r.OomKillDisable != nil && *r.OomKillDisable { // v2 has no such thing, so it is not even said where it is not wanted
		m.DisableOOMKiller = r.OomKillDisable
	}
	if r.Memory != 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation != 0 {
		m.Reservation = &r.MemoryReservation
	}
	switch {
	case r.MemorySwap != 0:
		m.Swap = &r.MemorySwap
	case r.Memory > 0 && countsSwap():
		both := 2 * r.Memory // as Docker: as much swap as memory, where nothing is said
		m.Swap = &both
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		swappiness := uint64(*r.MemorySwappiness)
		m.Swappiness = &swappiness
	}
	if *m == (specs.LinuxMemory{}) {
		return nil
	}
	return m
}

// countsSwap tells whether the kernel counts swap for groups. On v1 it may have been built, or booted, without.
func countsSwap() bool {
	s, err := cgroups.Discover()
	if err != nil {
		return false
	}
	h, ok := s.Find("memory")
	if !ok || h.Version == 2 {
		return ok
	}
	return unix.Access(filepath.Join(h.Mount, "memory.memsw.limit_in_bytes"), unix.F_OK) == nil
}

func (r *Resources) blockIO() (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	any := false
	if r.BlkioWeight != 0 {
		b.Weight, any = &r.BlkioWeight, true
	}
	for _, w := range r.BlkioWeightDevice {
		major, minor, err := diskNumber(w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = major, minor
		b.WeightDevice, any = append(b.WeightDevice, d), true
	}
	for _, t := range []struct {
		from []ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioReadBps, &b.ThrottleReadBpsDevice}, {r.BlkioWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioReadIOps, &b.ThrottleReadIOPSDevice}, {r.BlkioWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, x := range t.from {
			major, minor, err := diskNumber(x.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: x.Rate}
			d.Major, d.Minor = major, minor
			*t.to, any = append(*t.to, d), true
		}
	}
	if !any {
		return nil, nil
	}
	return b, nil
}

// diskNumber is the number of a block device.
func diskNumber(name string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return 0, 0, &InputError{What: "device", Value: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, &InputError{What: "device", Value: name, Err: errors.New("it is not a block device")}
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

// specDevices lists the devices of --device, all of the host's for --privileged, and who may open what.
func (c *Container) specDevices(_ context.Context, s *specs.Spec) error {
	h := &c.HostConfig
	s.Linux.Resources = &specs.LinuxResources{}
	if h.Privileged {
		devices, err := hostDevices()
		if err != nil {
			return err
		}
		s.Linux.Devices = devices
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	rules := security.DefaultDeviceRules()
	for _, d := range h.Devices {
		list, err := devicesAt(d)
		if err != nil {
			return err
		}
		for _, one := range list {
			s.Linux.Devices = append(s.Linux.Devices, one)
			major, minor := one.Major, one.Minor
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: one.Type, Major: &major, Minor: &minor, Access: d.CgroupPermissions})
		}
	}
	for _, text := range h.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	s.Linux.Resources.Devices = rules
	return nil
}

// parseDeviceRule reads --device-cgroup-rule: "c 42:* rmw".
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	fail := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, &InputError{What: "device cgroup rule", Value: text, Err: errors.New(`it should look like "c 42:* rwm"`)}
	}
	f := strings.Fields(text)
	if len(f) != 3 || !slices.Contains([]string{"a", "b", "c"}, f[0]) || strings.Trim(f[2], "rwm") != "" {
		return fail()
	}
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return fail()
	}
	for _, x := range []struct {
		text string
		to   **int64
	}{{major, &rule.Major}, {minor, &rule.Minor}} {
		if x.text == "*" {
			continue
		}
		var n int64
		if _, err := fmt.Sscanf(x.text, "%d", &n); err != nil || n < 0 {
			return fail()
		}
		*x.to = &n
	}
	return rule, nil
}

// devicesAt is what --device means: one file, or all below a folder.
func devicesAt(d Device) ([]specs.LinuxDevice, error) {
	st, err := os.Stat(d.PathOnHost)
	if err != nil {
		return nil, &InputError{What: "device", Value: d.PathOnHost, Err: jsonfile.Cause(err)}
	}
	if !st.IsDir() {
		one, ok, err := deviceOf(d.PathOnHost, d.PathInContainer)
		if err == nil && !ok {
			err = &InputError{What: "device", Value: d.PathOnHost, Err: errors.New("it is not a device file")}
		}
		return []specs.LinuxDevice{one}, err
	}
	return devicesBelow(d.PathOnHost, d.PathInContainer, nil)
}

// hostDevices are all device files of the host but those that a container has of its own.
func hostDevices() ([]specs.LinuxDevice, error) {
	return devicesBelow("/dev", "/dev", []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
}

func devicesBelow(dir, inside string, skip []string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil // it went away, or is not ours to give
			}
			return err
		}
		if d.IsDir() && slices.Contains(skip, d.Name()) {
			return fs.SkipDir
		}
		if d.Type()&fs.ModeDevice == 0 || d.Name() == "console" || d.Name() == "ptmx" { // which a container has of its own
			return nil
		}
		one, ok, err := deviceOf(p, filepath.Join(inside, strings.TrimPrefix(p, dir)))
		if err == nil && ok {
			list = append(list, one)
		}
		return nil
	})
	return list, err
}

// deviceOf describes a device file; ok is false for any other.
func deviceOf(name, inside string) (d specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return d, false, &InputError{What: "device", Value: name, Err: err}
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if kind == "" {
		return d, false, nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	if !strings.HasPrefix(inside, "/dev/") {
		return d, false, &InputError{What: "device", Value: inside, Err: errors.New("inside, a device goes below /dev")}
	}
	return specs.LinuxDevice{
		Path: inside, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, true, nil
}

package opts

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/engine"
)

// The bounds that the kernel, or Docker for it, sets.
const (
	minMemory     = 6 << 20 // less is not enough for a program and what the runtime needs in there for a moment
	minWeight     = 10
	maxWeight     = 1000
	minShares     = 2 // the kernel's MIN_SHARES and MAX_SHARES
	maxShares     = 262144
	minPeriod     = 1000 // µs, of the CFS; the quota has the same minimum
	maxPeriod     = 1_000_000
	minNanoCPUs   = 10_000_000 // the minimum of the quota in the usual period of 100 ms
	maxOomScore   = 1000       // proc_pid_oom_score_adj(5)
	maxSwappiness = 100
)

// Machine is where the container is to run, by its /proc and /sys. They are read only where a limit needs it.
type Machine struct{ Proc, Sys string }

// ThisMachine is the one that nslab runs on.
func ThisMachine() Machine { return Machine{"/proc", "/sys"} }

// memory is how much there is, in bytes, or 0 if it is not known.
func (m Machine) memory() int64 {
	f, err := os.Open(filepath.Join(m.Proc, "meminfo"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kB, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kB << 10
		}
	}
	return 0
}

// CPUs is which there are, as a list: 0-3.
func (m Machine) cpus() string { return m.list("devices/system/cpu/online") }

// nodes is which memory nodes there are, as a list.
func (m Machine) nodes() string { return m.list("devices/system/node/online") }

func (m Machine) list(file string) string {
	data, err := os.ReadFile(filepath.Join(m.Sys, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Check looks at what only the whole tells, and what depends on the machine. The error is an [*Error].
func Check(c *engine.Config, h *engine.HostConfig, m Machine) error {
	if err := CheckResources(&h.Resources, m, false); err != nil {
		return err
	}
	if h.OomScoreAdj < -maxOomScore || h.OomScoreAdj > maxOomScore {
		return refuse("--oom-score-adj", "", "invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	}
	if c.StopTimeout != nil && *c.StopTimeout < -1 {
		return refuse("--stop-timeout", "-1 waits for ever", "invalid value %d", *c.StopTimeout)
	}
	return checkNamespaces(c, h)
}

// CheckResources looks at the limits. update says that the container exists already.
func CheckResources(r *engine.Resources, m Machine, update bool) error {
	if err := checkMemory(r, m, update); err != nil {
		return err
	}
	if err := checkCPU(r, m); err != nil {
		return err
	}
	if r.BlkioWeight > 0 && (r.BlkioWeight < minWeight || r.BlkioWeight > maxWeight) {
		return refuse("--blkio-weight", "", "range of blkio weight is from %d to %d", minWeight, maxWeight)
	}
	if r.PidsLimit != nil && *r.PidsLimit < -1 {
		return refuse("--pids-limit", "-1 is without limit", "invalid value %d", *r.PidsLimit)
	}
	return nil
}

func checkMemory(r *engine.Resources, m Machine, update bool) error {
	if r.Memory != 0 && r.Memory < minMemory {
		return refuse("--memory", "", "minimum memory limit allowed is 6MB")
	}
	if all := m.memory(); r.Memory > 0 && all > 0 && r.Memory > all {
		return refuse("--memory", "leave it out for as much as there is", "%s are more than this machine has, %s",
			units.BytesSize(float64(r.Memory)), units.BytesSize(float64(all)))
	}
	switch {
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return refuse("--memory-swap", "it is memory and swap together",
			"minimum memoryswap limit should be larger than memory limit")
	case r.Memory == 0 && r.MemorySwap > 0 && !update:
		return refuse("--memory-swap", "give --memory, too", "you should always set the memory limit when using memoryswap limit")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > maxSwappiness):
		return refuse("--memory-swappiness", "", "invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return refuse("--memory-reservation", "", "minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return refuse("--memory-reservation", "", "minimum memory limit can not be less than memory reservation limit")
	}
	return nil
}

func checkCPU(r *engine.Resources, m Machine) error {
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return refuse("--cpus", "give one of them", "conflicting options: --cpus and --cpu-period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return refuse("--cpus", "give one of them", "conflicting options: --cpus and --cpu-quota cannot both be set")
	case r.CPUPeriod != 0 && (r.CPUPeriod < minPeriod || r.CPUPeriod > maxPeriod):
		return refuse("--cpu-period", "", "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < minPeriod:
		return refuse("--cpu-quota", "", "CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPUQuota < -1:
		return refuse("--cpu-quota", "-1 is without limit", "invalid value %d", r.CPUQuota)
	case r.CPUShares != 0 && r.CPUShares < minShares:
		return refuse("--cpu-shares", "", "the minimum allowed cpu-shares is %d", minShares)
	case r.CPUShares > maxShares:
		return refuse("--cpu-shares", "", "the maximum allowed cpu-shares is %d", maxShares)
	case r.CPURealtimePeriod < 0 || r.CPURealtimeRuntime < 0:
		return refuse("--cpu-rt-runtime", "", "cpu real-time values must be positive integers")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return refuse("--cpu-rt-runtime", "", "cpu real-time runtime cannot be higher than cpu real-time period")
	}
	if r.NanoCPUs != 0 {
		n, err := count(m.cpus())
		if err == nil && n > 0 && (r.NanoCPUs < minNanoCPUs || r.NanoCPUs > int64(n)*1e9) {
			return refuse("--cpus", "", "range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", n)
		}
	}
	if err := available("--cpuset-cpus", "CPUs", r.CpusetCpus, m.cpus); err != nil {
		return err
	}
	return available("--cpuset-mems", "memory nodes", r.CpusetMems, m.nodes)
}

// available checks a list of numbers against what there is.
func available(flag, what, list string, there func() string) error {
	if list == "" {
		return nil
	}
	wanted, err := numbers(list)
	if err != nil {
		return refuse(flag, "for example 0-2,4", "invalid value %s for %s: %w", printable(list), strings.TrimPrefix(flag, "--"), err)
	}
	has, err := numbers(there())
	if err != nil {
		return nil // nothing is known: the kernel will tell
	}
	for n := range wanted {
		if !has[n] {
			return refuse(flag, "", "requested %s are not available - requested %s, available: %s", what, list, there())
		}
	}
	return nil
}

// maxNumber bounds the lists: no kernel has more CPUs, cpuset(7).
const maxNumber = 8192

// numbers reads a list such as 0-2,4, in the form that cpuset(7) has.
func numbers(list string) (map[int]bool, error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 31)
		b, err2 := strconv.ParseUint(last, 10, 31)
		if err1 != nil || err2 != nil || b < a {
			return nil, fmt.Errorf("invalid format: %s", printable(list))
		}
		if b > maxNumber {
			return nil, fmt.Errorf("value out of range, maximum is %d", maxNumber)
		}
		for n := a; n <= b; n++ {
			set[int(n)] = true
		}
	}
	return set, nil
}

func count(list string) (int, error) {
	set, err := numbers(list)
	return len(set), err
}

// checkNamespaces finds what contradicts a namespace that the container shares.
func checkNamespaces(c *engine.Config, h *engine.HostConfig) error {
	shared := strings.HasPrefix(h.NetworkMode, "container:")
	switch {
	case shared && c.Hostname != "":
		return refuse("--hostname", "", "conflicting options: hostname and the network mode")
	case shared && len(h.DNS) > 0:
		return refuse("--dns", "", "conflicting options: dns and the network mode")
	case shared && len(h.ExtraHosts) > 0:
		return refuse("--add-host", "", "conflicting options: custom host-to-IP mapping and the network mode")
	case shared && len(h.PortBindings) > 0:
		return refuse("--publish", "publish it with the container whose network this one shares", "conflicting options: port publishing and the container type network mode")
	case shared && len(c.ExposedPorts) > 0:
		return refuse("--expose", "", "conflicting options: port exposing and the container type network mode")
	case h.UTSMode == "host" && c.Hostname != "":
		return refuse("--hostname", "", "conflicting options: hostname and the UTS mode")
	case h.UTSMode == "host" && c.Domainname != "":
		return refuse("--domainname", "", "conflicting options: domainname and the UTS mode")
	}
	for name := range h.Sysctls {
		ofNet := strings.HasPrefix(name, "net.")
		if ofNet && h.NetworkMode == "host" {
			return refuse("--sysctl", "", "sysctl %s not allowed in host network namespace", quoted(name))
		}
		if !ofNet && h.IpcMode == "host" {
			return refuse("--sysctl", "", "sysctl %s not allowed in host IPC namespace", quoted(name))
		}
	}
	return nil
}

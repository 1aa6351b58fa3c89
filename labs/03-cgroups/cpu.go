package cgroups

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cpu writes the limits of the cpu and the cpuset controller.
//
// A quota is a hard limit: in each period the group runs for at most so many microseconds, summed over all CPUs, and
// then none of its processes is scheduled until the next one begins. Shares (v1) or weight (v2) only count when the
// CPU is contended: an idle CPU is given to whoever wants it.
func (s *setter) cpu(c *specs.LinuxCPU) {
	s.tied(func() { // an idle group refuses a weight, so leaving idle must come first and becoming idle last
		if c.Shares != nil && *c.Shares != 0 {
			if s.v2("cpu") {
				s.put("cpu", "cpu.weight", Weight(*c.Shares))
			} else {
				s.put("cpu", "cpu.shares", *c.Shares)
			}
		}
		if c.Idle != nil {
			s.put("cpu", "cpu.idle", *c.Idle)
		}
	})
	if s.v2("cpu") {
		s.tied(func() { s.bandwidthV2(c) })
		if c.RealtimeRuntime != nil || c.RealtimePeriod != nil {
			s.unsupported("cpu.realtimeRuntime", 2)
		}
	} else {
		s.tied(func() { s.bandwidthV1(c) })
		s.tied(func() {
			if c.RealtimePeriod != nil {
				s.put("cpu", "cpu.rt_period_us", *c.RealtimePeriod)
			}
			if c.RealtimeRuntime != nil {
				s.put("cpu", "cpu.rt_runtime_us", *c.RealtimeRuntime)
			}
		})
	}
	// Both versions spell these alike. v1 demands both before the first process joins; Create took them from the parent.
	if c.Cpus != "" {
		s.put("cpuset", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		s.put("cpuset", "cpuset.mems", c.Mems)
	}
}

func (s *setter) bandwidthV1(c *specs.LinuxCPU) {
	if c.Period != nil && *c.Period != 0 {
		s.put("cpu", "cpu.cfs_period_us", *c.Period)
	}
	if c.Quota != nil && *c.Quota != 0 { // 0 is how engines say "not given"; -1 lifts the limit
		s.put("cpu", "cpu.cfs_quota_us", *c.Quota)
	}
	if c.Burst != nil {
		s.put("cpu", "cpu.cfs_burst_us", *c.Burst)
	}
}

func (s *setter) bandwidthV2(c *specs.LinuxCPU) {
	quota, period := c.Quota != nil && *c.Quota != 0, c.Period != nil && *c.Period != 0
	if quota || period {
		// One file holds both. A quota alone keeps the period; a period alone has to repeat the quota.
		value := "max"
		switch {
		case quota && *c.Quota > 0:
			value = strconv.FormatInt(*c.Quota, 10)
		case !quota:
			if now, err := readFile(s.group.File("cpu", "cpu.max")); err == nil {
				value, _, _ = strings.Cut(now, " ")
			}
		}
		if period {
			value += " " + strconv.FormatUint(*c.Period, 10)
		}
		s.put("cpu", "cpu.max", value)
	}
	if c.Burst != nil {
		s.put("cpu", "cpu.max.burst", *c.Burst)
	}
}

// Weight turns v1's cpu.shares (2 to 262144, default 1024) into v2's cpu.weight (1 to 10000, default 100).
//
// A straight line between the two ranges, which runtimes used at first, made 39 of the default 1024: every container
// lost to every process outside of one. This is the curve that runc and crun agreed on in 2025: it maps the least, the
// default and the greatest of one onto those of the other. Ratios between groups are only roughly kept.
func Weight(shares uint64) uint64 {
	switch {
	case shares == 0: // "not given"
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// CPUList reads a list as in cpuset.cpus: "0-2,5" is 0, 1, 2 and 5. See cpuset(7), "List format".
func CPUList(s string) []int {
	var all []int
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(low)
		if err != nil {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(high); err != nil {
				continue
			}
		}
		for n := first; n <= last && len(all) < 1<<16; n++ {
			all = append(all, n)
		}
	}
	return all
}

// subset says whether list a names only CPUs of list b.
func subset(a, b string) bool {
	have := CPUList(b)
	return !slices.ContainsFunc(CPUList(a), func(n int) bool { return !slices.Contains(have, n) })
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

package cgroups

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// memory writes the limits of the memory controller; pids those of the pids controller.
//
// The runtime-spec speaks v1: its Swap is memory and swap *together*. v2 limits the two apart.
func (s *setter) memory(m *specs.LinuxMemory) {
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && m.Limit != nil && *m.Limit >= 0 {
		// v2 does not refuse a limit below the usage: it reclaims, and kills where that is not enough.
		if st, err := s.group.Stats(); err == nil && st.Memory != nil && int64(st.Memory.Usage) > *m.Limit {
			s.fail(fmt.Errorf("set memory limit of %d: the group uses %d: %w", *m.Limit, st.Memory.Usage, unix.EBUSY))
			return
		}
	}
	if s.v2("memory") {
		s.memoryV2(m)
		return
	}
	s.tied(func() {
		limit, swap := m.Limit, m.Swap
		if limit != nil && *limit == -1 && swap == nil && s.has("memory", "memory.memsw.limit_in_bytes") {
			swap = limit // lifting only the inner one of two limits would be refused, as it may not exceed the outer
		}
		if limit != nil && *limit != 0 {
			s.put("memory", "memory.limit_in_bytes", *limit)
		}
		if swap != nil && *swap != 0 {
			s.put("memory", "memory.memsw.limit_in_bytes", *swap)
		}
	})
	if m.Reservation != nil && *m.Reservation != 0 {
		s.put("memory", "memory.soft_limit_in_bytes", *m.Reservation)
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		s.put("memory", "memory.kmem.tcp.limit_in_bytes", *m.KernelTCP)
	}
	if m.Swappiness != nil {
		s.put("memory", "memory.swappiness", *m.Swappiness)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		// The processes wait in the kernel for memory instead of being killed, until somebody raises the limit.
		s.put("memory", "memory.oom_control", 1)
	}
}

func (s *setter) memoryV2(m *specs.LinuxMemory) {
	if m.Swap != nil || m.Limit != nil {
		swap, err := SwapMax(m.Limit, m.Swap)
		if err != nil {
			s.fail(err)
			return
		}
		// Swap first: between the two writes the group has at most what it is to have.
		if swap != "" && (swap != "max" || s.has("memory", "memory.swap.max")) {
			s.put("memory", "memory.swap.max", swap)
		}
	}
	if m.Limit != nil && *m.Limit != 0 {
		s.put("memory", "memory.max", orMax(*m.Limit))
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		s.put("memory", "memory.low", orMax(*m.Reservation))
	}
	switch {
	case m.KernelTCP != nil && *m.KernelTCP != 0:
		s.unsupported("memory.kernelTCP", 2)
	case m.Swappiness != nil:
		s.unsupported("memory.swappiness", 2)
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		s.unsupported("memory.disableOOMKiller", 2)
	}
}

// SwapMax turns the runtime-spec's limit on memory and swap together into v2's limit on swap alone, "" for no change.
func SwapMax(limit, both *int64) (string, error) {
	var l, b int64
	if limit != nil {
		l = *limit
	}
	if both != nil {
		b = *both
	}
	switch {
	case b == -1, b == 0 && l == -1:
		return "max", nil
	case b == 0:
		return "", nil
	case b < 0:
		return "", fmt.Errorf("set swap limit: %d is no number of bytes", b)
	case l <= 0:
		return "", fmt.Errorf("set swap limit: v2 needs the memory limit too, to subtract it")
	case b < l:
		return "", fmt.Errorf("set swap limit: memory and swap together, %d, are less than memory alone, %d", b, l)
	}
	return fmt.Sprint(b - l), nil
}

// pids limits the number of tasks. The controller counts threads, not processes: each clone(2) is one.
func (s *setter) pids(p *specs.LinuxPids) {
	if p.Limit == nil {
		return
	}
	if *p.Limit <= 0 {
		// 0 would forbid every clone. Engines have always passed 0 and -1 for "no limit", and the runtime-spec keeps to that.
		s.put("pids", "pids.max", "max")
		return
	}
	s.put("pids", "pids.max", *p.Limit)
}

func orMax(n int64) any {
	if n == -1 {
		return "max"
	}
	return n
}

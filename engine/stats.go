package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is what a container has used until now, and uses at this moment.
type Stats struct {
	Time     time.Time     // when this was read
	CPU      time.Duration // of all its processes, those that have ended too
	Memory   uint64        // without files that are cached only
	Limit    uint64        // of memory; the machine's where the container has none
	Pids     uint64        // threads count, too
	Read     uint64        // bytes from block devices
	Written  uint64        // and to them
	Received uint64        // bytes from its network
	Sent     uint64        // and to it
}

// CPUPercent is how much of one CPU was used since an earlier look; 200 is two of them.
func (s Stats) CPUPercent(before Stats) float64 {
	took := s.Time.Sub(before.Time)
	if before.Time.IsZero() || took <= 0 || s.CPU < before.CPU {
		return 0
	}
	return 100 * float64(s.CPU-before.CPU) / float64(took)
}

// MemoryPercent is how much of the limit is used.
func (s Stats) MemoryPercent() float64 {
	if s.Limit == 0 {
		return 0
	}
	return 100 * float64(s.Memory) / float64(s.Limit)
}

// Stats asks the kernel what a container uses. Of one that does not run, all is 0.
func (c *Container) Stats(context.Context) (Stats, error) {
	s := Stats{Time: time.Now()}
	run, err := c.runtime()
	if !c.State.Running || err != nil || run.Group == nil || !run.Alive() {
		return s, goneIsNil(err)
	}
	group, err := run.Group.Stats()
	if err == nil && c.HostConfig.NetworkMode != "host" {
		s.Received, s.Sent, err = traffic(run.Pid)
	}
	if !run.Alive() {
		return Stats{Time: s.Time}, nil // it ended while we looked: what was read may be another's
	}
	if err != nil {
		return s, fmt.Errorf("read the counters of container %s: %w", c.ID[:12], err)
	}
	if cpu := group.CPU; cpu != nil {
		s.CPU = cpu.Usage
	}
	if pids := group.Pids; pids != nil {
		s.Pids = pids.Current
	}
	for _, d := range group.IO {
		s.Read += d.ReadBytes
		s.Written += d.WriteBytes
	}
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return s, fmt.Errorf("read the size of the memory: %w", err)
	}
	s.Limit = machine.Totalram * uint64(machine.Unit)
	if m := group.Memory; m != nil {
		s.Memory = m.Usage - min(m.Usage, m.Inactive)
		if m.Limit >= 0 {
			s.Limit = min(s.Limit, uint64(m.Limit))
		}
	}
	return s, nil
}

// traffic adds up what the interfaces in a process's network namespace have carried, but for the loopback, which is none.
// See proc_pid_net(5).
func traffic(pid int) (received, sent uint64, err error) {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0, goneIsNil(err)
	}
	for line := range strings.Lines(string(table)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if !ok || len(f) < 9 || strings.TrimSpace(name) == "lo" {
			continue // the two lines of headings, too
		}
		in, err1 := strconv.ParseUint(f[0], 10, 64)
		out, err2 := strconv.ParseUint(f[8], 10, 64)
		if err1 != nil || err2 != nil {
			return 0, 0, fmt.Errorf("read /proc/%d/net/dev: %q", pid, line)
		}
		received += in
		sent += out
	}
	return received, sent, nil
}

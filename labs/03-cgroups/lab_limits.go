package cgroups

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
)

// The steps about memory, tasks, disks, and what is counted.

// memory: beyond the limit there is only the OOM killer.
func memory(t *course.T) error {
	const limit = 32 << 20
	g, err := NewGroup(t.Untraced(), t, t.Name(), "memory")
	if err != nil {
		return err
	}
	r := &specs.LinuxMemory{Limit: new(int64(limit))}
	switch v := g.Version("memory"); { // no way out into swap
	case exists(g.File("memory", "memory.memsw.limit_in_bytes")), v == 2 && exists(g.File("memory", "memory.swap.max")):
		r.Swap = new(int64(limit))
	case v == 1:
		r.Swappiness = new(uint64(0))
	}
	if err := g.Set(t.Context(), &specs.LinuxResources{Memory: r}); err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if err := g.Add(t.Context(), box.Pid()); err != nil {
		return err
	}
	before, err := g.Stats()
	if err != nil {
		return err
	}
	spelled(t, g, "memory", "memory.limit_in_bytes, memory.memsw.limit_in_bytes", "memory.max, memory.swap.max")
	t.Equal(limit, before.Memory.Limit, "the kernel has the limit of 32 MiB")

	_, asked := box.Call(t.Context(), "03-allocate", "64")
	t.See("the box asked for 64 MiB, was given the addresses, and wrote to one page after the other")
	status := "alive"
	if asked != nil {
		if err := awaitEnd(t, box.Wait); err != nil {
			return err
		}
		status = box.State().String()
	}
	after, err := g.Stats()
	if err != nil {
		return err
	}
	t.See("it ended by: %s", status)
	spelled(t, g, "memory", fmt.Sprintf("memory.oom_control: oom_kill %d", after.Memory.OOMKill),
		fmt.Sprintf("memory.events: oom_kill %d", after.Memory.OOMKill))
	killed := false
	if s := box.State(); s != nil {
		ws, ok := s.Sys().(syscall.WaitStatus)
		killed = ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
	}
	t.Check(killed, "signal: killed", status, "the process was killed with SIGKILL")
	t.Equal("0 → 1", fmt.Sprintf("%d → %d", before.Memory.OOMKill, after.Memory.OOMKill), "the kernel counts one OOM kill in this group")
	if after.Memory.Peak == 0 {
		t.See("this kernel does not keep the peak of a v2 group (memory.peak is of 5.19)")
		return nil
	}
	t.See("the most that the group ever held: %s", mib(after.Memory.Peak))
	t.Check(after.Memory.Peak >= limit*3/4 && after.Memory.Peak <= limit+1<<20, "about 32 MiB", mib(after.Memory.Peak),
		"it got up to the limit, and not beyond")
	return nil
}

func ended(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// pidsLimit: the sixth process is refused.
func pidsLimit(t *course.T) error {
	const limit = 5
	g, err := NewGroup(t.Untraced(), t, t.Name(), "pids")
	if err != nil {
		return err
	}
	if err := g.Set(t.Context(), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(limit))}}); err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Untraced(), "03-fork-prepare"); err != nil {
		return err
	}
	forker, err := onlyChild(box.Pid())
	if err != nil {
		return err
	}
	threads, err := evidence.Status(box.Pid(), "Threads")
	if err != nil {
		return err
	}
	if err := g.Add(t.Context(), forker); err != nil {
		return err
	}
	before, err := g.Stats()
	if err != nil {
		return err
	}
	t.See("the box is a Go program with %s threads, and each would count; so only a bare fork of it, process %s, is in the group",
		threads, strconv.Itoa(forker))
	t.Equal("1 of 5", fmt.Sprintf("%d of %d", before.Pids.Current, before.Pids.Limit), "pids.current of pids.max before the loop")

	// At most twenty tries: without the limit there would be twenty processes, not a dead machine.
	made, refused := box.Call(t.Context(), "03-fork-loop")
	after, err := g.Stats()
	if err != nil {
		return err
	}
	t.See("forked in the box, by their numbers there: %s; then: %s", made, ended(refused))
	t.See("pids.current = %s, pids.max = %s, pids.events: max %s (spelled alike in v1 and v2)", strconv.FormatUint(after.Pids.Current, 10),
		strconv.FormatInt(after.Pids.Limit, 10), strconv.FormatUint(after.Pids.Refused, 10))
	t.Check(errors.Is(refused, unix.EAGAIN), unix.EAGAIN.Error(), ended(refused), "one more fork is refused with EAGAIN")
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	t.Equal(limit, len(pids), "five processes are in the group, none more")
	t.Check(after.Pids.Refused > before.Pids.Refused, "> "+strconv.FormatUint(before.Pids.Refused, 10), after.Pids.Refused,
		"pids.events counted the refusal")
	return nil
}

// onlyChild finds the one child of a process, by its number out here.
func onlyChild(parent int) (int, error) {
	pids, err := evidence.Pids("/proc")
	if err != nil {
		return 0, err
	}
	for _, p := range pids {
		if ppid, err := evidence.Status(p, "PPid"); err == nil && ppid == strconv.Itoa(parent) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("find the child of process %d: none", parent)
}

// ioLimit: a disk that is slow for one group only.
func ioLimit(t *course.T) error {
	const rate, size = 2 << 20, 2 << 20
	dir, disk, err := onDisk(t)
	if err != nil {
		return err
	}
	if disk == "" {
		t.See("left out: %s, and the other folders that nslab may use, are on no disk that can be throttled", dir)
		t.Check(diskOf(dir) == "", "no disk", diskOf(dir), "the device number of its file system is not a disk's")
		return nil
	}
	g, err := NewGroup(t.Untraced(), t, t.Name(), "io")
	if lacks(t, "io", err) {
		return nil
	}
	if err != nil {
		return err
	}
	if file := map[int]string{1: "blkio.throttle.write_bps_device", 2: "io.max"}[g.Version("io")]; !exists(g.File("io", file)) {
		t.See("left out: the kernel was built without throttling (no %s)", file)
		_, err := os.Stat(g.File("io", file))
		t.Check(errors.Is(err, os.ErrNotExist), "no such file", fmt.Sprint(err), "the group has no such file")
		return nil
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if err := g.Add(t.Context(), box.Pid()); err != nil {
		return err
	}
	write := func() (time.Duration, error) {
		start := time.Now()
		_, err := box.Call(t.Context(), "03-write", dir, strconv.Itoa(size))
		return time.Since(start), err
	}
	free, err := write()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		t.See("left out: the file system of %s cannot write past the page cache (%s)", dir, err.Error())
		_, again := box.Call(t.Untraced(), "03-write", dir, strconv.Itoa(chunk))
		t.Check(again != nil, "an error", fmt.Sprint(again), "the kernel refuses such a file")
		return nil
	}
	if err != nil {
		return err
	}
	var major, minor int64
	if _, err := fmt.Sscanf(disk, "%d:%d", &major, &minor); err != nil {
		return fmt.Errorf("parse device number %q: %w", disk, err)
	}
	device := specs.LinuxBlockIODevice{Major: major, Minor: minor}
	limit := &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: device, Rate: rate}}}
	if err := g.Set(t.Context(), &specs.LinuxResources{BlockIO: limit}); err != nil {
		return err
	}
	before, err := writtenTo(g, disk)
	if err != nil {
		return err
	}
	slow, err := write()
	if err != nil {
		return err
	}
	after, err := writtenTo(g, disk)
	if err != nil {
		return err
	}
	speed := func(d time.Duration) string { return fmt.Sprintf("%.1f MiB/s", size/d.Seconds()/(1<<20)) }
	spelled(t, g, "io", "blkio.throttle.write_bps_device = "+disk+" 2097152", "io.max = "+disk+" wbps=2097152")
	t.See("2 MiB to %s (device %s): without a limit in %s, %s", dir, disk, millis(free), speed(free))
	t.See("with a limit of 2 MiB/s: in %s, %s; the group's counter grew by %s", millis(slow), speed(slow), mib(after-before))
	t.Check(after-before >= size, ">= 2.0 MiB", mib(after-before), "the kernel counts these bytes as the group's")
	t.Check(slow >= 700*time.Millisecond, "about 1000 ms", millis(slow), "writing took as long as the limit demands")
	if free > slow/2 {
		t.See("the disk is so slow, or so busy, that the limit makes little difference")
	}
	return nil
}

// onDisk finds a folder to write in whose disk can be throttled: the step's own, or, where that is in memory, another one
// that files without a name may be in.
func onDisk(t *course.T) (dir, disk string, err error) {
	own, err := t.Dir()
	if err != nil {
		return "", "", err
	}
	for _, dir := range []string{own, "/var/tmp", "/var/lib", "/root"} {
		if disk := diskOf(dir); disk != "" && writable(dir) {
			return dir, disk, nil
		}
	}
	return own, "", nil
}

func writtenTo(g *Group, disk string) (uint64, error) {
	s, err := g.Stats()
	if err != nil {
		return 0, err
	}
	for _, d := range s.IO {
		if d.Device == disk {
			return d.WriteBytes, nil
		}
	}
	return 0, nil
}

// accounting: a group counts, with no limit set, and remembers the dead.
func accounting(t *course.T) error {
	g, err := NewGroup(t.Untraced(), t, t.Name(), "cpu", "memory", "pids")
	if err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	if err := g.Add(t.Context(), box.Pid()); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "03-work", "200", "16"); err != nil {
		return err
	}
	living, err := g.Stats()
	if err != nil {
		return err
	}
	if err := box.Kill(t.Context()); err != nil {
		return err
	}
	empty := t.Await(soon, func() bool { pids, err := g.Pids(); return err == nil && len(pids) == 0 })
	dead, err := g.Stats()
	if err != nil {
		return err
	}
	spelled(t, g, "cpu", "cpuacct.usage, memory.max_usage_in_bytes, pids.current", "cpu.stat, memory.peak, pids.current")
	t.See("after its work:  CPU %s · memory %s now, %s at most · tasks %s", millis(living.CPU.Usage), mib(living.Memory.Usage),
		mib(living.Memory.Peak), strconv.FormatUint(living.Pids.Current, 10))
	t.See("after its death: CPU %s · memory %s now, %s at most · tasks %s", millis(dead.CPU.Usage), mib(dead.Memory.Usage),
		mib(dead.Memory.Peak), strconv.FormatUint(dead.Pids.Current, 10))
	t.Check(empty, "no process", fmt.Sprint(g.Pids()), "nobody is in the group any more")
	t.Check(dead.CPU.Usage >= 190*time.Millisecond, ">= 200 ms", millis(dead.CPU.Usage), "the CPU time of the dead process is still on the account")
	t.Check(living.Memory.Usage >= 16<<20, ">= 16 MiB", mib(living.Memory.Usage), "its memory was counted while it lived")
	t.Check(dead.Memory.Usage < living.Memory.Usage-8<<20, "much less", mib(dead.Memory.Usage), "and given back when it died")
	return nil
}

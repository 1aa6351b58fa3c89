package cgroups

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is what the kernel has counted for a group. A part is nil where the group does not have the controller.
type Stats struct {
	CPU    *CPUStats    `json:"cpu,omitempty"`
	Memory *MemoryStats `json:"memory,omitempty"`
	Pids   *PidsStats   `json:"pids,omitempty"`
	IO     []DeviceIO   `json:"io,omitempty"`
}

// Unlimited is the value of a limit that is not set: "max" in v2, a huge number or -1 in v1.
const Unlimited = -1

// CPUStats counts CPU time, of processes that have ended too.
type CPUStats struct {
	Usage     time.Duration `json:"usage"`
	User      time.Duration `json:"user"`
	System    time.Duration `json:"system"`
	Periods   uint64        `json:"periods"`   // periods in which the group wanted to run, with a quota set
	Throttled uint64        `json:"throttled"` // those in which it used its quota up
	Waited    time.Duration `json:"waited"`    // time it was kept from running for that, summed over CPUs
}

// MemoryStats is in bytes.
type MemoryStats struct {
	Usage    uint64 `json:"usage"`
	Peak     uint64 `json:"peak"` // 0 where the kernel does not tell (v2 before 5.19)
	Limit    int64  `json:"limit"`
	Inactive uint64 `json:"inactive"` // part of usage: file cache that can be dropped at once
	Reached  uint64 `json:"reached"`  // how often the limit was hit
	OOMKill  uint64 `json:"oomKill"`  // processes killed for it
}

// PidsStats counts tasks, that is, threads.
type PidsStats struct {
	Current uint64 `json:"current"`
	Limit   int64  `json:"limit"`
	Refused uint64 `json:"refused"` // how often clone was refused because of the limit
}

// DeviceIO is what went to and from one block device.
type DeviceIO struct {
	Device     string `json:"device"` // "254:0"
	ReadBytes  uint64 `json:"readBytes"`
	WriteBytes uint64 `json:"writeBytes"`
	Reads      uint64 `json:"reads"`
	Writes     uint64 `json:"writes"`
}

// Stats reads the group's counters.
func (g *Group) Stats() (*Stats, error) {
	r := &reader{group: g}
	s := &Stats{}
	if g.dir("cpu") != nil || g.dir("cpuacct") != nil {
		s.CPU = r.cpu()
	}
	if g.dir("memory") != nil {
		s.Memory = r.memory()
	}
	if g.dir("pids") != nil {
		s.Pids = r.pids()
	}
	if g.dir("io") != nil {
		s.IO = r.io()
	}
	return s, r.err
}

// OOMKills tells how many of the group's processes the kernel has killed for memory. It reads one file, where Stats reads all.
func (g *Group) OOMKills() (uint64, error) {
	r := &reader{group: g}
	switch g.Version("memory") {
	case 1:
		return r.number("memory", "memory.oom_control", "oom_kill"), r.err
	case 2:
		return r.number("memory", "memory.events", "oom_kill"), r.err
	}
	return 0, nil
}

// reader keeps the first error, so that reading many files reads as a list.
type reader struct {
	group *Group
	err   error
}

// text returns a file's content, "" where this kernel has no such file.
func (r *reader) text(controller, file string) string {
	content, err := readFile(r.group.File(controller, file))
	if err != nil && !errors.Is(err, unix.ENOENT) && r.err == nil {
		r.err = err
	}
	return content
}

// number returns a file's only number, or the one behind key.
func (r *reader) number(controller, file, key string) uint64 {
	content := r.text(controller, file)
	if key != "" {
		n, _ := field(content, key) // a key that this kernel does not have counts nothing
		return n
	}
	return r.parse(controller, file, content)
}

func (r *reader) parse(controller, file, content string) uint64 {
	if content == "" {
		return 0
	}
	n, err := strconv.ParseUint(content, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("read %s: %w", r.group.File(controller, file), err)
	}
	return n
}

// hugeLimit is where v1 stops being serious about a limit: without one it shows the greatest number of whole pages.
const hugeLimit = 1 << 62

func (r *reader) limit(controller, file string) int64 {
	content := r.text(controller, file)
	if content == "max" || content == "-1" {
		return Unlimited
	}
	n := r.parse(controller, file, content)
	if n >= hugeLimit {
		return Unlimited
	}
	return int64(n)
}

func (r *reader) cpu() *CPUStats {
	if r.group.Version("cpu") == 2 || r.group.Version("cpuacct") == 2 {
		c := "cpu"
		if r.group.dir("cpu") == nil { // usage is counted in every v2 group, with or without the controller
			c = "cpuacct"
		}
		stat := r.text(c, "cpu.stat")
		get := func(key string) time.Duration {
			n, _ := field(stat, key) // absent without the controller
			return time.Duration(n) * time.Microsecond
		}
		s := &CPUStats{
			Usage: get("usage_usec"), User: get("user_usec"), System: get("system_usec"), Waited: get("throttled_usec"),
		}
		s.Periods, _ = field(stat, "nr_periods")
		s.Throttled, _ = field(stat, "nr_throttled")
		return s
	}
	nsec := func(controller, file, key string) time.Duration {
		return time.Duration(r.number(controller, file, key))
	}
	s := &CPUStats{}
	if r.group.dir("cpuacct") != nil {
		s.Usage = nsec("cpuacct", "cpuacct.usage", "")
		s.User = nsec("cpuacct", "cpuacct.usage_user", "")
		s.System = nsec("cpuacct", "cpuacct.usage_sys", "")
	}
	if r.group.dir("cpu") != nil {
		s.Periods = r.number("cpu", "cpu.stat", "nr_periods")
		s.Throttled = r.number("cpu", "cpu.stat", "nr_throttled")
		s.Waited = nsec("cpu", "cpu.stat", "throttled_time")
	}
	return s
}

func (r *reader) memory() *MemoryStats {
	if r.group.Version("memory") == 2 {
		return &MemoryStats{
			Usage: r.number("memory", "memory.current", ""), Peak: r.number("memory", "memory.peak", ""),
			Limit:    r.limit("memory", "memory.max"),
			Inactive: r.number("memory", "memory.stat", "inactive_file"),
			Reached:  r.number("memory", "memory.events", "max"),
			OOMKill:  r.number("memory", "memory.events", "oom_kill"),
		}
	}
	return &MemoryStats{
		Usage: r.number("memory", "memory.usage_in_bytes", ""), Peak: r.number("memory", "memory.max_usage_in_bytes", ""),
		Limit:    r.limit("memory", "memory.limit_in_bytes"),
		Inactive: r.number("memory", "memory.stat", "total_inactive_file"),
		Reached:  r.number("memory", "memory.failcnt", ""),
		OOMKill:  r.number("memory", "memory.oom_control", "oom_kill"),
	}
}

func (r *reader) pids() *PidsStats { // spelled alike in both versions
	return &PidsStats{
		Current: r.number("pids", "pids.current", ""), Limit: r.limit("pids", "pids.max"),
		Refused: r.number("pids", "pids.events", "max"),
	}
}

func (r *reader) io() []DeviceIO {
	devices := map[string]*DeviceIO{}
	device := func(name string) *DeviceIO {
		if devices[name] == nil {
			devices[name] = &DeviceIO{Device: name}
		}
		return devices[name]
	}
	if r.group.Version("io") == 2 {
		// "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0"
		for line := range strings.Lines(r.text("io", "io.stat")) {
			words := strings.Fields(line)
			for _, word := range words[min(1, len(words)):] {
				key, value, _ := strings.Cut(word, "=")
				n, err := strconv.ParseUint(value, 10, 64)
				if err != nil {
					continue // a policy's own keys
				}
				switch key {
				case "rbytes":
					device(words[0]).ReadBytes = n
				case "wbytes":
					device(words[0]).WriteBytes = n
				case "rios":
					device(words[0]).Reads = n
				case "wios":
					device(words[0]).Writes = n
				}
			}
		}
	} else {
		// "254:0 Read 4096", a line for each direction; newer kernels count only where a throttle is set.
		each := func(file string, read, write func(*DeviceIO) *uint64) {
			for line := range strings.Lines(r.text("io", file)) {
				words := strings.Fields(line)
				if len(words) != 3 {
					continue // the total
				}
				n, err := strconv.ParseUint(words[2], 10, 64)
				switch {
				case err != nil:
				case words[1] == "Read":
					*read(device(words[0])) = n
				case words[1] == "Write":
					*write(device(words[0])) = n
				}
			}
		}
		each("blkio.throttle.io_service_bytes_recursive",
			func(d *DeviceIO) *uint64 { return &d.ReadBytes }, func(d *DeviceIO) *uint64 { return &d.WriteBytes })
		each("blkio.throttle.io_serviced_recursive",
			func(d *DeviceIO) *uint64 { return &d.Reads }, func(d *DeviceIO) *uint64 { return &d.Writes })
	}
	var all []DeviceIO
	for _, name := range sortedKeys(devices) {
		all = append(all, *devices[name])
	}
	return all
}

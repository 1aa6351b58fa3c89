package cgroups

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// fakeGroup is a group of plain files: it shows what is written where, though not what a kernel would say to it.
func fakeGroup(t *testing.T, version int, controllers []string, files ...string) *Group {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Group{Path: "nslab-x", Dirs: []Dir{{Path: dir, Version: version, Controllers: controllers}}}
}

func ptr[T any](v T) *T { return &v }

// written runs Set and returns what it wrote: "value → file".
func written(g *Group, r *specs.LinuxResources) ([]string, error) {
	var got []string
	ctx := trace.With(context.Background(), func(r trace.Record) {
		text, ok := strings.CutPrefix(r.Text, "write ")
		if ok {
			got = append(got, strings.Replace(text, g.Dirs[0].Path+"/", "", 1))
		}
	})
	return got, g.Set(ctx, r)
}

var (
	v1Files = []string{
		"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us", "cpu.shares", "cpu.idle", "cpuset.cpus", "cpuset.mems",
		"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness", "memory.oom_control",
		"pids.max", "blkio.bfq.weight", "blkio.bfq.weight_device", "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
		"blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device", "hugetlb.2MB.limit_in_bytes",
	}
	v2Files = []string{
		"cpu.max=30000 100000", "cpu.max.burst", "cpu.weight", "cpu.idle", "cpuset.cpus", "cpuset.mems", "memory.max", "memory.swap.max",
		"memory.low", "memory.high", "memory.current=5000", "pids.max", "io.max", "io.weight", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "cgroup.max.depth",
	}
	all = []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}
)

func TestSet(t *testing.T) {
	disk := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: rate}}
	}
	for _, c := range []struct {
		name   string
		r      specs.LinuxResources
		v1, v2 []string
		e1, e2 string // what the error says, where one is due
	}{
		{
			name: "quota and period", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20000), Period: ptr[uint64](50000)}},
			v1: []string{"50000 → cpu.cfs_period_us", "20000 → cpu.cfs_quota_us"}, v2: []string{"20000 50000 → cpu.max"},
		},
		{
			name: "quota alone", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20000)}},
			v1: []string{"20000 → cpu.cfs_quota_us"}, v2: []string{"20000 → cpu.max"},
		},
		{
			name: "period alone keeps the quota", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr[uint64](50000)}},
			v1: []string{"50000 → cpu.cfs_period_us"}, v2: []string{"30000 50000 → cpu.max"},
		},
		{
			name: "no quota", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1)}},
			v1: []string{"-1 → cpu.cfs_quota_us"}, v2: []string{"max → cpu.max"},
		},
		{name: "quota 0 is not given", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](0)}}},
		{
			name: "burst and idle", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: ptr[uint64](1000), Idle: ptr[int64](1)}},
			v1: []string{"1 → cpu.idle", "1000 → cpu.cfs_burst_us"}, v2: []string{"1 → cpu.idle", "1000 → cpu.max.burst"},
		},
		{
			name: "shares", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1024)}},
			v1: []string{"1024 → cpu.shares"}, v2: []string{"100 → cpu.weight"},
		},
		{
			name: "cpuset", r: specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-1", Mems: "0"}},
			v1: []string{"0-1 → cpuset.cpus", "0 → cpuset.mems"}, v2: []string{"0-1 → cpuset.cpus", "0 → cpuset.mems"},
		},
		{
			name: "realtime", r: specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr[int64](1)}},
			e1: "cpu.rt_runtime_us: no such file", e2: "cgroup v2 has no such limit", v1: []string{"1 → cpu.rt_runtime_us"},
		},
		{
			name: "memory, reservation, swap", r: specs.LinuxResources{Memory: &specs.LinuxMemory{
				Limit: ptr[int64](32 << 20), Swap: ptr[int64](40 << 20), Reservation: ptr[int64](16 << 20),
			}},
			v1: []string{
				"33554432 → memory.limit_in_bytes", "41943040 → memory.memsw.limit_in_bytes", "16777216 → memory.soft_limit_in_bytes",
			},
			v2: []string{"8388608 → memory.swap.max", "33554432 → memory.max", "16777216 → memory.low"},
		},
		{
			name: "no memory limit lifts swap's too", r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}},
			v1: []string{"-1 → memory.limit_in_bytes", "-1 → memory.memsw.limit_in_bytes"},
			v2: []string{"max → memory.swap.max", "max → memory.max"},
		},
		{
			name: "swap below memory",
			r:    specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](2 << 20), Swap: ptr[int64](1 << 20)}},
			v1:   []string{"2097152 → memory.limit_in_bytes", "1048576 → memory.memsw.limit_in_bytes"}, e2: "are less than memory alone",
		},
		{
			name: "OOM killer", r: specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}},
			v1: []string{"1 → memory.oom_control"}, e2: "set memory.disableOOMKiller: cgroup v2 has no such limit",
		},
		{
			name: "swappiness", r: specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](0)}},
			v1: []string{"0 → memory.swappiness"}, e2: "set memory.swappiness: cgroup v2 has no such limit",
		},
		{
			name: "pids", r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](5)}},
			v1: []string{"5 → pids.max"}, v2: []string{"5 → pids.max"},
		},
		{
			name: "pids 0", r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](0)}},
			v1: []string{"max → pids.max"}, v2: []string{"max → pids.max"},
		},
		{
			name: "throttles", r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				ThrottleReadBpsDevice: throttle(1), ThrottleWriteBpsDevice: throttle(2),
				ThrottleReadIOPSDevice: throttle(3), ThrottleWriteIOPSDevice: throttle(0),
			}},
			v1: []string{
				"8:16 1 → blkio.throttle.read_bps_device", "8:16 2 → blkio.throttle.write_bps_device",
				"8:16 3 → blkio.throttle.read_iops_device", "8:16 0 → blkio.throttle.write_iops_device",
			},
			v2: []string{"8:16 rbps=1 → io.max", "8:16 wbps=2 → io.max", "8:16 riops=3 → io.max", "8:16 wiops=max → io.max"},
		},
		{
			name: "io weight", r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				Weight: ptr[uint16](1000), WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: disk, Weight: ptr[uint16](10)}},
			}},
			v1: []string{"1000 → blkio.bfq.weight", "8:16 10 → blkio.bfq.weight_device"},
			v2: []string{"default 10000 → io.weight", "8:16 1 → io.weight"},
		},
		{
			name: "huge pages", r: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}},
			v1: []string{"4 → hugetlb.2MB.limit_in_bytes"}, v2: []string{"4 → hugetlb.2MB.max", "4 → hugetlb.2MB.rsvd.max"},
		},
		{
			name: "huge pages, hostile", r: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../../x", Limit: 4}}},
			e1: "is not one like 2MB", e2: "is not one like 2MB",
		},
		{
			name: "unified", r: specs.LinuxResources{Unified: map[string]string{"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}},
			e1: "unified io.max: cgroup v1", v2: []string{"8:0 rbps=1 → io.max", "8:16 rbps=2 → io.max", "1000 → memory.high"},
		},
		{
			name: "unified, hostile", r: specs.LinuxResources{Unified: map[string]string{"memory/../../x.y": "1"}},
			e1: "is not the name of a file", e2: "is not the name of a file",
		},
		{
			name: "unified, no limit", r: specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}},
			e1: "is no limit", e2: "is no limit",
		},
		{
			name: "a controller that the group lacks", r: specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](1)}},
			e1: "use controller net_cls", e2: "use controller net_cls",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(version int, g *Group, want []string, wantErr string) {
				got, err := written(g, &c.r)
				if !slices.Equal(got, want) {
					t.Errorf("v%d: Set wrote %q; want %q", version, got, want)
				}
				if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
					t.Errorf("v%d: Set = %v; want %q", version, err, wantErr)
				}
			}
			check(1, fakeGroup(t, 1, all, v1Files...), c.v1, c.e1)
			check(2, fakeGroup(t, 2, all, v2Files...), c.v2, c.e2)
		})
	}
}

// With bfq on v2 the weight goes in as it is.
func TestSetBfqWeight(t *testing.T) {
	g := fakeGroup(t, 2, all, "io.bfq.weight", "io.weight")
	got, err := written(g, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](300)}})
	if want := []string{"300 → io.bfq.weight"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Set wrote %q, %v; want %q", got, err, want)
	}
}

func TestCheckBeforeUpdate(t *testing.T) {
	g := fakeGroup(t, 2, all, v2Files...)
	got, err := written(g, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](4096), CheckBeforeUpdate: ptr(true)}})
	if !errors.Is(err, unix.EBUSY) || len(got) != 0 {
		t.Errorf("Set below the usage wrote %q, %v; want nothing, EBUSY", got, err)
	}
}

// A file that the kernel did not make is never created.
func TestWriteDoesNotCreate(t *testing.T) {
	g := fakeGroup(t, 1, all)
	_, err := written(g, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](5)}})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("Set = %v; want ENOENT", err)
	}
	if exists(g.File("pids", "pids.max")) {
		t.Error("Set created pids.max")
	}
	want := "03-cgroups: write 5 to " + g.File("pids", "pids.max") + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("error %v; want %s", err, want)
	}
}

func TestWeight(t *testing.T) {
	for _, c := range []struct{ shares, want uint64 }{{0, 0}, {1, 1}, {2, 1}, {256, 35}, {512, 59}, {1024, 100}, {2048, 174}, {262144, 10000}, {1 << 40, 10000}} {
		if got := Weight(c.shares); got != c.want {
			t.Errorf("Weight(%d) = %d; want %d", c.shares, got, c.want)
		}
	}
}

func TestSwapMax(t *testing.T) {
	for _, c := range []struct {
		limit, both *int64
		want        string
		fails       bool
	}{
		{nil, nil, "", false},
		{ptr[int64](100), nil, "", false},
		{ptr[int64](-1), nil, "max", false},
		{ptr[int64](100), ptr[int64](-1), "max", false},
		{ptr[int64](100), ptr[int64](0), "", false},
		{ptr[int64](100), ptr[int64](100), "0", false},
		{ptr[int64](100), ptr[int64](150), "50", false},
		{ptr[int64](100), ptr[int64](50), "", true},
		{nil, ptr[int64](50), "", true},
		{ptr[int64](-1), ptr[int64](50), "", true},
		{ptr[int64](100), ptr[int64](-2), "", true},
	} {
		if got, err := SwapMax(c.limit, c.both); got != c.want || (err != nil) != c.fails {
			t.Errorf("SwapMax = %q, %v; want %q, failure %v", got, err, c.want, c.fails)
		}
	}
}

func TestCPUList(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []int
	}{{"", nil}, {"0", []int{0}}, {"0-2,5", []int{0, 1, 2, 5}}, {"1,3-4\n", []int{1, 3, 4}}, {"x", nil}, {"0-999999999999999999999", nil}} {
		if got := CPUList(c.in); !slices.Equal(got, c.want) {
			t.Errorf("CPUList(%q) = %v; want %v", c.in, got, c.want)
		}
	}
}

func TestStatsV2(t *testing.T) {
	g := fakeGroup(t, 2, all,
		"cpu.stat=usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 10\nnr_throttled 4\nthrottled_usec 77\n",
		"memory.current=4096", "memory.peak=8192", "memory.max=max", "memory.stat=anon 1\ninactive_file 512\n",
		"memory.events=low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n", "pids.current=2", "pids.max=5", "pids.events=max 1\n",
		"io.stat=254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:0 \n")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if want := (CPUStats{1500000, 1000000, 500000, 10, 4, 77000}); *s.CPU != want {
		t.Errorf("CPU = %+v; want %+v", *s.CPU, want)
	}
	if want := (MemoryStats{4096, 8192, Unlimited, 512, 3, 1}); *s.Memory != want {
		t.Errorf("Memory = %+v; want %+v", *s.Memory, want)
	}
	if want := (PidsStats{2, 5, 1}); *s.Pids != want {
		t.Errorf("Pids = %+v; want %+v", *s.Pids, want)
	}
	if want := []DeviceIO{{"254:0", 1, 2, 3, 4}}; !slices.Equal(s.IO, want) {
		t.Errorf("IO = %+v; want %+v", s.IO, want)
	}
}

func TestStatsV1(t *testing.T) {
	g := fakeGroup(t, 1, append(all, "cpuacct"),
		"cpuacct.usage=1500", "cpuacct.usage_user=1000", "cpuacct.usage_sys=500", "cpu.stat=nr_periods 10\nnr_throttled 4\nthrottled_time 77\n",
		"memory.usage_in_bytes=4096", "memory.max_usage_in_bytes=8192", "memory.limit_in_bytes=9223372036854771712",
		"memory.stat=inactive_file 1\ntotal_inactive_file 512\n", "memory.failcnt=3",
		"memory.oom_control=oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "pids.current=2", "pids.max=max", "pids.events=max 1\n",
		"blkio.throttle.io_service_bytes_recursive=8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\nTotal 3\n",
		"blkio.throttle.io_serviced_recursive=8:0 Read 3\n8:0 Write 4\nTotal 7\n")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if want := (CPUStats{1500, 1000, 500, 10, 4, 77}); *s.CPU != want {
		t.Errorf("CPU = %+v; want %+v", *s.CPU, want)
	}
	if want := (MemoryStats{4096, 8192, Unlimited, 512, 3, 1}); *s.Memory != want {
		t.Errorf("Memory = %+v; want %+v", *s.Memory, want)
	}
	if want := (PidsStats{2, Unlimited, 1}); *s.Pids != want {
		t.Errorf("Pids = %+v; want %+v", *s.Pids, want)
	}
	if want := []DeviceIO{{"8:0", 1, 2, 3, 4}}; !slices.Equal(s.IO, want) {
		t.Errorf("IO = %+v; want %+v", s.IO, want)
	}
}

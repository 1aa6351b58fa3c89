package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// system is the real one. Without root there is nothing to test here.
func system(t *testing.T) *System {
	t.Helper()
	coursetest.NeedRoot(t)
	s, err := Discover()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Hierarchies) == 0 {
		t.Fatal("no control groups are mounted")
	}
	return s
}

// group makes a real group, and fails the test if anything of it is left at its end.
func group(t *testing.T, controllers ...string) *Group {
	t.Helper()
	s := system(t)
	for _, c := range controllers {
		if _, ok := s.Find(c); !ok {
			if c == Core {
				t.Skip("v1 alone has no core: another job of the suite has") // no condition of the suite
			}
			coursetest.Missing(t, "the controller "+c)
		}
	}
	name := fmt.Sprintf("nslab-test-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	g, err := s.Plan(name, controllers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, thing := range slices.Backward(g.Things()) {
			if err := Undo(context.Background(), thing); err != nil {
				t.Error(err)
			}
			if thing.Kind == KindGroup && exists(thing.Path) {
				t.Errorf("%s is left", thing.Path)
			}
		}
	})
	return g
}

// sleeper starts a process that does nothing, and puts it into the group.
func sleeper(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // already dead where the test went well
		_ = cmd.Wait()
	})
	if err := g.Add(context.Background(), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestKernelLife(t *testing.T) {
	for _, c := range [][]string{{"cpu"}, {"memory"}, {"pids", "freezer"}, {"cpuset"}, {"io"}, {"freezer"}, {Core}, {Core, "freezer"}} {
		t.Run(strings.Join(c, "-"), func(t *testing.T) {
			g := group(t, c...)
			a, b := sleeper(t, g), sleeper(t, g)
			pids, err := g.Pids()
			if err != nil || !slices.Contains(pids, a.Process.Pid) || !slices.Contains(pids, b.Process.Pid) || len(pids) != 2 {
				t.Fatalf("Pids() = %v, %v; want %d and %d", pids, err, a.Process.Pid, b.Process.Pid)
			}
			for _, d := range g.Dirs { // as the kernel sees it from the process
				groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", a.Process.Pid))
				if !strings.Contains(string(groups), g.Path) {
					t.Errorf("/proc/PID/cgroup = %s; want %s in it", groups, d.Path)
				}
			}
			if err := g.Delete(context.Background()); !errors.Is(err, unix.EBUSY) {
				t.Errorf("Delete with processes = %v; want EBUSY", err)
			} else if cond := diagnosis.Of(err); len(cond) != 2 || cond[0].OK {
				t.Errorf("conditions %+v; want the processes named", cond)
			}
			if _, err := g.Stats(); err != nil {
				t.Errorf("Stats() = %v", err)
			}
			if err := g.Kill(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, p := range []*exec.Cmd{a, b} {
				_ = p.Wait()
				if ws := p.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGKILL {
					t.Errorf("process ended by %v; want SIGKILL", p.ProcessState)
				}
			}
			for range 2 { // idempotent
				if err := g.Delete(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestKernelFreeze(t *testing.T) {
	for _, c := range [][]string{{"freezer"}, {Core}} {
		t.Run(c[0], func(t *testing.T) {
			g := group(t, c...)
			if c[0] == Core { // freeze through v2 also where v1 has a freezer
				g.Dirs[0].Controllers = []string{"freezer"}
			}
			p := sleeper(t, g)
			d := g.Dirs[0]
			if err := g.Freeze(context.Background()); err != nil {
				t.Fatal(err)
			}
			if d.Version == 1 {
				if state, _ := readFile(filepath.Join(d.Path, stateFile)); state != "FROZEN" {
					t.Errorf("freezer.state = %s", state)
				}
			} else if events, _ := readFile(filepath.Join(d.Path, eventsFile)); !strings.Contains(events, "frozen 1") {
				t.Errorf("cgroup.events = %s", events)
			}
			// A frozen group can be killed and removed all the same.
			if err := g.Kill(context.Background()); err != nil {
				t.Fatal(err)
			}
			_ = p.Wait()

			q := sleeper(t, g)
			if err := errors.Join(g.Freeze(context.Background()), RemoveDir(context.Background(), d.Path)); err != nil {
				t.Fatal(err)
			}
			_ = q.Wait()
			if exists(d.Path) {
				t.Error("RemoveDir left a frozen group")
			}
		})
	}
}

// The order of the two writes depends on the values before.
func TestKernelMemoryAndSwap(t *testing.T) {
	g := group(t, "memory")
	if g.Version("memory") == 1 && !exists(g.File("memory", "memory.memsw.limit_in_bytes")) {
		t.Skip("the kernel does not count swap")
	}
	for _, mb := range [][2]int64{{64, 128}, {256, 512}, {32, 40}, {100, 100}, {20, 20}, {-1, -1}, {64, -1}, {32, 64}} {
		limit, swap := mb[0], mb[1]
		if limit > 0 {
			limit <<= 20
		}
		if swap > 0 {
			swap <<= 20
		}
		if err := g.Set(context.Background(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}); err != nil {
			t.Fatalf("from the limits before to %v: %v", mb, err)
		}
		s, err := g.Stats()
		if err != nil || s.Memory.Limit != limit {
			t.Errorf("limit = %d, %v; want %d", s.Memory.Limit, err, limit)
		}
	}
	// Values that do not fit each other stay refused, and the reason is found.
	if g.Version("memory") == 1 {
		err := g.Set(context.Background(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](32 << 20)}})
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("Set(swap < memory) = %v; want EINVAL", err)
		}
	}
}

func TestKernelQuotaAndBurst(t *testing.T) {
	g := group(t, "cpu")
	for _, c := range []struct {
		quota         int64
		period, burst uint64
	}{{20000, 100000, 10000}, {5000, 50000, 5000}, {90000, 100000, 80000}, {2000, 10000, 0}, {-1, 100000, 0}} {
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &c.quota, Period: &c.period}}
		if exists(g.File("cpu", "cpu.cfs_burst_us")) || exists(g.File("cpu", "cpu.max.burst")) {
			r.CPU.Burst = &c.burst
		}
		if err := g.Set(context.Background(), r); err != nil {
			t.Fatalf("to %+v: %v", c, err)
		}
	}
	err := g.Set(context.Background(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](1)}})
	if !errors.Is(err, unix.EINVAL) {
		t.Fatalf("Set(quota 1) = %v; want EINVAL", err)
	}
	if g.Version("cpu") == 1 {
		if cond := diagnosis.Of(err); len(cond) == 0 || cond[0].OK {
			t.Errorf("conditions %+v; want the range named", cond)
		}
	}
}

// Two nslab need a controller that is off: it goes off again when the second one is done, not the first.
func TestKernelSubtreeControl(t *testing.T) {
	s := system(t)
	h, ok := s.Find("hugetlb")
	if !ok || h.Version != 2 {
		t.Skip("no v2 controller that is likely to be off")
	}
	if on, _ := readFile(filepath.Join(h.Mount, subtreeControl)); strings.Contains(on, "hugetlb") {
		t.Skip("hugetlb is on")
	}
	ctx := context.Background()
	isOn := func() bool {
		on, err := enabling{h.Mount, "hugetlb", "nslab-test"}.isOn()
		if err != nil {
			t.Fatal(err)
		}
		return on
	}
	var groups []*Group
	for _, name := range []string{"nslab-test-a", "nslab-test-b"} {
		g, err := s.Plan(fmt.Sprintf("%s-%d", name, os.Getpid()), "hugetlb")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Create(ctx); err != nil {
			t.Fatal(err)
		}
		if err := g.Set(ctx, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, g)
	}
	// A third one that does not need it makes no difference.
	group(t, Core)
	for i, g := range groups {
		things := g.Things()
		if len(things) != 2 || things[0].Kind != KindSubtree {
			t.Fatalf("Things() = %v; want the switch and the folder", things)
		}
		for range 2 {
			for _, thing := range slices.Backward(things) {
				if err := Undo(ctx, thing); err != nil {
					t.Fatal(err)
				}
			}
		}
		if want := i == 0; isOn() != want {
			t.Errorf("after %d of 2 were undone hugetlb is on: %v; want %v", i+1, isOn(), want)
		}
	}
	if exists(enabling{h.Mount, "hugetlb", "nslab-test"}.marker()) {
		t.Error("the mark is left")
	}
}

// What was on before us, without our mark, stays on.
func TestKernelSubtreeControlOfOthers(t *testing.T) {
	s := system(t)
	h, ok := s.Find("hugetlb")
	if !ok || h.Version != 2 {
		t.Skip("no v2 controller that is likely to be off")
	}
	e := enabling{h.Mount, "hugetlb", "nslab-test"}
	if on, _ := e.isOn(); on {
		t.Skip("hugetlb is on")
	}
	ctx := context.Background()
	file := filepath.Join(h.Mount, subtreeControl)
	if err := writeOnce(file, "+hugetlb"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := writeOnce(file, "-hugetlb"); err != nil {
			t.Error(err)
		}
	}()
	g, err := s.Plan("nslab-test-c", "hugetlb")
	if err != nil || len(g.Things()) != 1 {
		t.Fatalf("Things() = %v, %v; want the folder alone", g.Things(), err)
	}
	if err := e.off(ctx); err != nil {
		t.Fatal(err)
	}
	if on, _ := e.isOn(); !on {
		t.Error("a switch of somebody else's was turned")
	}
}

func TestKernelCreateIsExclusive(t *testing.T) {
	g := group(t, "pids", "freezer")
	again, err := system(t).Plan(g.Path, "freezer", "pids")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Create(context.Background()); !errors.Is(err, unix.EEXIST) {
		t.Errorf("Create of an existing group = %v; want EEXIST", err)
	}
	for _, d := range g.Dirs {
		if !exists(d.Path) {
			t.Errorf("a failed Create removed %s, which it had not made", d.Path)
		}
	}
}

func TestKernelNew(t *testing.T) {
	system(t)
	name := fmt.Sprintf("nslab-test-new-%d", os.Getpid())
	ctx := context.Background()
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](7)}, CPU: &specs.LinuxCPU{Quota: ptr[int64](1)}}
	if g, err := New(ctx, name, r, "freezer"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("New with a bad quota = %v, %v; want EINVAL", g, err)
	}
	r.CPU.Quota = ptr[int64](20000)
	g, err := New(ctx, name, r, "freezer") // also: nothing was left the first time
	if err != nil {
		t.Fatal(err)
	}
	if s, err := g.Stats(); err != nil || s.Pids.Limit != 7 {
		t.Errorf("Stats() = %+v, %v; want the limit of 7", s, err)
	}
	if err := g.undo(ctx); err != nil {
		t.Error(err)
	}
}

func TestRemoveDirRefuses(t *testing.T) {
	system(t)
	plain := filepath.Join(t.TempDir(), "nslab-x")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "nslab-link")
	if err := os.Symlink("/sys/fs/cgroup", link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{
		plain, link, "/", "", "nslab-x", "/sys/fs/cgroup", "/sys/fs/cgroup/x", "/sys/fs/cgroup/nslab-x/../..", "/sys/fs/cgroup/nslab-x/..",
		"/sys/fs/cgroup/nslab-x/", "/tmp/../sys/fs/cgroup/nslab-x",
	} {
		if err := RemoveDir(context.Background(), dir); err == nil {
			t.Errorf("RemoveDir(%q) agreed", dir)
		}
	}
	if !exists(plain) {
		t.Error("a plain folder was removed")
	}
	if err := RemoveDir(context.Background(), "/sys/fs/cgroup/nslab-not-there"); err != nil {
		t.Errorf("RemoveDir of what is gone = %v; want nil", err)
	}
	for _, thing := range []Thing{{KindLeaf, plain}, {KindSubtree, plain + "/cgroup.subtree_control +cpu nslab-x"}, {"file", plain}} {
		if err := Undo(context.Background(), thing); err == nil {
			t.Errorf("Undo(%v) agreed", thing)
		}
	}
}

func TestKernelNestedGroups(t *testing.T) {
	g := group(t, "freezer", "pids")
	for _, d := range g.Dirs {
		if err := os.MkdirAll(filepath.Join(d.Path, "a/b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inner := &Group{Path: g.Path + "/a/b"}
	for _, d := range g.Dirs {
		d.Path = filepath.Join(d.Path, "a/b")
		inner.Dirs = append(inner.Dirs, d)
	}
	p := sleeper(t, inner)
	if err := g.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	if err := g.Delete(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A path of several elements makes the folders between, and a v1 cpuset is filled all the way down.
func TestKernelDeepPath(t *testing.T) {
	s := system(t)
	top := fmt.Sprintf("nslab-test-deep-%d", os.Getpid())
	controllers := []string{"pids"}
	if _, ok := s.Find("cpuset"); ok {
		controllers = append(controllers, "cpuset")
	}
	g, err := s.Plan("/"+top+"/a/b", controllers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	p := sleeper(t, g)
	if err := g.Kill(context.Background()); err != nil {
		t.Error(err)
	}
	_ = p.Wait()
	if err := g.undo(context.Background()); err != nil {
		t.Error(err)
	}
	for _, h := range s.Hierarchies {
		if exists(filepath.Join(h.Mount, top)) {
			t.Errorf("%s/%s is left", h.Mount, top)
		}
	}
}

func TestKernelErrors(t *testing.T) {
	g := group(t, "pids")
	err := g.Add(context.Background(), 1<<22+1)
	if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("Add of nobody = %v; want ESRCH", err)
	}
	if cond := diagnosis.Of(err); errors.Is(err, unix.ESRCH) && (len(cond) != 1 || cond[0].OK) {
		t.Errorf("conditions %+v", cond)
	}
	err = write(context.Background(), 0, g.File("pids", "memory.max"), "1")
	if cond := diagnosis.Of(err); !errors.Is(err, unix.ENOENT) || len(cond) != 2 || !cond[0].OK || cond[1].OK {
		t.Errorf("%v: conditions %+v; want the group there, the file not", err, cond)
	}
	if _, err := system(t).Plan("nslab-x", "nonsense"); len(diagnosis.Of(err)) != 3 {
		t.Errorf("Plan with a controller that is not there = %v; want three conditions", err)
	}
}

func TestKernelEmptyCpuset(t *testing.T) {
	g := group(t, "cpuset")
	if g.Version("cpuset") != 1 {
		t.Skip("only v1 starts empty")
	}
	bare := filepath.Join(g.Dir("cpuset"), "bare")
	if err := os.Mkdir(bare, 0o755); err != nil {
		t.Fatal(err)
	}
	err := (&Group{Dirs: []Dir{{Path: bare, Version: 1}}}).Add(context.Background(), os.Getpid())
	if cond := diagnosis.Of(err); !errors.Is(err, unix.ENOSPC) || len(cond) != 2 || cond[0].OK || cond[1].OK {
		t.Errorf("Add to an empty cpuset = %v, %+v; want ENOSPC, both files named", err, cond)
	}
}

func TestProbe(t *testing.T) {
	s := system(t)
	for controller := range telling() {
		if _, ok := s.Find(controller); !ok {
			continue
		}
		var open, made int
		journal := func(Thing) (func() error, error) {
			open++
			made++
			return func() error { open--; return nil }, nil
		}
		name := fmt.Sprintf("nslab-probe-%d-%s", os.Getpid(), controller)
		if err := Probe(context.Background(), name, controller, journal); err != nil {
			t.Errorf("Probe(%s) = %v", controller, err)
		}
		if open != 0 || made == 0 {
			t.Errorf("Probe(%s): %d of %d journalled things not undone", controller, open, made)
		}
	}
	if err := Probe(context.Background(), "nslab-probe-x", "nonsense", nil); err == nil {
		t.Error("Probe(nonsense) agreed")
	}
}

// What is shown is what was called, with the line of this package that decided the value.
func TestTraceNamesTheLine(t *testing.T) {
	g := fakeGroup(t, 1, all, "cpu.cfs_quota_us")
	var got trace.Record
	ctx := trace.With(context.Background(), func(r trace.Record) { got = r })
	if err := g.Set(ctx, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20000)}}); err != nil {
		t.Fatal(err)
	}
	if want := "write 20000 → " + g.File("cpu", "cpu.cfs_quota_us"); got.Text != want || !strings.HasPrefix(got.At, "labs/03-cgroups/cpu.go:") {
		t.Errorf("recorded %+v; want %q at cpu.go", got, want)
	}
}

func TestAwaitIsBounded(t *testing.T) {
	g := group(t, Core)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := awaitEvent(ctx, g.Dir(Core), "populated", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("awaitEvent = %v; want the deadline", err)
	}
}

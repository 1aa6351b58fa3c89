package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// The steps about CPU time.

const period = 100000 // µs; the kernel's default, and what everybody uses

// busy: without a limit a loop takes a whole CPU.
func busy(t *course.T) error {
	g, err := NewGroup(t.Untraced(), t, t.Name(), "cpu")
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
	if err := loop(t, g, box); err != nil {
		return err
	}
	spelled(t, g, "cpu", "cpu.cfs_quota_us = -1, cpu.cfs_period_us = 100000", "cpu.max = max 100000")
	unlimited := map[int][2]string{1: {"cpu.cfs_quota_us", "-1"}, 2: {"cpu.max", "max 100000"}}[g.Version("cpu")]
	t.Equal(unlimited[1], content(g, "cpu", unlimited[0]), "a new group has no limit: %s", unlimited[0])

	m, err := measure(t, box.Pid(), g, time.Second)
	if err != nil {
		return err
	}
	t.See("in %s the group used %s of CPU time, %s of one CPU", seconds(m.took), seconds(m.cpu.Usage), percent(m.cpu.Usage, m.took))
	t.See("/proc/%s/stat counted %s; it waited %s more while others had the CPU", strconv.Itoa(box.Pid()), seconds(m.process), seconds(m.waited))
	t.See("times that it was held back by a limit: %s", strconv.FormatUint(m.cpu.Throttled, 10))
	ran := share(m.cpu.Usage+m.waited, m.took)
	t.Check(ran >= 75, ">= 75 %", fmt.Sprintf("%.1f %%", ran), "the loop had a CPU, or waited for its turn, nearly all the time")
	t.Check(m.cpu.Throttled == 0, 0, m.cpu.Throttled, "no limit has held it back")
	apart := share(max(0, m.cpu.Usage-m.process-(m.around-m.took), m.process-m.cpu.Usage), m.took)
	t.Check(apart < 15, "< 15 % apart", fmt.Sprintf("%.1f %%", apart), "the group's count and the process's own agree")
	return nil
}

// loop has a box loop, and returns when it does: on a busy machine it takes a while to hear of it.
func loop(t *course.T, g *Group, box *pid.Box) error {
	before, err := g.Stats()
	if err != nil {
		return err
	}
	if err := box.Send("03-burn"); err != nil {
		return err
	}
	if !t.Await(soon, func() bool {
		now, err := g.Stats()
		return err == nil && now.CPU.Usage > before.CPU.Usage+40*time.Millisecond
	}) {
		return fmt.Errorf("the loop in %s does not start", g.Path)
	}
	return nil
}

// limitCPU: 20000 of 100000 is a fifth of a CPU.
func limitCPU(t *course.T) error {
	const quota = 20000
	g, err := NewGroup(t.Untraced(), t, t.Name(), "cpu")
	if err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	limit := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(quota)), Period: new(uint64(period))}}
	if err := g.Set(t.Context(), limit); err != nil {
		return err
	}
	if err := g.Add(t.Context(), box.Pid()); err != nil {
		return err
	}
	if err := threadsListed(t, g, box); err != nil {
		return err
	}
	if err := loop(t, g, box); err != nil {
		return err
	}
	m, err := measure(t, box.Pid(), g, time.Second)
	if err != nil {
		return err
	}
	spelled(t, g, "cpu", "cpu.cfs_quota_us = 20000, cpu.cfs_period_us = 100000", "cpu.max = 20000 100000")
	t.See("the loop used %s of a CPU over %s; throttled in %s of %s periods", percent(m.cpu.Usage, m.around), seconds(m.around),
		strconv.FormatUint(m.cpu.Throttled, 10), strconv.FormatUint(m.cpu.Periods, 10))
	if g.Version("cpu") == 1 {
		t.Equal("20000 100000", content(g, "cpu", "cpu.cfs_quota_us")+" "+content(g, "cpu", "cpu.cfs_period_us"), "the kernel has the limit")
	} else {
		t.Equal("20000 100000", content(g, "cpu", "cpu.max"), "the kernel has the limit")
	}
	t.Check(share(m.cpu.Usage, m.around) <= 25, "<= 25 %", percent(m.cpu.Usage, m.around), "usage is at most a quarter of a CPU")
	if m.cpu.Throttled == 0 && share(m.cpu.Usage, m.around) < 20 {
		t.See("the machine is busy: others left it less than its quota, which was never used up")
	} else {
		t.Check(m.cpu.Throttled > 0, "> 0", m.cpu.Throttled, "nr_throttled grew")
	}
	// Throttled means that a period's quota was used up, so those periods tell from below what it must have got, on a busy
	// machine too. Half of it, since a machine that stalls counts periods in which nobody could run.
	least := time.Duration(m.cpu.Throttled) * quota * time.Microsecond / 2
	t.Check(m.cpu.Usage >= least, ">= "+millis(least), millis(m.cpu.Usage), "it got its quota in the periods that it was throttled in")
	return nil
}

// threadsListed: cgroup.procs lists processes, v1's tasks (v2: cgroup.threads) each of their threads.
func threadsListed(t *course.T, g *Group, box *pid.Box) error {
	procs, err := pidsIn(g.Dir("cpu"))
	if err != nil {
		return err
	}
	file := map[int]string{1: "tasks", 2: "cgroup.threads"}[g.Version("cpu")]
	threads, err := readFile(g.File("cpu", file))
	if err != nil {
		return err
	}
	count := len(strings.Fields(threads))
	t.See("cgroup.procs lists process %s; %s its threads, %s of them", strings.Trim(fmt.Sprint(procs), "[]"), file, strconv.Itoa(count))
	t.Equal(fmt.Sprint([]int{box.Pid()}), fmt.Sprint(procs), "the box is the only process in the group")
	return nil
}

// weight: shares decide who gets a CPU that two want, and nothing else.
func weight(t *course.T) error {
	shares := [2]uint64{1024, 256}
	cpu, err := lastCPU()
	if err != nil {
		return err
	}
	var groups [2]*Group
	var boxes [2]*pid.Box
	var has [2]uint64 // as the kernel has it
	for i, n := range shares {
		if groups[i], err = NewGroup(t.Untraced(), t, t.Name()+"-"+string("ab"[i]), "cpu"); err != nil {
			return err
		}
		if err := groups[i].Set(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &n}}); err != nil {
			return err
		}
		file := map[int]string{1: "cpu.shares", 2: "cpu.weight"}[groups[i].Version("cpu")]
		if has[i], err = strconv.ParseUint(content(groups[i], "cpu", file), 10, 64); err != nil {
			return err
		}
		if boxes[i], err = newBox(t); err != nil {
			return err
		}
		if err := groups[i].Add(t.Context(), boxes[i].Pid()); err != nil {
			return err
		}
		// On one CPU, or there would be nothing to share.
		if _, err := boxes[i].Call(t.Context(), "03-pin", strconv.Itoa(cpu)); err != nil {
			return err
		}
	}
	for _, box := range boxes {
		if err := box.Send("03-burn"); err != nil {
			return err
		}
	}
	// From when both run.
	for _, g := range groups {
		if !t.Await(soon, func() bool { s, err := g.Stats(); return err == nil && s.CPU.Usage > 20*time.Millisecond }) {
			return fmt.Errorf("the loop in %s does not start", g.Path)
		}
	}
	want := float64(has[0]) / float64(has[1])
	used, err := fight(t, groups[:], want)
	if err != nil {
		return err
	}
	spelled(t, groups[0], "cpu", "cpu.shares = 1024 : 256", fmt.Sprintf("cpu.weight = %d : %d", Weight(1024), Weight(256)))
	wrote := map[int]string{1: "1024 256", 2: fmt.Sprintf("%d %d", Weight(1024), Weight(256))}[groups[0].Version("cpu")]
	t.Equal(wrote, fmt.Sprintf("%d %d", has[0], has[1]), "the kernel has the weights")
	got := ratio(used)
	t.See("two loops on CPU %s in one second: %s and %s", strconv.Itoa(cpu), seconds(used[0]), seconds(used[1]))
	t.Check(near(got, want), fmt.Sprintf("about %.1f : 1", want), fmt.Sprintf("%.1f : 1", got),
		"they share the CPU in the ratio of their weights")

	if err := boxes[0].Kill(t.Context()); err != nil {
		return err
	}
	idleBefore, err := idle(cpu)
	if err != nil {
		return err
	}
	alone, err := measure(t, boxes[1].Pid(), groups[1], 500*time.Millisecond)
	if err != nil {
		return err
	}
	idleAfter, err := idle(cpu)
	if err != nil {
		return err
	}
	idled := idleAfter - idleBefore
	t.See("the heavier one is gone: in the next %s the lighter one used %s, and CPU %s was idle for %s",
		millis(alone.took), percent(alone.cpu.Usage, alone.took), strconv.Itoa(cpu), percent(idled, alone.took))
	t.Check(!evidence.Alive(boxes[0].Pid()), "gone", boxes[0].State(), "nobody is left to share with in this fight")
	// Not that it used all of it: on a busy machine there are others. But nothing of the CPU is left unused, where a quota
	// would leave it. (The kernel counts idle time in ticks: some may be off.)
	t.Check(share(idled, alone.took) < 15, "less than 15 %", percent(idled, alone.took), "the lighter one takes all that is left")
	return nil
}

// fights is how often the fight is measured, at the most. On a busy machine others come and go on the same CPU, and one
// second may say little; but without weights no second says four to one.
const fights = 8

// fight measures what two loops get of their CPU, until it is in the ratio that is wanted or it was tried often enough.
func fight(t *course.T, groups []*Group, want float64) (used [2]time.Duration, err error) {
	for n := 0; n < fights && !near(ratio(used), want); n++ {
		before, err := usages(groups)
		if err != nil {
			return used, err
		}
		if err := t.Sleep(time.Second); err != nil {
			return used, err
		}
		after, err := usages(groups)
		if err != nil {
			return used, err
		}
		used = [2]time.Duration{after[0] - before[0], after[1] - before[1]}
	}
	return used, nil
}

func ratio(used [2]time.Duration) float64 { return float64(used[0]) / float64(max(used[1], 1)) }

// near is within what one second of two loops with slices of some milliseconds can tell.
func near(got, want float64) bool { return got > want/2 && got < want*2 }

// idle is how long a CPU has had nothing to do since boot: fields 4 and 5 of its line in /proc/stat, in ticks of 1/100
// second. See proc(5).
func idle(cpu int) (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "cpu"+strconv.Itoa(cpu) {
			continue
		}
		idle, err1 := strconv.ParseInt(f[4], 10, 64)
		iowait, err2 := strconv.ParseInt(f[5], 10, 64)
		return time.Duration(idle+iowait) * 10 * time.Millisecond, errors.Join(err1, err2)
	}
	return 0, fmt.Errorf("read /proc/stat: it has no CPU %d", cpu)
}

// usages reads the CPU time of each group.
func usages(groups []*Group) ([]time.Duration, error) {
	var all []time.Duration
	for _, g := range groups {
		s, err := g.Stats()
		if err != nil {
			return nil, err
		}
		all = append(all, s.CPU.Usage)
	}
	return all, nil
}

// lastCPU is one that we may use; the last, since CPU 0 is where much of the kernel's own work is done.
func lastCPU() (int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("sched_getaffinity: %w", err)
	}
	last := 0
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			last = cpu
		}
	}
	return last, nil
}

// cpuset: a process runs only where its group may.
func cpuset(t *course.T) error {
	g, err := NewGroup(t.Context(), t, t.Name(), "cpuset")
	if lacks(t, "cpuset", err) {
		return nil
	}
	if err != nil {
		return err
	}
	box, err := newBox(t)
	if err != nil {
		return err
	}
	before, err := evidence.Status(box.Pid(), "Cpus_allowed_list")
	if err != nil {
		return err
	}
	may, err := cpusOf(g)
	if err != nil {
		return err
	}
	cpu := strconv.Itoa(may[len(may)-1])
	if err := g.Set(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: cpu}}); err != nil {
		return err
	}
	if err := g.Add(t.Context(), box.Pid()); err != nil {
		return err
	}
	if err := box.Send("03-burn"); err != nil {
		return err
	}
	ran := map[string]bool{}
	for range 10 {
		if err := t.Sleep(20 * time.Millisecond); err != nil {
			return err
		}
		o, err := observe(box.Pid())
		if err != nil {
			return err
		}
		ran[o.cpu] = true
	}
	allowed, err := evidence.Status(box.Pid(), "Cpus_allowed_list")
	if err != nil {
		return err
	}
	t.See("both versions say cpuset.cpus and cpuset.mems; v1 must have both filled before a process may join, v2 inherits")
	t.See("Cpus_allowed_list in /proc/%s/status: before %s, now %s", strconv.Itoa(box.Pid()), before, allowed)
	t.See("where it was seen running, in ten looks at /proc/%s/stat: CPU %s", strconv.Itoa(box.Pid()), strings.Join(sortedKeys(ran), ", "))
	if len(may) == 1 {
		t.See("this machine has only one CPU, so it had no choice before either")
	}
	t.Equal(cpu, allowed, "the kernel allows it that CPU alone")
	t.Equal(cpu, strings.Join(sortedKeys(ran), ","), "it runs nowhere else")
	return nil
}

// cpusOf lists the CPUs that a new group could use: those of its parent.
func cpusOf(g *Group) ([]int, error) {
	parent := filepath.Dir(g.Dir("cpuset"))
	for _, file := range []string{"cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"} {
		if list, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
			if cpus := CPUList(string(list)); len(cpus) > 0 {
				slices.Sort(cpus)
				return cpus, nil
			}
		}
	}
	return nil, fmt.Errorf("read the CPUs of %s: none found", parent)
}

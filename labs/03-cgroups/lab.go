package cgroups

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

//go:embed *.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough.
var Lab = course.Lab{
	Number: 3, Slug: "cgroups", Minutes: 30,
	Title: course.Text{En: "Limits for a set of processes", Zh: "给一组进程设定上限"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS,
		course.NeedCgroupCPU, course.NeedCgroupMemory, course.NeedCgroupPids,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "hierarchies", Run: hierarchies},
		{ID: "mkdir", Run: makeFolder},
		{ID: "busy", Run: busy},
		{ID: "limit-cpu", Answer: 1, Run: limitCPU},
		{ID: "weight", Answer: 2, Run: weight},
		{ID: "memory", Answer: 2, Run: memory},
		{ID: "pids", Run: pidsLimit},
		{ID: "cpuset", Run: cpuset},
		{ID: "io", Run: ioLimit},
		{ID: "accounting", Run: accounting},
		{ID: "freeze", Answer: 2, Run: freeze},
		{ID: "kill", Answer: 3, Run: kill},
	},
	Zh:   zh,
	Undo: Undos(),
}

// Undos are the undoers of what [NewGroup] journals, for the description of a lab.
func Undos() map[string]course.Undo {
	return map[string]course.Undo{
		KindGroup: undoer(KindGroup), KindParent: undoer(KindParent), KindLeaf: undoer(KindLeaf),
		KindSubtree: undoer(KindSubtree),
	}
}

func undoer(kind string) course.Undo {
	return func(ctx context.Context, path string) error { return Undo(ctx, Thing{kind, path}) }
}

// NewGroup plans a group and makes it for as long as the step lasts, journalled folder by folder before it exists. The
// lab must have [Undos].
func NewGroup(ctx context.Context, t *course.T, name string, controllers ...string) (*Group, error) {
	s, err := Discover()
	if err != nil {
		return nil, err
	}
	g, err := s.Plan(name, controllers...)
	if err != nil {
		return nil, err
	}
	create := func() error { return g.Create(ctx) }
	for _, thing := range slices.Backward(g.Things()) {
		next := create
		create = func() error { return t.Make(thing.Kind, []string{thing.Path}, next) }
	}
	return g, create()
}

// newBox starts a process to limit. It has a PID namespace, so that whatever it forks ends with it.
func newBox(t *course.T) (*pid.Box, error) {
	return pid.NewBox(t.Untraced(), t, pid.Config{Namespaces: unix.CLONE_NEWPID})
}

// lacks tells the learner that a step cannot be done here, if err says so, and checks that it is so: the group cannot be
// made, or the kernel has not put the file there.
func lacks(t *course.T, controller string, err error) bool {
	var missing *MissingError
	var delegation *DelegationError
	if !errors.As(err, &missing) && !errors.As(err, &delegation) {
		return false
	}
	t.See("left out: no group with the controller %s can be made here (%s)", controller, err.Error())
	probe := Probe(t.Untraced(), t.Name()+"-probe", controller, nil)
	t.Check(probe != nil, "an error", fmt.Sprint(probe), "trying to make one fails")
	return true
}

// spelled shows a value in the group's own file, and how the other version spells the same.
func spelled(t *course.T, g *Group, controller, v1, v2 string) {
	here, there := v1, v2
	if g.Version(controller) == 2 {
		here, there = v2, v1
	}
	t.See("here, in v%s: %s · in v%s: %s", strconv.Itoa(g.Version(controller)), here, strconv.Itoa(3-g.Version(controller)), there)
}

// content is a group's file, folded to one line.
func content(g *Group, controller, file string) string {
	text, err := readFile(g.File(controller, file))
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(text), " ")
}

// task is what /proc says about a process's use of the CPU.
type task struct {
	at     time.Time
	used   time.Duration // utime and stime of /proc/PID/stat, in steps of 10 ms
	waited time.Duration // /proc/PID/schedstat: ready to run, while somebody else did
	cpu    string        // the CPU it ran on last
}

// observe reads /proc/PID. See proc_pid_stat(5); schedstat is in Documentation/scheduler/sched-stats.rst.
func observe(pid int) (task, error) {
	o := task{at: time.Now()}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return o, err
	}
	// The second field, the name, is in parentheses and may hold spaces: count from the last one. What follows is field 3.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 37 {
		return o, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(f))
	}
	for _, ticks := range f[11:13] { // fields 14 and 15
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return o, err
		}
		o.used += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	}
	o.cpu = f[36] // field 39
	sched, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if errors.Is(err, unix.ENOENT) {
		return o, nil // a kernel without CONFIG_SCHED_INFO
	}
	if err != nil {
		return o, err
	}
	if f := strings.Fields(string(sched)); len(f) == 3 {
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return o, err
		}
		o.waited = time.Duration(n)
	}
	return o, nil
}

// second is a measurement: what a process and its group did in about a second. The group's files are read before and after the
// process's, so its count is of a longer time, on a busy machine much longer.
type second struct {
	took, process, waited time.Duration
	around                time.Duration // from before the group's first count to after its last
	cpu                   CPUStats      // of the group, the difference
}

func measure(t *course.T, pid int, g *Group, d time.Duration) (second, error) {
	var m second
	start := time.Now()
	before, err := g.Stats()
	if err != nil {
		return m, err
	}
	from, err := observe(pid)
	if err != nil {
		return m, err
	}
	if err := t.Sleep(d); err != nil {
		return m, err
	}
	to, err := observe(pid)
	if err != nil {
		return m, err
	}
	after, err := g.Stats()
	if err != nil {
		return m, err
	}
	a, b := before.CPU, after.CPU
	return second{
		around: time.Since(start),
		took:   to.at.Sub(from.at), process: to.used - from.used, waited: to.waited - from.waited,
		cpu: CPUStats{Usage: b.Usage - a.Usage, Periods: b.Periods - a.Periods, Throttled: b.Throttled - a.Throttled},
	}, nil
}

// percent is part of whole in words: "20.1 %".
func percent(part, whole time.Duration) string { return fmt.Sprintf("%.1f %%", share(part, whole)) }

func share(part, whole time.Duration) float64 { return 100 * float64(part) / float64(whole) }

// seconds and millis render times as people read them.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
func millis(d time.Duration) string  { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// state is the word behind the letter in /proc/PID/status: "S (sleeping)".
func state(pid int) string {
	s, err := evidence.Status(pid, "State")
	if err != nil {
		return err.Error()
	}
	return s
}

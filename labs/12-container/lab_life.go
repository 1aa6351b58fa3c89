package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
)

// soon is how long the kernel, or a program, may take for what it does by itself: long, for a machine may be emulated and busy.
const soon = 30 * time.Second

// limits: two numbers of the command line, in the files of the container's own group.
func limits(t *course.T) error {
	const period, quota = 100000, 20000
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	if err := noGroup(t); err != nil {
		t.See("left out: an ordinary user may make no control group here (%s)", err.Error())
		probe := cgroups.Probe(t.Untraced(), t.Name()+"-probe", "cpu", nil)
		t.Check(probe != nil, "an error", fmt.Sprint(probe), "trying to make one fails")
		return nil
	}
	spec, err := specFor(t, p, "sh", "-c", "while :; do :; done")
	if err != nil {
		return err
	}
	spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(period)), Quota: new(int64(quota))}}
	c, _, err := run(only(t, "write 100000", "write 20000"), t, configFor(t, p, spec))
	if err != nil {
		return err
	}
	file, want := "cpu.max", "20000 100000"
	if c.Group.Version("cpu") == 1 {
		file, want = "cpu.cfs_quota_us", "20000"
		t.See("%s: %s", c.Group.File("cpu", "cpu.cfs_period_us"), text(c.Group.File("cpu", "cpu.cfs_period_us")))
		t.Equal(str(period), text(c.Group.File("cpu", "cpu.cfs_period_us")), "the container's own group has the period")
	}
	t.See("%s: %s", c.Group.File("cpu", file), text(c.Group.File("cpu", file)))
	t.Equal(want, text(c.Group.File("cpu", file)), "and the quota")
	t.See("/proc/%s/cgroup: %s", str(c.Pid), groupLine(c.Pid, "cpu"))
	t.Check(strings.Contains(groupLine(c.Pid, "cpu"), t.Name()), t.Name(), groupLine(c.Pid, "cpu"), "its program is in that group")

	m, err := fifth(t, c)
	if err != nil {
		return err
	}
	share := fmt.Sprintf("%.1f %%", m.share())
	t.See("its loop used %s of a CPU in %s; throttled in %s periods", share, fmt.Sprintf("%.2f s", m.took.Seconds()), strconv.FormatUint(m.throttled, 10))
	t.Check(m.share() <= 25, "<= 25 %", share, "it gets a fifth of a CPU, a quarter at most")
	if m.throttled == 0 && m.share() < 20 {
		t.See("the machine is busy: others left it less than its quota, which was never used up")
	} else {
		t.Check(m.throttled > 0, "> 0", m.throttled, "for the kernel takes it off the CPU when its quota is used up")
	}
	// Those periods tell from below, too, on a busy machine: half of it, since one that stalls counts periods in which nobody ran.
	least := time.Duration(m.throttled) * quota * time.Microsecond / 2
	t.Check(m.used >= least, ">= "+span(least), span(m.used), "and it got its quota in those periods")
	return visit(t, c)
}

// second is what a group did in about a second.
type second struct {
	took, used time.Duration
	throttled  uint64
}

func (m second) share() float64 { return 100 * float64(m.used) / float64(m.took) }

// fifth measures a container that may use a fifth of a CPU. Where the machine itself is halted at times, as an emulated one
// is, the kernel counts too much, or others leave it less than its quota, and it is tried again; but without a limit no second says a
// fifth, and in none is it throttled.
func fifth(t *course.T, c *Container) (m second, err error) {
	for try := 0; try < 5 && (try == 0 || m.share() > 25 || m.throttled == 0); try++ {
		begin := time.Now()
		before, err := c.Group.Stats()
		if err != nil {
			return m, err
		}
		if err := t.Sleep(time.Second); err != nil {
			return m, err
		}
		after, err := c.Group.Stats()
		if err != nil {
			return m, err
		}
		m = second{time.Since(begin), after.CPU.Usage - before.CPU.Usage, after.CPU.Throttled - before.CPU.Throttled}
	}
	return m, nil
}

// single: PID 1 ends, and all end; nobody buries the dead unless PID 1 does.
func single(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sh", "-c", "sleep 1000 & sleep 1000 & echo started; wait")
	if err != nil {
		return err
	}
	c, out, err := run(t.Untraced(), t, configFor(t, p, spec))
	if err != nil {
		return err
	}
	out.line()
	namespace, err := evidence.Namespace(c.Pid, "pid")
	if err != nil {
		return err
	}
	t.Await(soon, func() bool { return strings.Count(fmt.Sprint(relatives(c.Pid)), "sleep") == 2 }) // not the shell's copies
	there := members(namespace)
	t.See("in the container: %s", fmt.Sprint(relatives(c.Pid)))
	if err := c.Kill(t.Context(), unix.SIGKILL); err != nil {
		return err
	}
	gone := t.Await(soon, func() bool { return members(namespace) == 0 })
	t.See("one signal to number 1 alone; processes in its PID namespace: %s before, %s now", str(there), str(members(namespace)))
	t.Equal(3, there, "there were three")
	t.Check(gone, 0, members(namespace), "number 1 is gone, and with it all others")
	if err := c.Delete(t.Untraced(), false); err != nil {
		return err
	}

	for _, supervised := range []bool{false, true} {
		if err := orphaned(t, supervised); err != nil {
			return err
		}
	}
	return nil
}

// orphaned runs a container in which a process has lost its parent, and then ends.
func orphaned(t *course.T, supervised bool) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sh", "-c", "(sleep 1001 &); exec sleep 1000")
	if err != nil {
		return err
	}
	cfg := configFor(t, p, spec)
	cfg.Init = supervised
	c, _, err := run(t.Untraced(), t, cfg)
	if err != nil {
		return err
	}
	orphan, err := awaitOrphan(t, c)
	if err != nil {
		return err
	}
	before := fmt.Sprint(relatives(c.Pid))
	if err := orphan.Kill(t.Untraced(), unix.SIGKILL); err != nil {
		return err
	}
	zombies := func() (n int) {
		for _, r := range relatives(c.Pid) {
			if r.zombie {
				n++
			}
		}
		return n
	}
	if !supervised {
		t.Await(soon, func() bool { return zombies() > 0 })
		t.See("number 1 is sleep, which waits for nobody: %s; the orphan ends: %s", before, fmt.Sprint(relatives(c.Pid)))
		t.Equal(1, zombies(), "it stays, as a zombie")
		return errors.Join(c.process.Kill(t.Untraced()), c.Delete(t.Untraced(), true))
	}
	t.Await(soon, func() bool { return len(relatives(c.Pid)) == 2 && zombies() == 0 })
	t.See("with --init, number 1 is nslab: %s; the orphan ends: %s", before, fmt.Sprint(relatives(c.Pid)))
	t.Check(len(relatives(c.Pid)) == 2 && zombies() == 0, "2 processes, no zombie", fmt.Sprint(relatives(c.Pid)), "nothing of it is left")
	return visit(t, c)
}

// awaitOrphan waits until nobody but sleepers is left besides number 1, and finds the one whose parent has ended.
func awaitOrphan(t *course.T, c *Container) (*State, error) {
	namespace, err := evidence.Namespace(c.Pid, "pid")
	if err != nil {
		return nil, err
	}
	orphan := &State{BootID: bootID()}
	found := t.Await(soon, func() bool {
		if strings.Contains(fmt.Sprint(relatives(c.Pid)), "sh") {
			return false
		}
		pids, _ := evidence.Members("pid", namespace)
		for _, pid := range pids {
			if text(fmt.Sprintf("/proc/%d/cmdline", pid)) == "sleep\x001001\x00" {
				orphan.Pid = pid
				orphan.StartTime, err = startTime(pid)
				return err == nil
			}
		}
		return false
	})
	if !found {
		return nil, errors.Join(fmt.Errorf("no orphan among %v", relatives(c.Pid)), err)
	}
	return orphan, nil
}

// alone: the runtime is killed, and the container lives.
func alone(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sh", "-c", "trap 'echo heard > /heard; exit 7' TERM; while :; do echo $((n = n + 1)) > /beat; sleep 0.02; done")
	if err != nil {
		return err
	}
	config, err := json.Marshal(configFor(t, p, spec))
	if err != nil {
		return err
	}
	runtime, err := pid.NewBox(t.Untraced(), t, pid.Config{})
	if err != nil {
		return err
	}
	t.Enter(nil) // it will be dead at the pause
	err = t.Make(kindContainer, []string{p.state}, func() error {
		_, err := runtime.Call(only(t, "clone"), "12-run", string(config))
		return err
	})
	if err != nil {
		return err
	}
	s, err := Load(p.state)
	if err != nil {
		return err
	}
	made := s.StartTime
	t.See("a process of its own is the runtime, %s; the container is %s, child of %s", str(runtime.Pid()), str(s.Pid), status(s.Pid, "PPid"))
	t.Equal(runtime.Pid(), status(s.Pid, "PPid"), "the container's number 1 is the runtime's child")
	if err := runtime.Kill(t.Context()); err != nil {
		return err
	}
	t.Await(soon, func() bool { return status(s.Pid, "PPid") != str(runtime.Pid()) })
	beats := func() int { n, _ := strconv.Atoi(text(filepath.Join(p.upper, "beat"))); return n }
	was := beats()
	lives := t.Await(soon, func() bool { return beats() > was+1 || !evidence.Alive(s.Pid) }) && evidence.Alive(s.Pid)
	parent, _ := strconv.Atoi(status(s.Pid, "PPid"))
	comm, _ := evidence.Command(parent)
	_, born, _ := readStat(s.Pid)
	t.See("the runtime is gone; process %s: %s, child of %s %s", str(s.Pid), status(s.Pid, "State"), str(parent), comm)
	t.See("its program counts in a file: %s, and a moment later %s", str(was), str(beats()))
	t.Check(!evidence.Exists(runtime.Pid()), "gone", status(runtime.Pid(), "State"), "no runtime is left")
	t.Check(lives && born == made, "alive", status(s.Pid, "State"), "the container lives on, the same process as before")
	t.Check(parent != runtime.Pid() && parent > 0, "another", parent, "it was given to another parent, like every orphan")
	return foundAgain(t, p)
}

// foundAgain: what is on disk is enough to signal and to remove a container.
func foundAgain(t *course.T, p place) error {
	s, err := Load(p.state)
	if err != nil {
		return err
	}
	t.See("%s says: id %s, process %s, started at tick %s", stateFile, s.ID, str(s.Pid), strconv.FormatUint(s.StartTime, 10))
	t.Equal("running", s.Status(), "found by what is on disk, and asked of the kernel: it runs")
	// The trap is set by the program itself, which may have come no further than execve.
	heard := filepath.Join(p.upper, "heard")
	ctx := t.Context()
	t.Await(soon, func() bool {
		if s.Alive() && !caught(s.Pid, unix.SIGTERM) {
			return false
		}
		err = s.Kill(ctx, unix.SIGTERM)
		return true
	})
	if err != nil && !errors.Is(err, ErrState) {
		return err
	}
	ended := t.Await(soon, func() bool { return !s.Alive() })
	t.See("a signal through a pidfd; what the program has written: %s; status: %s", text(heard), s.Status())
	t.Equal("heard", text(heard), "its program has heard the signal")
	t.Check(ended, "stopped", s.Status(), "and ended")
	removed := 0
	if err := s.Delete(trace.With(t.Untraced(), func(r trace.Record) { removed++ }), false); err != nil {
		return err
	}
	_, err = Load(p.state)
	left, errGroups := course.Cgroups(t.ID())
	if errGroups != nil {
		return errGroups
	}
	t.See("deleted: folders of control groups removed: %s, left: %s; its state: %s", str(removed), str(len(left)), evidence.Answer(unwrapped(err)))
	t.Equal("– 0", names(p.state)+" "+str(len(left)), "nothing of it is left")
	return nil
}

// caught tells whether a process has a handler for a signal: a bit of SigCgt in its status. See proc_pid_status(5).
func caught(pid int, sig unix.Signal) bool {
	mask, err := strconv.ParseUint(status(pid, "SigCgt"), 16, 64)
	return err == nil && mask&(1<<(uint(sig)-1)) != 0
}

// unwrapped is the errno below an error, if there is one.
func unwrapped(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// undone: one thing fails, and all is as before.
func undone(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	before, err := look(t, p)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		check string
		group bool // it needs a control group
		spoil func(*specs.Spec)
		start bool // create succeeds
	}{
		{"a volume whose source is not there: nothing is left", false, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: filepath.Join(p.disk, "none"), Destination: "/data", Options: []string{"bind"}})
		}, false},
		{"a limit that the kernel refuses: nothing is left", true, func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(100000)), Quota: new(int64(1))}}
		}, false},
		{"a program that is not in the image: nothing is left", false, func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, true},
	} {
		spec, err := specFor(t, p, "true")
		if err != nil {
			return err
		}
		if c.group && spec.Linux.CgroupsPath == "" {
			t.See("left out: an ordinary user may make no control group here (%s)", noGroup(t).Error())
			continue
		}
		c.spoil(spec)
		made, removed := 0, 0
		refused := ""
		ctx := trace.With(t.Untraced(), func(r trace.Record) {
			switch {
			case r.Err != "" && refused == "" && !expected(r):
				refused = r.Text
				trace.Replay(t.Context(), r)
			case strings.HasPrefix(r.Text, "mkdir(\"/sys/fs/cgroup"):
				made++
			case strings.HasPrefix(r.Text, "rmdir("):
				removed++
			case r.Err == "" && (strings.HasPrefix(r.Text, "clone(") || strings.HasPrefix(r.Text, "pidfd_send_signal")):
				trace.Replay(t.Context(), r)
			}
		})
		failed := attempt(ctx, t, configFor(t, p, spec), c.start)
		after, err := look(t, p)
		if err != nil {
			return err
		}
		t.See("the answer: %s", fmt.Sprint(failed))
		t.Diagnose(failed)
		t.See("control groups made: %s, removed: %s; of ours now: processes %s, control groups %s, state: %s",
			str(made), str(removed), after.processes, after.groups, after.state)
		t.Check(failed != nil && after == before, fmt.Sprint(before), fmt.Sprint(after), c.check)
	}
	return nil
}

// expected are refusals that are part of the way: what is there is not made, what is not there is; [Seal] has two ways to
// the same file, and rootfs.FillDev two ways to a device; a process that ends by itself need not be killed.
func expected(r trace.Record) bool {
	for _, way := range []string{"mkdirat(", "mknodat(", "pidfd_send_signal(", `open_tree(AT_FDCWD, "/proc/self/exe"`} {
		if strings.HasPrefix(r.Text, way) {
			return true
		}
	}
	return strings.Contains(r.Text, "RESOLVE_IN_ROOT")
}

// attempt makes a container that cannot be made, and returns why.
func attempt(ctx context.Context, t *course.T, cfg Config, start bool) error {
	return t.Make(kindContainer, []string{cfg.Dir}, func() error {
		c, err := Create(ctx, cfg)
		if err == nil && start {
			err = c.Start(ctx)
		}
		return err
	})
}

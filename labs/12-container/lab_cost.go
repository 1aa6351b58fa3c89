package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nslab/nslab/course"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// What a container costs: start, memory, system calls, beside a bare process, and beside a virtual machine where there is
// one to be had. All is measured here and now; what is checked holds on any machine, however busy.

// starts is how often a start is measured. The median counts: the first is slower, and others disturb.
const starts = 9

func cost(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	self := filepath.Join(p.disk, "nslab")
	if err := copyFile(self, "/proc/self/exe"); err != nil {
		return err
	}
	bare, contained, err := startUp(t, p)
	if err != nil {
		return err
	}
	t.See("start and end of a program that does nothing: bare %s; in a container, with all that is made and removed, %s", span(bare), span(contained))
	bareMemory, containedMemory, err := memory(t, p)
	if err != nil {
		return err
	}
	t.See("memory of a program that sleeps: bare %s; in a container %s; and nobody beside it", kib(bareMemory), kib(containedMemory))
	calls, err := systemCalls(t, p, self)
	if err != nil {
		return err
	}
	t.See("a system call: bare %s; in a container without a filter %s; with the default filter %s", nanos(calls[0]), nanos(calls[1]), nanos(calls[2]))
	t.Check(contained < 1000*bare, "less than 1000 times", fmt.Sprintf("%d times", contained/bare), "a start is a matter of milliseconds, not of seconds")
	t.Check(containedMemory < bareMemory+4096, "< "+kib(bareMemory+4096), kib(containedMemory), "the program needs the memory that it needs anyhow")
	t.Check(calls[1] <= 5*calls[0], "<= "+nanos(5*calls[0]), nanos(calls[1]), "namespaces and control groups do not stand in the way of a system call")

	m, err := machine(t, self)
	var absent *exec.Error
	switch {
	case errors.As(err, &absent):
		t.See("a virtual machine is left out: there is no %s here", qemu)
		return nil
	case errors.Is(err, errNoKernel):
		t.See("a virtual machine is left out: no kernel that can be read lies in /boot (make test-vm fetches one)")
		return nil
	case err != nil:
		t.See("a virtual machine is left out: %s", err.Error())
		return nil
	}
	t.See("a virtual machine (qemu, %s), from its start to its first program: %s; qemu's memory: %s; a system call in there: %s",
		m.accelerator, span(m.start), kib(m.memory), nanos(m.call))
	t.Check(m.start > 3*contained, "> "+span(3*contained), span(m.start), "it takes many times as long to start: it boots a kernel")
	t.Check(m.memory > 10*containedMemory, "> "+kib(10*containedMemory), kib(m.memory), "and its memory holds that kernel, and all that belongs to it")
	return nil
}

// startUp measures a bare process, and a container from nothing to nothing.
func startUp(t *course.T, p place) (bare, contained time.Duration, err error) {
	program, err := exec.LookPath("true")
	if err != nil {
		return 0, 0, err
	}
	bare, err = median(func() error {
		return exec.CommandContext(t.Untraced(), program).Run()
	})
	if err != nil {
		return 0, 0, err
	}
	spec, err := specFor(t, p, "true")
	if err != nil {
		return 0, 0, err
	}
	cfg := configFor(t, p, spec)
	err = t.Make(kindContainer, []string{cfg.Dir}, func() error {
		contained, err = median(func() error { return once(t.Untraced(), cfg) })
		return err
	})
	return bare, contained, err
}

// once runs a container to its end, and removes it.
func once(ctx context.Context, cfg Config) error {
	c, err := Create(ctx, cfg)
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	if status, err := c.Wait(ctx); status != 0 || err != nil {
		return errors.Join(fmt.Errorf("the program ended with status %d", status), err, c.Delete(ctx, true))
	}
	return c.Delete(ctx, false)
}

func median(f func() error) (time.Duration, error) {
	var all []time.Duration
	for range starts {
		begin := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// memory measures a program that sleeps, in KiB.
func memory(t *course.T, p place) (bare, contained int, err error) {
	program, err := exec.LookPath("sleep")
	if err != nil {
		return 0, 0, err
	}
	cmd := exec.Command(program, "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	alone, err := pid.Start(t.Untraced(), pid.Config{}, cmd)
	if err != nil {
		return 0, 0, err
	}
	t.Cleanup(alone.Kill)
	spec, err := specFor(t, p, "sleep", "1000")
	if err != nil {
		return 0, 0, err
	}
	c, _, err := run(t.Untraced(), t, configFor(t, p, spec))
	if err != nil {
		return 0, 0, err
	}
	for _, n := range []int{alone.Pid, c.Pid} {
		t.Await(soon, func() bool { return strings.HasPrefix(status(n, "State"), "S") })
	}
	if bare, err = anonymous(alone.Pid); err != nil {
		return 0, 0, err
	}
	if contained, err = anonymous(c.Pid); err != nil {
		return 0, 0, err
	}
	return bare, contained, errors.Join(c.process.Kill(t.Untraced()), c.Delete(t.Untraced(), true))
}

// anonymous is the memory of a process that comes from no file, in KiB. The others, of programs and libraries, are there
// once for all who use the same file. See proc_pid_smaps(5).
func anonymous(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Anonymous:" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("read /proc/%d/smaps_rollup: it has no Anonymous", pid)
}

// systemCalls measures what one costs: bare, in a container without a seccomp filter, in one with it.
func systemCalls(t *course.T, p place, self string) (ns [3]int64, err error) {
	cmd := exec.CommandContext(t.Untraced(), self)
	cmd.Args = []string{workEntry}
	said, err := cmd.Output()
	if err != nil {
		return ns, err
	}
	if ns[0], err = costSaid(string(said)); err != nil {
		return ns, err
	}
	for i, filtered := range []bool{false, true} {
		spec, err := specFor(t, p, workEntry)
		if err != nil {
			return ns, err
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: self, Destination: workEntry, Options: []string{"bind", "ro"}})
		if !filtered {
			spec.Linux.Seccomp = nil
		}
		c, out, err := run(t.Untraced(), t, configFor(t, p, spec))
		if err != nil {
			return ns, err
		}
		if ns[i+1], err = costSaid(out.line() + "\n" + out.line()); err != nil {
			return ns, err
		}
		_, waited := c.Wait(t.Untraced())
		if err := errors.Join(waited, c.Delete(t.Untraced(), true)); err != nil {
			return ns, err
		}
	}
	return ns, nil
}

// costSaid finds what [work] has measured in what it has said.
func costSaid(said string) (int64, error) {
	lines := bufio.NewScanner(strings.NewReader(said))
	for lines.Scan() {
		if _, number, ok := strings.Cut(lines.Text(), saysCost); ok {
			return strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		}
	}
	return 0, fmt.Errorf("count system calls: the program says %q", said)
}

func kib(n int) string {
	if n >= 10240 {
		return fmt.Sprintf("%d MiB", n/1024)
	}
	return fmt.Sprintf("%d KiB", n)
}

func nanos(n int64) string { return fmt.Sprintf("%d ns", n) }

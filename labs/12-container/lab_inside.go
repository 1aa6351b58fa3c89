package container

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	setns "github.com/nslab/nslab/labs/06-setns"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

// execConfined: a second program has what the first one has, and no more.
func execConfined(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sleep", "1000")
	if err != nil {
		return err
	}
	c, _, err := run(t.Untraced(), t, configFor(t, p, spec))
	if err != nil {
		return err
	}
	half, err := enterOnly(t, c)
	if err != nil {
		return err
	}
	filter, err := security.Compile(spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	process := *spec.Process
	process.Args, process.Terminal = []string{"sh", "-c", "echo $$; exec sleep 1000"}, true
	second, tty, err := c.Exec(only(t, "setns", "prctl(PR_SET_DUMPABLE", "ioctl(0, TIOCSCTTY", "capset", "prctl(PR_SET_NO_NEW_PRIVS", "seccomp"), ExecConfig{Process: &process, Filter: filter, Pdeathsig: syscall.SIGKILL})
	if err != nil {
		return err
	}
	t.Cleanup(func(ctx context.Context) error { return errors.Join(second.Kill(ctx), second.Close(), tty.Close()) })
	said := (&listener{tty, bufio.NewReader(tty)}).line()

	rights := func(pid int) string {
		return fmt.Sprintf("CapEff %s, Seccomp %s, NoNewPrivs %s", status(pid, "CapEff"), status(pid, "Seccomp"), status(pid, "NoNewPrivs"))
	}
	t.See("number 1, process %s: %s", str(c.Pid), rights(c.Pid))
	t.See("who only entered the namespaces, process %s: %s", str(half), rights(half))
	t.See("exec, process %s: %s", str(second.Pid), rights(second.Pid))
	t.See("namespaces that they do not share: %s; the container's /proc lists: %s", differing(c.Pid, second.Pid), fmt.Sprint(relatives(c.Pid)))
	t.Equal("–", differing(c.Pid, second.Pid), "exec is in every namespace of the container")
	listed := slices.ContainsFunc(relatives(c.Pid), func(r relative) bool { return str(r.number) == said })
	t.Check(listed && said == lastOf(status(second.Pid, "NSpid")), lastOf(status(second.Pid, "NSpid")), said, "and has a number there, which it knows")
	t.Equal(rights(c.Pid), rights(second.Pid), "it has the rights of number 1, and its filter")
	t.Check(rights(half) != rights(c.Pid), "others than "+rights(c.Pid), rights(half), "namespaces alone bring no such limits: who has only entered has more rights")
	if c.Group != nil {
		t.Equal(text(fmt.Sprintf("/proc/%d/cgroup", c.Pid)), text(fmt.Sprintf("/proc/%d/cgroup", second.Pid)), "and it counts against the same control groups")
	}
	return ownTerminal(t, c, second.Pid)
}

// enterOnly starts a program in the container's namespaces, and does no more than that.
func enterOnly(t *course.T, c *Container) (int, error) {
	target, err := setns.Open(t.Untraced(), c.Pid)
	if err != nil {
		return 0, err
	}
	defer target.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := setns.Start(t.Untraced(), setns.Config{
		Target: target, Namespaces: setns.All, Root: true, Pdeathsig: syscall.SIGKILL,
		Path: "sleep", Args: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Streams: []*os.File{null, null, null},
	})
	if err != nil {
		return 0, err
	}
	t.Cleanup(func(ctx context.Context) error { return errors.Join(p.Kill(ctx), p.Close()) })
	return p.Pid, nil
}

// ownTerminal: the terminal of exec is one of the container's devpts.
func ownTerminal(t *course.T, c *Container, pid int) error {
	var tty, pts, ours unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/0", pid), &tty); err != nil {
		return err
	}
	if err := unix.Stat(in(c.Pid, "/dev/pts"), &pts); err != nil {
		return err
	}
	outside := "–"
	if unix.Stat("/dev/pts", &ours) == nil {
		outside = fmt.Sprintf("%d:%d", unix.Major(ours.Dev), unix.Minor(ours.Dev))
	}
	device := func(n uint64) string { return fmt.Sprintf("%d:%d", unix.Major(n), unix.Minor(n)) }
	session, err := unix.Getsid(pid)
	if err != nil {
		return err
	}
	t.See("its terminal lies in the file system %s; the container's /dev/pts is %s, ours %s; its session: %s",
		device(tty.Dev), device(pts.Dev), outside, str(session))
	t.Equal(device(pts.Dev), device(tty.Dev), "its terminal is one of the container's own /dev/pts")
	t.Check(device(tty.Dev) != outside, "another than "+outside, device(tty.Dev), "and none of ours")
	t.Equal(pid, session, "it leads a session of its own: it cannot type into the caller's shell")
	return visit(t, c)
}

// sealedProgram: what runs inside as nslab cannot be written from inside. Here the runtime is a copy of nslab, executed once
// as it is and once as the stage does it: our own file would be busy for as long as we run.
func sealedProgram(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	file := filepath.Join(p.disk, "nslab")
	if err := copyFile(file, "/proc/self/exe"); err != nil {
		return err
	}
	bare, err := runtimeFrom(t, file, pid.Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	while, after, err := writeBefore(t, bare.Pid(), func() error { return bare.Kill(t.Untraced()) })
	if err != nil {
		return err
	}
	t.See("executed by its name, as number 1 of a container; written through /proc/PID/exe: %s while it runs, %s when it has ended", while, after)
	t.Equal("ETXTBSY ok", while+" "+after, "a running program is protected; one that has ended is not")

	// With --init, nslab itself stays as number 1, and root inside can reach its file.
	spec, err := specFor(t, p, "sh", "-c", `(exec 3< /proc/1/exe; echo x >> /proc/self/fd/3) 2> /said; exec sleep 1000`)
	if err != nil {
		return err
	}
	cfg := configFor(t, p, spec)
	cfg.Init = true
	s, err := made(t, file, cfg)
	if err != nil {
		return err
	}
	said := filepath.Join(p.upper, "said")
	t.Await(soon, func() bool { return text(said) != "" && text(said) != "ENOENT" })
	t.See("executed by the stage: number 1 is file %s; the runtime's: %s", fileID(fmt.Sprintf("/proc/%d/exe", s.Pid)), fileID(file))
	t.See("root inside, who writes to /proc/1/exe, is told: %s", text(said))
	t.Check(text(said) != "" && text(said) != "ENOENT", "an error", text(said), "nobody inside can write to it while it runs")
	while, after, err = writeBefore(t, s.Pid, func() error { return s.Delete(t.Untraced(), true) })
	if err != nil {
		return err
	}
	t.See("written through the same descriptor: %s while it runs, %s when it has ended", while, after)
	t.Check(after == "EROFS" || after == "EPERM", "EROFS or EPERM", after, "nor when nobody executes it any more: the way that leads to it is read-only")
	byName, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		err = byName.Close()
	}
	t.See("on the host, by its name: %s", evidence.Answer(err))
	t.Equal("ok", evidence.Answer(err), "the file itself is as it was: an update of nslab can write it")
	return nil
}

// runtimeFrom starts another nslab, from a file.
func runtimeFrom(t *course.T, file string, cfg pid.Config) (*pid.Box, error) {
	cmd := pid.Command(cfg, actor.Entry)
	cmd.Path = file
	a, err := actor.Prepare(cmd)
	if err != nil {
		return nil, err
	}
	p, err := pid.Start(t.Untraced(), cfg, cmd)
	if err != nil {
		return nil, err
	}
	t.Cleanup(p.Kill)
	if err := a.Started(); err != nil {
		return nil, err
	}
	_, err = a.Call(t.Untraced(), "hello")
	return &pid.Box{Actor: a, Process: p}, err
}

// made has a runtime from that file make a container, and then end.
func made(t *course.T, file string, cfg Config) (*State, error) {
	runtime, err := runtimeFrom(t, file, pid.Config{})
	if err != nil {
		return nil, err
	}
	order, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	seal := trace.With(t.Untraced(), func(r trace.Record) {
		if strings.HasSuffix(strings.Split(r.At, ":")[0], "/seal.go") {
			trace.Replay(t.Context(), r)
		}
	})
	err = t.Make(kindContainer, []string{cfg.Dir}, func() error {
		_, err := runtime.Call(seal, "12-run", string(order))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := runtime.Kill(t.Untraced()); err != nil {
		return nil, err
	}
	return Load(cfg.Dir)
}

// writeBefore tries to write to the file that a process executes: while it does, and after end has ended it.
func writeBefore(t *course.T, pid int, end func() error) (while, after string, err error) {
	held, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", "", err
	}
	defer held.Close()
	while = writeTo(held)
	if err := end(); err != nil {
		return "", "", err
	}
	// A process is told to be gone a moment before it has let go of its program.
	t.Await(soon, func() bool { after = writeTo(held); return after != "ETXTBSY" })
	return while, after, nil
}

// writeTo tries to write to a file that is open for reading only, and names the kernel's answer. It writes the first byte
// that every program has: should it succeed, nothing is broken.
func writeTo(f *os.File) string {
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return evidence.Answer(err)
	}
	_, err = w.WriteAt([]byte{0x7f}, 0)
	return evidence.Answer(errors.Join(err, w.Close()))
}

func copyFile(to, from string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

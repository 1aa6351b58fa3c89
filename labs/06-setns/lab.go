package setns

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
)

//go:embed setns.go target.go order.go plan.go call.go start.go errors.go
//go:embed lab.go lab_enter.go lab_places.go lab_kept.go actors.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_enter.go (what entering is), lab_places.go (root, working folder, control
// group) and lab_kept.go (what keeps a namespace).
var Lab = course.Lab{
	Number: 6, Slug: "setns", Minutes: 25,
	Title: course.Text{En: "Entering a container that runs already", Zh: "走进一个已经在运行的容器"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedUTSNS, course.NeedIPCNS,
		course.NeedNetNS, course.NeedUserNS,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "files", Run: handles},
		{ID: "net", Answer: 2, Run: onlyNetwork},
		{ID: "all", Run: everything},
		{ID: "threads", Answer: 3, Run: oneThread},
		{ID: "children", Answer: 1, Run: onlyChildren},
		{ID: "wrong-ps", Answer: 2, Run: wrongPs},
		{ID: "root", Run: rootToo},
		{ID: "cwd", Run: workingFolder},
		{ID: "exec", Run: likeExec},
		{ID: "kept", Answer: 3, Run: kept},
		{ID: "refused", Run: refused},
	},
	Zh:   zh,
	Undo: cgroups.Undos(),
}

// container is what Docker gives a container at least: five namespaces of its own.
const container = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

// newContainer starts the process to be visited, with a host name and a /proc of its own.
func newContainer(ctx context.Context, t *course.T) (*pid.Box, *Target, error) {
	box, err := pid.NewBox(ctx, t, pid.Config{Namespaces: container})
	if err != nil {
		return nil, nil, err
	}
	for _, call := range [][]string{{"01-mount-proc"}, {"01-sethostname", "box"}} {
		if _, err := box.Call(t.Untraced(), call[0], call[1:]...); err != nil {
			return nil, nil, err
		}
	}
	target, err := hold(ctx, t, box.Pid())
	return box, target, err
}

// hold opens a process for the time of the step.
func hold(ctx context.Context, t *course.T, pid int) (*Target, error) {
	target, err := Open(ctx, pid)
	if err == nil {
		t.Cleanup(func(context.Context) error { return target.Close() })
	}
	return target, err
}

// essential is the step's context without the calls that every exec makes and that are not the point of the step.
func essential(t *course.T) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		for _, plumbing := range []string{"dup3", "close_range", "rt_sigprocmask", "prctl", "pidfd_send_signal", "setgroups"} {
			if strings.HasPrefix(r.Text, plumbing) {
				return
			}
		}
		trace.Replay(shown, r)
	})
}

// enter starts a program as cfg says, and ends it with the step. The program prints a line and then sleeps: so it can be
// looked at from outside, and asked one thing from inside. script is run by a shell.
func enter(ctx context.Context, t *course.T, cfg Config, script string) (_ *Process, said string, err error) {
	if cfg.Path, err = exec.LookPath("sh"); err != nil {
		return nil, "", err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	defer w.Close()
	cfg.Args = []string{"sh", "-c", script + "; exec sleep 1000"}
	cfg.Env = os.Environ()
	cfg.Streams = []*os.File{null, w, os.Stderr}
	cfg.Pdeathsig = syscall.SIGKILL
	p, err := Start(ctx, cfg)
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func(ctx context.Context) error { return errors.Join(p.Kill(ctx), p.Close()) })
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	return p, strings.TrimSpace(line), nil
}

// inode is the number of a namespace as the link in /proc/PID/ns shows it: "net:[4026532281]".
func inode(pid int, kind string) string {
	n, err := evidence.Namespace(pid, kind)
	if err != nil {
		return "–"
	}
	return fmt.Sprintf("%s:[%d]", kind, n)
}

// shared lists the kinds of namespaces that two processes have in common, as the kernel's files say.
func shared(a, b int) (same, different []string) {
	for _, k := range Kinds() {
		x, y := inode(a, k.Name), inode(b, k.Name)
		switch {
		case x == "–" && y == "–": // a kernel without this kind
		case x == y:
			same = append(same, k.Name)
		default:
			different = append(different, k.Name)
		}
	}
	return same, different
}

func words(list []string) string {
	if len(list) == 0 {
		return "–"
	}
	return strings.Join(list, " ")
}

func str(n int) string { return strconv.Itoa(n) }

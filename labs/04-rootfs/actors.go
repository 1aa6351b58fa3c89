package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do. Each function calls the stage, or starts a program of the new root.
func init() {
	onPath("04-chroot", Chroot)
	onPath("04-pivot", Pivot)
	onPath("04-mount-point", MountPoint)
	onPath("04-shared", mount.Shared)
	onPath("04-private", mount.Private)
	onPath("04-walk-out", func(ctx context.Context, _ string) error { return walkOut(ctx) })
	onTree("04-proc", func(ctx context.Context, t *Tree, _ string) error { return Proc(ctx, t) })
	onTree("04-etc", func(ctx context.Context, t *Tree, hostname string) error {
		return WriteEtc(only(ctx, "openat2(", "write 4 bytes to .nslab-hostname"), t, Etc{Hostname: hostname})
	})
	onTree("04-furnish", furnish)
	actor.Register("04-pivot-root", func(ctx context.Context, args []string) (string, error) {
		return "", PivotRoot(ctx, args[0], args[1])
	})
	actor.Register("04-swap", func(ctx context.Context, args []string) (string, error) {
		old, err := swap(ctx, args[0])
		return strconv.Itoa(old), err
	})
	actor.Register("04-drop-old", func(ctx context.Context, args []string) (string, error) {
		old, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		return "", errors.Join(dropOld(ctx, old), unix.Close(old))
	})
	actor.Register("04-enter", func(ctx context.Context, args []string) (string, error) {
		way, err := Enter(ctx, args[0])
		return way.Call, err
	})
	actor.Register("04-run", run)
	actor.Register("04-start", start)
}

func onPath(name string, f func(ctx context.Context, path string) error) {
	actor.Register(name, func(ctx context.Context, args []string) (string, error) { return "", f(ctx, args[0]) })
}

func onTree(name string, f func(ctx context.Context, t *Tree, arg string) error) {
	actor.Register(name, func(ctx context.Context, args []string) (_ string, err error) {
		t, err := OpenTree(trace.Off(ctx), args[0])
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		return "", f(ctx, t, args[1])
	})
}

// only passes on the records of calls that begin with one of these words, and of those not more than the first dozens:
// all of them would fill pages, and a busybox has hundreds of links.
func only(ctx context.Context, words ...string) context.Context {
	left := 24
	return trace.With(ctx, func(r trace.Record) {
		if left > 0 && slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(r.Text, w) }) {
			trace.Replay(ctx, r)
			left--
		}
	})
}

// furnish gives a container what the kernel and the runtime add to an image.
func furnish(ctx context.Context, t *Tree, hostname string) error {
	ctx = only(ctx, "mount(", "fsopen(", "mknodat(", "open(")
	if err := Proc(ctx, t); err != nil {
		return err
	}
	if err := Sys(ctx, t); err != nil {
		return err
	}
	if _, err := Dev(ctx, t, Devices()); err != nil {
		return err
	}
	return WriteEtc(ctx, t, Etc{Hostname: hostname})
}

// maxOutput bounds what a program of an image may say.
const maxOutput = 64 << 10

// run starts a program and returns what it wrote, with its status where that is not 0.
func run(ctx context.Context, args []string) (string, error) {
	cmd := program(args)
	cmd.Stdin = strings.NewReader("") // os/exec would open /dev/null, which a new root need not have
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, maxOutput}, &limited{&out, maxOutput}
	err := trace.Call(ctx, 0,
		func() string { return "fork, execve(" + strings.Join(quoted(args), ", ") + ")" },
		func() error { return errnoOf(cmd.Start()) })
	if err != nil {
		return "", err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Sprintf("%s (%s)", strings.TrimSpace(out.String()), exit), nil
	}
	return strings.TrimSpace(out.String()), err
}

// start starts a program that waits for input which never comes.
func start(ctx context.Context, args []string) (string, error) {
	cmd := program(args)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if _, err := cmd.StdinPipe(); err != nil {
		return "", err
	}
	return "", trace.Call(ctx, 0,
		func() string { return "fork, execve(" + strings.Join(quoted(args), ", ") + ")" },
		func() error { return errnoOf(cmd.Start()) })
}

// program is a child that dies with the box, and knows nothing of the host's environment.
func program(args []string) *exec.Cmd {
	return &exec.Cmd{
		Path: args[0], Args: args, Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C"},
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
}

func quoted(args []string) []string {
	var list []string
	for _, a := range args {
		list = append(list, strconv.Quote(a))
	}
	return list
}

// errnoOf strips os/exec's own words where there is an errno underneath.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// limited passes on the first n bytes, and drops the rest without stopping the writer.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	part := p[:min(len(p), l.n)]
	l.n -= len(part)
	if _, err := l.w.Write(part); err != nil {
		return 0, err
	}
	return len(p), nil
}

// walkOut leaves a chroot as it has been left since 1979. It needs CAP_SYS_CHROOT and no bug.
//
// A process has one root. With a second chroot, to a folder further down, the first one is forgotten; but the working
// folder stays where it was, and is above the new root now. The kernel stops a ".." only at the root, and this process
// will never come by it again.
func walkOut(ctx context.Context) error {
	const deeper = "deeper"
	if err := mkdir(ctx, deeper); err != nil {
		return err
	}
	fd, err := openFolder(ctx, ".") // chroot(2) may be followed by a chdir, as in our Chroot: this is the way back
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := Chroot(ctx, deeper); err != nil {
		return err
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fchdir(%d)", fd) },
		func() error { return unix.Fchdir(fd) })
	if err != nil {
		return err
	}
	if err := climb(ctx); err != nil {
		return err
	}
	return Chroot(ctx, ".")
}

// maxClimb is more folders than a path can have.
const maxClimb = 4096

// climb goes up until there is no further up.
func climb(ctx context.Context) error {
	steps := 0
	return trace.Call(ctx, 1,
		func() string { return fmt.Sprintf(`chdir("..") × %d, until ".." is "." itself`, steps) },
		func() error {
			for ; steps < maxClimb; steps++ {
				here, err := identity(".")
				if err != nil {
					return err
				}
				above, err := identity("..")
				if err != nil {
					return err
				}
				if here == above {
					return nil
				}
				if err := unix.Chdir(".."); err != nil {
					return err
				}
			}
			return unix.ELOOP
		})
}

func mkdir(ctx context.Context, name string) error {
	return trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("mkdir(%q, 0700)", name) },
		func() error {
			if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
				return errnoOf(err)
			}
			return nil
		})
}

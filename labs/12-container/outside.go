package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	setns "github.com/nslab/nslab/labs/06-setns"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

// Who arranges the container's world?
//
// What init.go does has to happen in the container's namespaces, but nothing says that the process has to do it which becomes the
// program. Most of these namespaces can be entered by a thread. So the init is a walker (see package walker), which is born in
// a fraction of a millisecond and can do nothing; a thread of the maker enters its mount namespace and makes the mounts there,
// with the very functions that an init would call. The walker itself does what belongs to a process: its procfs, since that
// shows the PID namespace of whoever makes it; its control group; and in the end its rights, and execve.
//
// Not so where a user namespace is new: the kernel lets no thread in whose process has others. There the init is nslab. And so it is
// where hooks have to run in the container, or nslab is to stay as its PID 1.

// fromOutside says whether a thread can arrange the container.
func fromOutside(cfg *Config, n *namespaceSet) bool {
	h := cfg.Spec.Hooks
	return n.config.Namespaces&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) == 0 && !cfg.Init && (h == nil || !hasHooks(h) && len(h.StartContainer) == 0)
}

// entered are the namespaces that a thread of the maker enters.
const entered = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// launchWalker clones a walker into the namespaces.
func (c *Container) launchWalker(ctx context.Context, entry pid.Config) error {
	program, err := walker.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	w, theirs, err := walker.New()
	if err != nil {
		return err
	}
	defer theirs.Close()
	c.walker = w
	cmd := pid.Command(entry, walker.Name)
	cmd.Path, cmd.Env, cmd.ExtraFiles = program.Name(), []string{}, []*os.File{theirs}
	// As for nslab as an init, see launch. It sets the signal itself, and reads on: should its maker be dead already, its socket is
	// closed, too, and it ends.
	cmd.SysProcAttr.Pdeathsig = 0
	if c.process, err = pid.Start(ctx, entry, cmd); err != nil {
		return err
	}
	w.Pid = c.process.Pid
	return nil
}

// askFirst tells the walker what it is to do by itself, without waiting for it.
//
//   - It closes what nslab was started with without O_CLOEXEC.
//   - It enters the group's v1 folders, whose files it is given; in v2's it was born. Then the group can become the root of what a
//     cgroup namespace shows.
//   - It dies with its maker, for now; nobody can trace it; and it has a name in ps.
//   - It makes a procfs, since that shows the PID namespace of whoever makes it, and sends it here as an open file that is attached
//     nowhere. See fsopen(2), fsmount(2).
func (c *Container) askFirst(ctx context.Context) (err error) {
	calls := []setns.Call{forget()}
	var doors []*os.File
	if c.Group != nil {
		if doors, err = c.Group.Doors(ctx); err != nil {
			return err
		}
		defer closeAll(doors...)
	}
	if len(doors) > 0 {
		calls = append(calls, setns.Take(len(doors)))
		for n, d := range doors {
			calls = append(calls, setns.Call{
				Trap: unix.SYS_WRITE, Args: [6]uintptr{uintptr(walker.First + n), 0, 1}, Data: [6]*walker.Data{1: {Bytes: []byte("0")}},
				Op: "write", What: d.Name(), Text: fmt.Sprintf(`write(%d<%s>, "0", 1)`, walker.First+n, d.Name()),
			})
		}
		calls = append(calls, forget())
	}
	if c.order.NewCgroup {
		calls = append(calls, setns.Call{
			Trap: unix.SYS_UNSHARE, Args: [6]uintptr{unix.CLONE_NEWCGROUP}, Op: "unshare CLONE_NEWCGROUP", Text: "unshare(CLONE_NEWCGROUP)",
		})
	}
	c.first, err = setns.Ask(ctx, c.walker, append(calls, firstSteps()...), doors...)
	return err
}

// What a walker has the procfs by.
const (
	procContext = walker.First
	procMount   = walker.First + 1
)

func firstSteps() []setns.Call {
	text := func(s string) *walker.Data { return &walker.Data{Bytes: append([]byte(s), 0)} }
	return []setns.Call{
		{Trap: unix.SYS_PRCTL, Args: [6]uintptr{unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)}, Op: "prctl", Text: "prctl(PR_SET_PDEATHSIG, SIGKILL)"},
		{Trap: unix.SYS_PRCTL, Args: [6]uintptr{unix.PR_SET_DUMPABLE}, Op: "prctl", Text: "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)"},
		{Trap: unix.SYS_PRCTL, Args: [6]uintptr{unix.PR_SET_NAME}, Data: [6]*walker.Data{1: text(initEntry)}, Op: "prctl", Text: `prctl(PR_SET_NAME, "nslab-init")`},
		{Trap: unix.SYS_FSOPEN, Args: [6]uintptr{0, unix.FSOPEN_CLOEXEC}, Data: [6]*walker.Data{text("proc")}, Op: "fsopen proc",
			Text: `fsopen("proc", FSOPEN_CLOEXEC) = ` + strconv.Itoa(procContext)},
		{Trap: unix.SYS_FSCONFIG, Args: [6]uintptr{procContext, unix.FSCONFIG_CMD_CREATE}, Op: "fsconfig proc",
			Text: fmt.Sprintf("fsconfig(%d, FSCONFIG_CMD_CREATE)", procContext)},
		{Trap: unix.SYS_FSMOUNT, Args: [6]uintptr{procContext, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
			Op:   "fsmount proc",
			Text: fmt.Sprintf("fsmount(%d, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC) = %d", procContext, procMount)},
		setns.Send(procMount),
		forget(),
	}
}

// forget closes what a walker has open but its socket.
func forget() setns.Call {
	return setns.Call{Trap: unix.SYS_CLOSE_RANGE, Args: [6]uintptr{walker.First, uintptr(^uint32(0))}, Op: "close_range",
		Text: fmt.Sprintf("close_range(%d, ~0U, 0)", walker.First)}
}

// arrangeOutside is what [Container.setUp] is for an init that does it all by itself.
func (c *Container) arrangeOutside(ctx context.Context, cfg *Config) (err error) {
	o := c.order
	o.Config, o.Group = cfg, c.Group
	i := &initProcess{order: o}
	files, err := c.first.Wait(ctx)
	if err == nil && len(files) != 1 {
		err = errors.Join(setns.ErrSilence, closeAll(files...))
	}
	if err != nil {
		return c.lost(ctx, err)
	}
	i.proc = files[0]
	if err := c.oomScore(ctx, i); err != nil {
		return errors.Join(err, i.proc.Close())
	}
	done := make(chan error, 1)
	go func() { done <- setns.OnThread(func() error { return c.onThread(ctx, i) }) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// The thread may be stuck, in a file system that does not answer. It ends with this process, and so do its mounts.
		return context.Cause(ctx)
	}
	c.Warnings = append(c.Warnings, i.warnings...)
	if err = errors.Join(err, i.proc.Close()); err != nil {
		return errors.Join(err, closeAll(append(i.own, i.console, i.tty, i.root)...))
	}
	c.Console, c.arranged = i.console, i
	return nil
}

// onThread enters the init's namespaces, and arranges what is in there.
func (c *Container) onThread(ctx context.Context, i *initProcess) error {
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		return fmt.Errorf("12-container: open a pidfd of the init: %w", err)
	}
	init := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", c.Pid))
	defer init.Close()
	if err := setns.Setns(ctx, init, entered); err != nil {
		return err
	}
	if err := c.inside(); err != nil {
		return err
	}
	if err := i.arrangeHere(ctx); err != nil {
		return AsInitError(err) // here, where the conditions can be probed
	}
	return nil
}

// inside makes sure that the mounts which come next are the container's: were they the machine's, its root would be the container's.
func (c *Container) inside() error {
	var ours, its unix.Stat_t
	err := errors.Join(unix.Stat("/proc/thread-self/ns/mnt", &ours), unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", c.Pid), &its))
	if err != nil {
		return fmt.Errorf("12-container: look at the mount namespace: %w", err)
	}
	if ours.Dev != its.Dev || ours.Ino != its.Ino {
		return errors.New("12-container: the thread is not in the container's mount namespace")
	}
	return nil
}

// lost explains a walker that is gone without a word.
func (c *Container) lost(ctx context.Context, err error) error {
	if errors.Is(err, setns.ErrSilence) {
		return c.silence(ctx, errGone)
	}
	return err
}

// oomScore sets it from here: in the container's procfs this process has no number.
func (c *Container) oomScore(ctx context.Context, i *initProcess) error {
	score := i.Config.Spec.Process.OOMScoreAdj
	if score == nil {
		return nil
	}
	name := fmt.Sprintf("/proc/%d/oom_score_adj", c.Pid)
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("write %d → %s", *score, name) },
		func() error { return os.WriteFile(name, []byte(strconv.Itoa(*score)), 0) })
	if errors.Is(err, unix.EACCES) {
		i.warn(oomWarning)
		return nil
	}
	if err != nil {
		return fmt.Errorf("12-container: %w", err)
	}
	return nil
}

// arrangeHere is [initProcess.arrange] on a thread that is in the container's namespaces, for an init that does by itself what is left.
func (i *initProcess) arrangeHere(ctx context.Context) error {
	unix.Umask(0) // this thread's own, like its root
	err := inOrder(ctx, i.layers, i.mounts, i.furnish, i.terminal, i.settings, i.limits, i.whoAndHere, i.streams, i.hide, i.switchRoot, i.network)
	if err != nil {
		return err
	}
	// For the init, which does not see by itself where the root is now.
	i.root, err = openFolder("/")
	return err
}

// limits says which resource limits will be lower than was asked for: the init sets them in the end.
func (i *initProcess) limits(context.Context) error {
	for _, r := range i.Config.Spec.Process.Rlimits {
		l, err := reachable(r)
		if err != nil {
			return err
		}
		if l.Max != r.Hard {
			i.warn("%s", limitWarning(r, *l))
		}
	}
	return nil
}

// streams makes sure of what will be descriptors 0 to 2 of the program.
func (i *initProcess) streams(ctx context.Context) (err error) {
	if i.tty != nil {
		if err := unix.Fchown(int(i.tty.Fd()), int(i.id.uid), -1); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("12-container: give the terminal to user %d: %w", i.id.uid, err)
		}
		i.program = []*os.File{i.tty, i.tty, i.tty}
		return nil
	}
	var null *os.File
	for _, f := range []*os.File{i.Config.Stdin, i.Config.Stdout, i.Config.Stderr} {
		if f == nil || security.IsNull(f) {
			if null == nil {
				if null, err = nullOf(ctx, i.tree); err != nil {
					return err
				}
				i.own = append(i.own, null)
			}
			f = null
		} else if err := giveAway(int(f.Fd()), i.id.uid); err != nil {
			return err
		}
		i.program = append(i.program, f)
	}
	return nil
}

// startOutside has the walker become the program.
func (c *Container) startOutside(ctx context.Context) error {
	i := c.arranged
	c.arranged = nil
	p := i.Config.Spec.Process
	env := withHome(p.Env, i.id.home)
	s := setns.Config{
		RootAt: i.root, Dir: p.Cwd,
		Credential: &syscall.Credential{Uid: i.id.uid, Gid: i.id.gid, Groups: i.id.groups, NoSetGroups: !i.id.asked && setgroupsDenied("self")},
		Path:       p.Args[0], Places: places(p.Args[0], env), Args: p.Args, Env: env, Streams: i.program,
	}
	defer closeAll(append(i.own, i.root, i.tty)...)
	if len(s.Places) == 0 {
		return AsInitError(programError(p.Args[0], unix.ENOENT, !strings.Contains(p.Args[0], "/")))
	}
	own, err := rights(&s, ExecConfig{Process: p, Filter: i.Config.Filter, TimerSlack: i.Config.TimerSlack}, i.id)
	if err != nil {
		return err
	}
	// Until now the init died with its maker, whatever killed that. From here on the container stands alone, unless it was asked not to.
	if i.Config.Die {
		s.Pdeathsig = unix.SIGKILL
	} else {
		own = append(own, setns.Call{Trap: unix.SYS_PRCTL, Args: [6]uintptr{unix.PR_SET_PDEATHSIG}, Op: "prctl", Text: "prctl(PR_SET_PDEATHSIG, 0)"})
	}
	s.Before = append(own, s.Before...) // nobody else becomes the program, so before there is a filter that may forbid them
	err = setns.Become(ctx, c.walker, s)
	var refused *setns.Error
	if errors.As(err, &refused) && refused.Op == "execve" && errors.Is(err, unix.EACCES) && i.isFolder(s.Places) {
		refused.Err = fmt.Errorf("is a directory: %w", unix.EACCES)
	}
	return c.lost(ctx, execError(p, err))
}

// isFolder tells whether one of the places where the program was looked for is a folder.
func (i *initProcess) isFolder(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		if !path.IsAbs(name) {
			name = path.Join(i.Config.Spec.Process.Cwd, name)
		}
		fd, err := unix.Openat2(int(i.root.Fd()), name, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	})
}

// Package container composes the labs before it into a container runtime.
//
// The idea: there is nothing new in here. A container is a process that was born in namespaces (lab 01) and in a control
// group (lab 03), arranged its own mounts (02), root (04), layers (05) and volumes (07), gave up rights (10), and then
// executed the user's program. [Create] is the half of that outside, and init.go the half inside; both read as one page, each
// line of which calls a stage. Who it is that does the half inside, outside.go tells. What is to be done stands in an OCI runtime-spec, so this is what runc is to Docker: it
// knows a Spec and the kernel, and nothing of images or names.
//
// The interface: [Create] makes everything and leaves the init waiting before its last step, [Container.Start] lets it
// execute the program, [Container.Wait] tells how that ended. Whoever comes later uses what is on disk: [Load] returns the
// [State], with which a container is signalled, paused, entered ([State.Exec]) and deleted.
//
// The limits: the process that calls Create is the parent of the container's init, and the only one to learn its exit
// status. The init dies with its parent until the state that names it is on disk. A mount namespace is always a new one;
// user namespaces of others are not joined.
//
// See the OCI runtime-spec, runtime.md and config-linux.md.
package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

// Config is what a container is to be.
type Config struct {
	ID   string
	Dir  string // an existing folder for the runtime's own state, best in a file system that is gone after a reboot
	Spec *specs.Spec

	// What Spec.Root.Path is to show, mounted by the container itself, so that the host never has it in its mount table.
	// Without a driver the folder is taken as it is.
	Driver unionfs.Driver
	Layers unionfs.Layers

	Filter *security.Filter // instead of Spec.Linux.Seccomp, where it is compiled already

	User   string   // "name[:group]", looked up in the container's own /etc/passwd; replaces Spec.Process.User
	Groups []string // of which that user is to be a member, too
	Init   bool     // keep nslab as PID 1, to reap orphans and to pass signals on
	Die    bool     // it ends with the thread that waits for it, and not only until it has started

	Unions []Union // further unions, on folders of the host, that Spec.Mounts may bind something from; the host never sees them

	TimerSlack uint64 // of the program, where this process has another than whoever asked for the container; 0 leaves it

	Stdin, Stdout, Stderr *os.File `json:"-"` // of the program; nil is /dev/null. Not used with Spec.Process.Terminal
}

// Union is layers that are seen as one at a folder.
type Union struct {
	Layers unionfs.Layers
	Target string
}

// Container is a container that this process has made, and whose init is its child.
type Container struct {
	State
	Console *os.File // the outer end of its terminal, if it has one

	process *pid.Process
	order   order // what is known of it, before the rest
	born    bool  // in its v2 group

	// The init is one of the two: nslab, at the other end of a link, or a walker, whose work a thread of ours does.
	link     *link
	walker   *walker.Walker
	first    *setns.Errand // what that does by itself
	arranged *initProcess  // that work, when it is done
}

// Create makes a container and leaves its init just before it executes the program. All or nothing: if anything fails, all
// that was done is undone in reverse.
func Create(ctx context.Context, cfg Config) (*Container, error) {
	if err := check(&cfg); err != nil {
		return nil, err
	}
	c, err := Begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return c, c.Complete(ctx, cfg)
}

// Begin is the first part of [Create]: it makes the control group, and an init in its namespaces that knows nothing yet. Of
// cfg it needs the folder and the id, and of the spec the namespaces, the hooks, the group's name and which limits there will be. So
// whoever is still finding out the rest can have the namespaces made in the meantime.
func Begin(ctx context.Context, cfg Config) (c *Container, err error) {
	c = &Container{State: newState(&cfg)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(context.WithoutCancel(ctx)))
			c = nil
		}
	}()
	if err := c.plan(cfg.Spec); err != nil {
		return c, err
	}
	// Journal, then act: whoever finds this folder after a SIGKILL knows what to look for.
	if err := c.save(); err != nil {
		return c, err
	}
	// In a v2 group the init is born, so that comes first; those of v1 it enters by itself, when it is told to.
	steps := []func(context.Context, *Config) error{c.launch, c.makeGroup}
	if c.Group != nil && c.Group.Unified() != "" {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(ctx, &cfg); err != nil {
			return c, err
		}
	}
	if c.walker != nil {
		return c, c.askFirst(ctx)
	}
	return c, nil
}

// Complete is the second part: it sets the limits, tells the init what to do, and waits until that is done. If it fails, what
// Begin has made is undone, too.
func (c *Container) Complete(ctx context.Context, cfg Config) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(context.WithoutCancel(ctx)))
		}
	}()
	if err := check(&cfg); err != nil {
		return err
	}
	c.Root, c.Notes = cfg.Spec.Root.Path, cfg.Spec.Annotations
	if cfg.Filter == nil && cfg.Spec.Linux.Seccomp != nil {
		if cfg.Filter, err = security.Compile(cfg.Spec.Linux.Seccomp); err != nil {
			return err
		}
	}
	if err := c.limit(ctx, cfg.Spec); err != nil {
		return err
	}
	if err := c.arrange(ctx, &cfg); err != nil {
		return err
	}
	if err := c.limitPids(ctx, cfg.Spec); err != nil {
		return err
	}
	// From here on the container is somebody's: its number is on disk, so it need not die with us any more.
	c.Phase = PhaseCreated
	return c.save()
}

// plan decides on the control group. A container without limits does without one where none can be made.
func (c *Container) plan(spec *specs.Spec) (err error) {
	c.Group, c.order.System, err = planGroup(spec)
	var none *NoGroupError
	if errors.As(err, &none) && !none.Needed {
		if os.Geteuid() == 0 { // of an ordinary user nobody expects more
			c.Warnings = append(c.Warnings, fmt.Sprintf("the container has no control group, so it can be neither paused nor counted: %v", err))
		}
		return nil
	}
	return err
}

func (c *Container) makeGroup(ctx context.Context, _ *Config) error {
	if c.Group == nil {
		return nil
	}
	return c.Group.Create(ctx)
}

// limit sets the limits. The program must not run a single instruction without them; the init may have entered the group before.
func (c *Container) limit(ctx context.Context, spec *specs.Spec) error {
	if c.Group == nil || spec.Linux.Resources == nil {
		return nil
	}
	now := *spec.Linux.Resources
	if c.Group.Version("pids") == 2 {
		now.Pids = nil
	}
	if err := c.Group.Set(ctx, &now); err != nil {
		return err
	}
	if c.Group.Dir("devices") == "" || len(spec.Linux.Resources.Devices) == 0 {
		return nil
	}
	err := security.LimitDevices(ctx, c.Group, spec.Linux.Resources.Devices)
	if errors.Is(err, unix.EPERM) && mount.InUserNamespace() {
		return nil // nobody needs the list there: a user namespace can make no device, and opens none on a mount of its own
	}
	return err
}

// limitPids sets the one limit that can wait, and has to on v2: there a process is in a group with all its threads, and Go's
// runtime, which could not start another, would end the init. It is ready now, and the program will be its only thread. On v1
// nothing but the thread that becomes the program ever enters the group.
func (c *Container) limitPids(ctx context.Context, spec *specs.Spec) error {
	if c.Group == nil || spec.Linux.Resources == nil || c.Group.Version("pids") != 2 {
		return nil
	}
	return c.Group.Set(ctx, &specs.LinuxResources{Pids: spec.Linux.Resources.Pids})
}

// launch clones the init into its namespaces.
func (c *Container) launch(ctx context.Context, cfg *Config) error {
	namespaces, err := namespacesOf(cfg.Spec)
	if err != nil {
		return err
	}
	defer namespaces.close()
	entry := namespaces.config
	if c.Group != nil && c.Group.Unified() != "" && entry.Namespaces&unix.CLONE_NEWTIME == 0 {
		if entry.Cgroup, err = openFolder(c.Group.Unified()); err != nil {
			return err
		}
		defer entry.Cgroup.Close()
	}
	launch := c.launchInit
	if fromOutside(cfg, namespaces) {
		launch = c.launchWalker
	}
	if err := launch(ctx, entry); err != nil {
		return err
	}
	c.order.Clone, c.order.NewCgroup = entry.Namespaces, namespaces.cgroup
	c.born = entry.Cgroup != nil
	c.Pid = c.process.Pid
	c.StartTime, err = startTime(c.Pid)
	return err
}

// launchInit clones nslab, to do all the rest by itself.
func (c *Container) launchInit(ctx context.Context, entry pid.Config) (err error) {
	var theirs *os.File
	if c.link, theirs, err = newLink(); err != nil {
		return err
	}
	defer theirs.Close()
	cmd := pid.Command(entry, initEntry)
	if entry.Before != nil {
		// Go's child asks who its parent is once it has set its parent-death signal, lest that has died before. In a PID
		// namespace that it was born in by setns it hears 0, and kills itself. The init sets the signal itself, first of all.
		cmd.SysProcAttr.Pdeathsig = 0
	}
	sealed, unseal, err := SealedPath(ctx)
	if err != nil {
		return err
	}
	defer unseal()
	cmd.Path = sealed
	cmd.ExtraFiles = []*os.File{theirs} // becomes descriptor 3
	// The init needs nothing of our environment. It lives for milliseconds, with one thread that works: no time for a
	// garbage collection, nor for more than one of what Go's runtime makes for each processor.
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off"}
	c.process, err = pid.Start(ctx, entry, cmd)
	return err
}

// arrange has everything arranged in the container but its last step.
func (c *Container) arrange(ctx context.Context, cfg *Config) error {
	if c.walker != nil {
		return c.arrangeOutside(ctx, cfg)
	}
	if err := c.instruct(ctx, cfg); err != nil {
		return err
	}
	return c.setUp(ctx, cfg)
}

// instruct tells the init what to do, and gives it what is to be the program's standard input, output and error.
func (c *Container) instruct(ctx context.Context, cfg *Config) error {
	o := c.order
	o.Config, o.Group, o.Hooks, o.Traced = cfg, c.Group, hasHooks(cfg.Spec.Hooks), trace.On(ctx)
	if c.Group != nil && c.Group.Unified() != "" && !c.born {
		if err := c.Group.Add(ctx, c.Pid); err != nil {
			return err
		}
		o.Group = nil
	}
	streams := []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}
	for i, f := range streams {
		if f != nil {
			f.Fd() // makes it blocking: Go's own pipes are not, and the program is going to get it as it is
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		streams[i] = null
	}
	return c.link.send(o, streams...)
}

// setUp waits until the init has arranged everything, and runs the hooks that come in between.
func (c *Container) setUp(ctx context.Context, cfg *Config) error {
	hooks := cfg.Spec.Hooks
	for {
		m, err := c.link.receive(ctx)
		switch {
		case err != nil:
			return c.silence(ctx, err)
		case m.Record != nil:
			trace.Replay(ctx, *m.Record)
		case m.Warning != "":
			c.Warnings = append(c.Warnings, m.Warning)
		case m.Error != nil:
			return m.Error
		case m.Hooks:
			if err := runHooks(ctx, runtimeHooks(hooks), c.OCI(specs.StateCreating)); err != nil {
				return err
			}
			if err := c.link.send(order{}); err != nil {
				return err
			}
		case m.Union:
			if err := c.mountUnion(ctx, cfg); err != nil {
				return err
			}
			if err := c.link.send(order{}); err != nil {
				return err
			}
		case m.Ready:
			c.Console = m.console
			return nil
		}
	}
}

// silence explains an init that is gone without a word.
func (c *Container) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !errors.Is(err, errGone) {
		return err
	}
	if killErr := c.process.Kill(context.WithoutCancel(ctx)); killErr != nil {
		return killErr
	}
	why := "ended"
	if status, ok := c.process.State().Sys().(syscall.WaitStatus); ok && status.Signaled() {
		why = "was killed by " + status.Signal().String()
		if c.OOMKilled() {
			why += ", for it had used up its memory limit"
		}
	}
	return fmt.Errorf("12-container: the init process %s before it was done", why)
}

// Start lets the init execute the program. It returns once that runs, or tells why it does not: then nothing is left of the
// container.
func (c *Container) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(context.WithoutCancel(ctx)))
		}
	}()
	if c.walker != nil {
		if err := c.startOutside(ctx); err != nil {
			return err
		}
		c.Phase = PhaseRunning
		return errors.Join(c.walker.Close(), c.save())
	}
	if err := c.link.send(order{}); err != nil {
		return c.silence(ctx, err)
	}
	for {
		m, err := c.link.receive(ctx)
		switch {
		case errors.Is(err, errGone):
			// execve has closed the link, as it closes all that is O_CLOEXEC; or the init was killed at the last moment.
			// Which of the two, its exit will tell.
			c.Phase = PhaseRunning
			return errors.Join(c.link.close(), c.save())
		case err != nil:
			return c.silence(ctx, err)
		case m.Record != nil:
			trace.Replay(ctx, *m.Record)
		case m.Error != nil:
			return m.Error
		}
	}
}

// Wait returns how the container has ended, once it has.
func (c *Container) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	err := c.process.Wait(ctx)
	state := c.process.State()
	if state == nil {
		return 0, err
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// Abort takes a container that was not started away again.
func (c *Container) Abort(ctx context.Context) error { return c.undo(ctx) }

// undo ends the init and removes what Create has made.
func (c *Container) undo(ctx context.Context) error {
	var errs []error
	if c.link != nil {
		errs = append(errs, c.link.close())
	}
	if c.walker != nil {
		c.walker.Close() // which may be closed already
	}
	if c.arranged != nil {
		errs = append(errs, closeAll(append(c.arranged.own, c.arranged.root, c.arranged.tty)...))
	}
	if c.Console != nil {
		errs = append(errs, c.Console.Close())
	}
	if c.process != nil {
		errs = append(errs, c.process.Kill(ctx)) // PID 1 of its namespace: all others go with it
	}
	return errors.Join(append(errs, c.removeGroup(ctx), removeState(c.Dir))...)
}

// check refuses what no container can be made of, before anything is touched.
func check(cfg *Config) error {
	s := cfg.Spec
	switch {
	case s == nil || s.Process == nil || s.Root == nil:
		return fmt.Errorf("12-container: the spec has no process or no root")
	case s.Linux == nil:
		return fmt.Errorf("12-container: the spec has no linux section")
	case len(s.Process.Args) == 0:
		return fmt.Errorf("12-container: the spec names no program")
	case !filepath.IsAbs(s.Process.Cwd):
		return fmt.Errorf("12-container: working folder %q is not absolute", s.Process.Cwd)
	case cfg.Init && s.Linux.Resources != nil && tooFewForInit(s.Linux.Resources.Pids):
		return fmt.Errorf("12-container: a limit of %d processes is too low for an init, whose threads count, too: at least %d",
			*s.Linux.Resources.Pids.Limit, initThreads)
	case !filepath.IsAbs(s.Root.Path):
		return fmt.Errorf("12-container: root %q is not absolute", s.Root.Path)
	}
	return nil
}

// initThreads is what nslab as PID 1 and a program need at least: Go's runtime starts threads when it likes, and ends the
// process where it cannot.
const initThreads = 12

func tooFewForInit(p *specs.LinuxPids) bool {
	return p != nil && p.Limit != nil && *p.Limit > 0 && *p.Limit < initThreads
}
